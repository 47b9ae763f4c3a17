"""Write docs/configuration.md from the configuration classes: every value, its default and what it is for.

python docs/configuration.py             # write the page
python docs/configuration.py --check     # status 1 if it is not current
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import tokenize
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from aloha_kit.config import bc, denoising, ibc, keypoints, policies, rig, task, to_mapping, training

PAGE = Path(__file__).with_suffix(".md")
WIDTH = 130

HEAD = """# Configuration
Written by `python docs/configuration.py` from the classes of `aloha_kit/config`; a test compares it with them.

Each section is a kind of YAML file, or a part of one. Each value of a policy or training file is also a flag of
`python -m aloha_kit.train`. A key that does not exist is an error that names the nearest one.
"""

SECTIONS: tuple[tuple[str, str, type], ...] = (
    ("Task", "`configs/tasks/NAME.yaml`, or a path given to `--task`.", task.TaskConfig),
    ("Robot", "`configs/rigs/NAME.yaml`, or a path given to `--rig` or as a task's `rig`.", rig.RigConfig),
    ("Camera of a robot", "A value of `cameras`, under the camera's name.", rig.CameraConfig),
    ("View of a simulated camera", "`view` of a camera.", rig.ViewConfig),
    ("Arm of a robot", "A value of `followers` or `leaders`, under `left`, `right` or another name.", rig.ArmConfig),
    ("Mobile base", "`base` of a robot.", rig.BaseConfig),
    ("Sensor", "A value of `sensors` of a robot, under the sensor's name.", rig.SensorConfig),
    ("Emergency stop", "`estop` of a robot.", rig.EStopConfig),
    ("Soft sync", "`sync` of a robot.", rig.SyncConfig),
    (
        "Every policy",
        "`configs/policies/NAME.yaml`, or a path given to `--policy`; `kind` names its class.",
        policies.PolicyConfig,
    ),
    ("ACT", "`kind: act`: the values of every policy, and these.", policies.ActConfig),
    ("CNNMLP", "`kind: cnnmlp`: the values of every policy, and these.", policies.CnnMlpConfig),
    ("Policies over keypoints", "The values of every policy, and these.", keypoints.KeypointConfig),
    ("Behaviour cloning", "`kind: bc`: the values of policies over keypoints, and these.", bc.BcConfig),
    ("Implicit behavioural cloning", "`kind: ibc`: the values of policies over keypoints, and these.", ibc.IbcConfig),
    ("Denoising policies", "The values of policies over keypoints, and these.", denoising.DenoisingConfig),
    ("Diffusion", "`kind: diffusion`: the values of denoising policies, and these.", denoising.DiffusionConfig),
    ("Flow matching", "`kind: flow`: the values of denoising policies, and these.", denoising.FlowConfig),
    ("Two-step regression", "`kind: mip`: the values of denoising policies, and these.", denoising.MipConfig),
    ("Training", "`configs/training/NAME.yaml`, or a path given to `--recipe`.", training.TrainConfig),
)


def page() -> str:
    """The page as it should be."""
    return "\n".join([HEAD, *(section(*each) for each in SECTIONS)])


def section(title: str, place: str, kind: type) -> str:
    """One class: its first sentence, and an item a value that it has of its own."""
    about = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    words = descriptions(kind)
    values = [field for field in dataclasses.fields(kind) if field.name in words and field.metadata.get("key", True)]
    return "\n".join([f"## {title}", wrapped(f"{about} {place}"), "", *(item(f, words[f.name]) for f in values), ""])


def item(field: dataclasses.Field[Any], about: str) -> str:
    """A value's name, default, choices and meaning."""
    about_it = [shown(default(field)) if has_default(field) else "needed"]
    if str(field.type).startswith("Literal["):
        about_it.append("one of " + re.sub("[\"']", "`", str(field.type)[len("Literal[") : -1]))
    return wrapped(f"`{field.name}` ({'; '.join(about_it)}): {about}", "- ")


def wrapped(text: str, bullet: str = "") -> str:
    """Lines of at most `WIDTH` characters."""
    indent = " " * len(bullet)
    return textwrap.fill(
        text, WIDTH, initial_indent=bullet, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a value may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def default(field: dataclasses.Field[Any]) -> Any:
    """What a value is when it is left out."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def shown(value: Any) -> str:
    """A default as YAML, on one line."""
    plain = to_mapping(value) if dataclasses.is_dataclass(value) else list(value) if isinstance(value, tuple) else value
    if value in ("", None) or plain in ([], {}):
        return "none"
    if dataclasses.is_dataclass(value):
        return "its defaults"
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix('...').strip()}`".replace(
        "\n...", ""
    )


def descriptions(kind: type) -> dict[str, str]:
    """{value: text} of the values that a class declares itself: the docstring below, or the comment beside."""
    source = textwrap.dedent(inspect.getsource(kind))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        text = comments.get(node.end_lineno or 0, "")
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value)).replace("\n", " ")
        found[node.target.id] = text
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"{PAGE} is not current: python docs/configuration.py" if PAGE.read_text("utf-8") != page() else 0)
    PAGE.write_text(page(), encoding="utf-8")

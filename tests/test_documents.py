"""The documents: their commands parse, their links lead somewhere, both languages agree, lines and tables are short."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import runpy
import shlex
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import setuptools
from PIL import Image

from aloha_kit.core import AlohaKitError
from aloha_kit.media.mp4 import Mp4Writer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")] if path.name != "CHANGELOG.md")
OURS = [path for path in DOCUMENTS if path.parent in (ROOT, ROOT / "docs")]
PAIRS = [path for path in DOCUMENTS if path.with_suffix(".zh-CN.md").exists()]
WIDEST, LONGEST_CELL = 140, 60  # characters, words
README = (ROOT / "README.md").read_text(encoding="utf-8")


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(text: str) -> list[str]:
    """What stands in fenced blocks."""
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """What stands outside of fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Code within lines; a span may run over a line's end."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def plain(line: str) -> str:
    """A line of a block without its comment."""
    return re.sub(r"\s+#.*$|^#.*$", "", line).rstrip()


@named(PAIRS)
def test_both_languages_agree(path: Path) -> None:
    english, chinese = (file.read_text(encoding="utf-8") for file in (path, path.with_suffix(".zh-CN.md")))
    levels = [re.findall(r"^#+(?= )", prose(text), re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    code = [[plain(line) for block in blocks(text) for line in block.splitlines()] for text in (english, chinese)]
    assert code[0] == code[1]
    assert Counter(spans(english)) == Counter(spans(chinese))
    figures = [Counter(re.findall(r"\d+(?:[.,:]\d+)*", without_code(text))) for text in (english, chinese)]
    assert figures[0] == figures[1]
    rows = [len(re.findall(r"^\|", text, re.MULTILINE)) for text in (english, chinese)]
    assert rows[0] == rows[1]
    assert pages(english) == pages(chinese)


@named(PAIRS)
def test_documents_link_to_their_own_language(path: Path) -> None:
    """But for the first link, which leads to the other language."""
    for file, other in ((path, ".zh-CN.md"), (path.with_suffix(".zh-CN.md"), ".md")):
        links = re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", file.read_text(encoding="utf-8"))
        assert links[0] == path.with_suffix(other).name
        if other == ".md":
            there = [link for link in links[1:] if not link.endswith(".zh-CN.md")]
            assert [link for link in there if (path.parent / link).with_suffix(".zh-CN.md").exists()] == []
        else:
            assert [link for link in links[1:] if link.endswith(".zh-CN.md")] == []


def without_code(text: str) -> str:
    """Prose and headings, without code and the targets of links."""
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]+`", "", prose(text)))


def pages(text: str) -> Counter[str]:
    """Documents that are linked, whichever their language."""
    linked = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    return Counter(re.sub(r"(\.zh-CN)?\.md$", "", target) for target in linked)


@named(OURS)
def test_lines_and_cells_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{i}: {line}" for i, line in enumerate(lines, 1) if len(line) > WIDEST] == []
    cells = [cell for line in lines if line.startswith("|") for cell in line.split("|")]
    assert [cell for cell in cells if len(cell.split()) >= LONGEST_CELL] == []


@named(DOCUMENTS)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(file: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", prose(file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


OWN = re.compile(r"-m aloha_kit\.|^aloha-|^roslaunch .*aloha_kit|^make |^pip install -e|^python (?:benchmarks|docs)/")


def commands(path: Path) -> Iterator[tuple[str, bool]]:
    """Commands of this repository in a document: lines of blocks, and code within lines, which may be a part."""
    text = path.read_text(encoding="utf-8")
    lines = [plain(line) for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    for line, whole in [*((line, True) for line in lines), *((span, False) for span in spans(text))]:
        command = re.sub(r"^(?:\w+\$\s+)?(?:\w+=\S*\s+)*", "", line.strip())
        if OWN.search(command):
            yield command, whole


@named(DOCUMENTS)
def test_commands_parse(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for command, whole in dict.fromkeys(commands(path)):
        try:
            check(shlex.split(command))
        except (AlohaKitError, AssertionError, OSError, ValueError) as error:
            if whole or " is missing: " not in str(error):
                wrong[command] = str(error)
    assert wrong == {}


def check(words: list[str]) -> None:
    """Raise an error where a command of this repository would refuse its arguments."""
    program, *rest = [place(word, before) for word, before in zip(words, ["", *words], strict=False)]
    rest = [word for word in rest if word]
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in rest if "=" not in word and word not in targets]
    elif program == "pip":
        unknown = sorted(set(re.findall(r"\[(.*)\]", rest[-1])[0].split(",")) - extras())
    elif program == "roslaunch":
        unknown = roslaunch([word for word in rest if not word.startswith("--")])
    elif "-m" in rest:
        _, name, *flags = rest[rest.index("-m") :]
        unknown = parse(name, flags)
    elif rest and rest[0].endswith(".py"):
        source = (ROOT / rest[0]).read_text(encoding="utf-8")
        unknown = [word for word in rest if word.startswith("--") and not re.search(rf"\b{word[2:]}\b", source)]
    else:
        unknown = parse(program.replace("aloha-", "aloha_kit."), rest)
    assert not unknown, f"unknown: {' '.join(unknown)}"


def place(word: str, before: str) -> str:
    """A word of a command, with a value where it leaves one out: `--task …`, `--delay_steps N`; empty for `…` alone."""
    if word == "…" and not before.startswith("--"):
        return ""
    return "1" if word == "N" else word.replace("…", "x")


def parse(name: str, flags: list[str]) -> list[str]:
    """Parse flags by the command's own parser; a run and a YAML file of one's own are not there."""
    assert importlib.util.find_spec(name) is not None, f"no {name}"
    if flags and "--help" not in flags and "--resume" not in flags:
        pairs = zip(["", *flags], flags, strict=False)
        given = ["act_cpu" if flag == "--policy" and word.endswith(".yaml") else word for flag, word in pairs]
        importlib.import_module(f"{name}.args").parse(given)
    return []


def roslaunch(words: list[str]) -> list[str]:
    """Arguments that a launch file does not declare; `flags` go through the parser of the command that they are for."""
    if len(words) < 2 or words[1] == "FILE":
        return []
    _, file, *given = words
    tree = xml.etree.ElementTree.parse(ROOT / "launch" / file)
    declared = {argument.attrib["name"] for argument in tree.getroot().findall("arg")}
    values = dict(word.split(":=", 1) for word in given)
    if "flags" in values:
        ckpt = ["--ckpt", "x"] if file == "deploy.launch" else []
        parse(f"aloha_kit.{Path(file).stem}", ["--task", "x", *ckpt, *shlex.split(values["flags"])])
    return sorted(values.keys() - declared)


def extras() -> set[str]:
    """Names of the package's extras."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return set(given["extras_require"])


SMALLER = {
    "record": "--num_episodes 2",
    "train": "--num_steps 4 --batch_size 4 --val_batches 1",
    "eval": "--num_rollouts 2 --episode_len 30",
    "deploy": "--num_rollouts 1 --episode_len 30",
    "replay": "--no_video --no_rrd",
}


def test_the_cpu_path_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (section,) = [part for part in README.split("\n## ") if part.startswith("Step by step on a CPU")]
    _, *lines = [plain(line) for line in blocks(section)[0].splitlines()]
    for line in lines:
        _, _, name, *flags = line.split()
        command = name.removeprefix("aloha_kit.")
        run = importlib.import_module(f"{name}.__main__").main
        run([*flags, *SMALLER.get(command, "").split()])
    assert len(list((tmp_path / "data" / "sim_transfer_cube").glob("episode_*.hdf5"))) == 2
    (report,) = (tmp_path / "runs" / "sim_transfer_cube" / "act_cpu" / "eval").glob("*/eval.json")
    assert len(json.loads(report.read_text())["checkpoints"][0]["rollouts"]) == 2
    assert (tmp_path / "first" / "diagnose.json").exists()
    assert (tmp_path / "data" / "sim_transfer_cube" / "replay" / "episode_0_joints.png").exists()


def test_messages_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "when_it_fails.md").read_text(encoding="utf-8"), re.M)
    texts = [text for file in (ROOT / "aloha_kit").rglob("*.py") for text in literals(file)]
    wrong = []
    for row in rows:
        parts = [re.escape(part.strip()) for part in row.split("…") if part.strip(" :;,'")]
        if not any(re.search(".*?".join(parts), text, re.DOTALL) for text in texts):
            wrong.append(row)
    assert len(rows) > 40
    assert wrong == []


def test_the_architecture_names_what_there_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (packages,) = re.findall(r"^## Packages.*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    rows, (applications,) = (
        re.findall(r"^\| `(\w+)` \|", packages, re.M),
        re.findall(r"applications are (.*?)\.", packages, re.DOTALL),
    )
    here = {
        path.stem
        for path in (ROOT / "aloha_kit").iterdir()
        if not path.name.startswith("_") and path.name != "py.typed"
    }
    assert sorted([*rows, *re.findall(r"`(\w+)`", applications)]) == sorted(here)
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "aloha_kit").rglob("*.py"))
    for span in spans(text):
        if re.fullmatch(r"[\w/.]+\.py", span):
            assert any((ROOT / "aloha_kit").rglob(span)) or (ROOT / span).exists(), span
        elif re.fullmatch(r"[A-Z]\w+|[a-z]+_[a-z_]+", span):
            assert re.search(rf"\b{span}\b", source), span


def test_the_configuration_page_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "configuration.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "python docs/configuration.py writes it"
    teleop = "`teleop` (`software`; one of `software`, `hardware`, `mouse`): "
    for text in ("`episode_len` (`500`): actions in an", teleop):
        assert text in made["page"]()


def test_the_animation_is_every_tenth_frame_of_a_video(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "video.mp4", 50.0) as video:
        for step in range(21):
            frame = np.repeat(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], 90, axis=0).repeat(3, axis=2)
            frame[: 4 * step] = 255  # a bar that grows by 4 of 90 rows a frame
            video.add(frame)
    runpy.run_path(str(ROOT / "docs" / "animation.py"))["write"](tmp_path / "video.mp4", tmp_path / "made.gif")
    with Image.open(tmp_path / "made.gif") as made:
        assert (made.n_frames, made.size) == (3, (800, 360))
        made.seek(1)
        white = (np.asarray(made.convert("L"))[:, 100] > 200).mean()
        assert white == pytest.approx(40 / 90, abs=0.02)
    assert (ROOT / "docs" / "episode.gif").stat().st_size < 1e6


def literals(file: Path) -> Iterator[str]:
    """The texts in a module, with … for what is filled in."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value

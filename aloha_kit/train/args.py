"""Arguments of training: one flat list of flags over a policy's and a training file's values.

Light on purpose: neither torch nor the data is loaded before the flags are known to be right.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast, ClassVar, Generic, Literal, TypeVar

from tyro.conf import arg, OmitArgPrefixes, Suppress

from aloha_kit.config import find, from_mapping, load, names, TaskConfig, to_mapping
from aloha_kit.config.load import read
from aloha_kit.config.policies import load_policy, policy_from_mapping, PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import cli, ConfigError, UsageError
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import Message
from aloha_kit.core.run_log import SNAPSHOT
from aloha_kit.core.value_checks import at_least
from aloha_kit.train.launch import launched

PUBLISHED = {"act": "act_reference", "cnnmlp": "cnnmlp_reference"}
"""Files with the values of ACT's repository, which its own flag --policy_class stands for."""

NetworkT = TypeVar("NetworkT")


@dataclass(frozen=True, kw_only=True)
class TrainArgs(CommandArgs, Generic[NetworkT]):
    """Train a policy on recorded episodes.

    A policy is a file of values, configs/policies/NAME.yaml; where configs/training/NAME.yaml exists it goes with it.
    Every value below is a flag. ACT's own command line trains what it trains there: --policy_class ACT is its network,
    sampling and schedule as published.
    """

    EXAMPLE: ClassVar[str] = "--task sim_transfer_cube --policy act_cpu"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "task",
        "policy",
        "dataset_dir",
        "ckpt_dir",
        "resume",
        "cameras",
        "num_steps",
        "batch_size",
        "lr",
        "chunk_size",
        "eval_every",
        "seed",
        "device",
    )

    task: Annotated[str, arg(aliases=("--task_name",))] = ""
    """Task name or YAML path: where the episodes are, which cameras are read, and what rollouts run."""
    policy: Annotated[str, arg(aliases=("--policy_class",))] = "act"
    """Policy: a name in configs/policies (act, act_cpu, act_reference, cnnmlp, ...) or a YAML path."""
    recipe: str | None = None
    """Training values: a name in configs/training or a YAML path; the policy's name when there is such a file."""
    dataset_dir: Annotated[tuple[str, ...] | None, arg(metavar="DIR [DIR ...]")] = None
    """Folders of episodes (or files), in place of the task's."""
    weights: Annotated[tuple[float, ...], arg(metavar="WEIGHT ...")] = ()
    """How often samples are of each folder of --dataset_dir, such as 3 1; by default as often as it has steps."""
    format: str = "auto"
    """Format of the episodes: hdf5, pusht, pusht_keypoints, robomimic, or a class of your own as
    my_package.module:Name. auto: robomimic for one file of its layout (FILE:KEY for a filter key), else hdf5."""
    contract: str | None = None
    """Names, units and rate of the vectors, for files that do not hold them: a YAML file, as `aloha_kit.episode adopt`
    writes it; by default contract.yaml beside them."""
    rig: str | None = None
    """The rig (name or YAML) that such files were recorded on, in place of --contract."""
    jpeg_order: Literal["mobile_aloha", "standard"] | None = None
    """The order of red and blue in encoded images of files that do not hold it: standard, as viewers read them, or
    mobile_aloha, exchanged, as the ALOHA family's recorders write them (assumed)."""
    ckpt_dir: str | None = None
    """Folder of this run; runs/TASK/POLICY when not given."""
    resume: Annotated[str | None, arg(aliases=("--resume_ckpt_path",))] = None
    """A run's folder, or one of its checkpoints, to resume; its values are kept unless given anew."""
    cameras: Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]")] = None
    """Cameras to use, in place of the task's."""
    rename: Annotated[tuple[str, ...], arg(metavar="POLICY=EPISODES ...")] = ()
    """Cameras that have another name in the policy than in the episodes, such as top=cam_high."""
    num_episodes: int | None = None
    """Use only so many episodes, the first ones."""
    preflight: bool = True
    """Check the data for mistakes that give no error before training; --no_preflight skips it."""
    preflight_only: bool = False
    """Check the data and do not train."""
    debug: bool = False
    """Run the whole training in under a minute to find mistakes: few episodes, steps and rollouts, small images, in a
    run folder of its own; what it changes is reported."""
    allow_external: bool = False
    """Also read episodes whose data lie outside their files (external links and storage, virtual data sets)."""
    eval: bool = False
    """Roll out the policy of --ckpt_dir in place of training (ACT's flag): what `aloha_kit.deploy` does."""
    onscreen_render: bool = False
    """With --eval, show the rollouts live (`aloha_kit.deploy --view`)."""
    training: OmitArgPrefixes[TrainConfig]
    network: OmitArgPrefixes[NetworkT]
    words: Suppress[tuple[str, ...]] = ()
    """The flags as they were given, for the run's log."""

    def __post_init__(self) -> None:
        at_least(1, num_episodes=self.num_episodes)
        if self.weights and len(self.weights) != len(self.dataset_dir or ()):
            raise ValueError(
                Message(
                    "--weights gives one number for each folder of --dataset_dir, given {weights} for {folders}",
                    weights=len(self.weights),
                    folders=len(self.dataset_dir or ()),
                )
            )
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise ValueError(
                Message(
                    "--weights must be above 0, given {names}", names=" ".join(f"{each:g}" for each in self.weights)
                )
            )
        if self.onscreen_render and not self.eval:
            raise ValueError(Message("--onscreen_render is for --eval: a training writes its rollouts as videos"))


def parse(argv: Sequence[str] | None = None) -> TrainArgs[PolicyConfig]:
    """Parse the flags of training.

    Raises:
        UsageError: wrong flags.
        ConfigError: an unknown policy, task, file or run.
    """
    with launched().rank0_only():
        return _parse(sys.argv[1:] if argv is None else argv)


def _parse(argv: Sequence[str]) -> TrainArgs[PolicyConfig]:
    words = [_normalised(word) for word in argv]
    pairs = pairwise([*words, "--"])  # a flag without a value is followed by the next flag, or by the end
    given = ["--amp=bf16" if word == "--amp" and after.startswith("--") else word for word, after in pairs]
    resumed = _value(given, "--resume", "--resume_ckpt_path")
    default = None if resumed is None else read_snapshot(run_folder(Path(resumed)))
    given = _published(given, "" if default is None else default.policy)
    default = default or _fresh(given)
    if _value(given, "--num_steps") and not _value(given, "--num_epochs"):  # else the file's epochs would count
        default = dataclasses.replace(default, training=dataclasses.replace(default.training, num_epochs=None))
    # the class is only known once the policy's file was read
    generic: Any = TrainArgs
    parsed = cast(TrainArgs[PolicyConfig], cli.parse(generic[type(default.network)], "train", given, default=default))
    if resumed is not None:
        _require_same(default, parsed)
        if parsed.debug:
            raise UsageError("--debug makes a run of its own: leave --resume out")
    return dataclasses.replace(parsed, words=tuple(argv))


def run_folder(path: Path) -> Path:
    """The run that a path names: itself, or the one whose checkpoint it is.

    Raises:
        ConfigError: neither.
    """
    for candidate in (path, path.parent.parent):
        if (candidate / SNAPSHOT).is_file():
            return candidate
    raise ConfigError(
        "'{path}' is not a training run: it should hold {snapshot} and a folder checkpoints. Leave "
        "--resume out to start a new one",
        path=path,
        snapshot=SNAPSHOT,
    )


def require_unused(folder: Path) -> None:
    """Raise `ConfigError` if a run's folder is not empty: a run is never overwritten."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    advice = Message("choose another place with --ckpt_dir")
    if (folder / SNAPSHOT).is_file():
        with suppress(ConfigError):  # damaged, and so not to be resumed
            read_snapshot(folder)
            advice = Message(
                "go on with it by --resume {folder}, or choose another place with --ckpt_dir", folder=folder
            )
    raise ConfigError("'{folder}' is not empty; {advice}", folder=folder, advice=advice)


def to_snapshot(args: TrainArgs[PolicyConfig]) -> dict[str, Any]:
    """All values as a mapping for YAML; the inverse of `read_snapshot`."""
    values = to_mapping(dataclasses.replace(args, resume=None))
    for key in ("lang", "log_level", "debug", "eval", "onscreen_render", "words"):
        del values[key]
    values["network"] = {"kind": args.network.kind, **values["network"]}
    return values


def _fresh(given: Sequence[str]) -> TrainArgs[PolicyConfig]:
    policy = _value(given, "--policy", "--policy_class") or "act"
    if policy not in names("policies") and policy.lower() in names("policies"):
        policy = policy.lower()  # ACT, CNNMLP: classes in the reference, files here
    recipe = _value(given, "--recipe") or (Path(policy).stem if Path(policy).stem in names("training") else None)
    training = load(TrainConfig, "training", recipe) if recipe else TrainConfig()
    return TrainArgs(policy=policy, recipe=recipe, training=training, network=load_policy(policy))


def read_snapshot(run: Path) -> TrainArgs[PolicyConfig]:
    """Read the values that a run was started with.

    Raises:
        ConfigError: the file is damaged.
    """
    file = run / SNAPSHOT
    try:
        values = read(file)
        if values["training"].get("amp") is True:  # before there was fp16
            values["training"]["amp"] = "bf16"
        training = from_mapping(TrainConfig, values.pop("training"), where=f"{file}: training")
        network = policy_from_mapping(values.pop("network"), where=f"{file}: network")
        for key in ("cameras", "dataset_dir"):
            value = values.pop(key)  # dataset_dir was one folder once
            values[key] = None if value is None else (value,) if isinstance(value, str) else tuple(value)
        for key in ("rename", "weights"):
            values[key] = tuple(values.get(key) or ())
        return TrainArgs(**{**values, "ckpt_dir": str(run)}, training=training, network=network)
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "{file} is damaged, so its run cannot be resumed: {error}. Start a new run with another "
            "--ckpt_dir; policies in {run} can still be deployed",
            file=file,
            error=error,
            run=run / "checkpoints",
        ) from error


def _require_same(run: TrainArgs[PolicyConfig], given: TrainArgs[PolicyConfig]) -> None:
    """Raise `UsageError` if a flag that identifies a run was given another value."""
    for flag in ("task", "policy", "recipe", "ckpt_dir"):
        was, now = (str(getattr(args, flag) or "") for args in (run, given))
        alike = Path(was).resolve() == Path(now).resolve() or (flag == "policy" and was.lower() == now.lower())
        if not alike:
            raise UsageError(
                "--{flag} {now} does not go with --resume: that run has {flag} {was}. Leave --{flag} out, or "
                "start a new run without --resume",
                flag=flag,
                now=now,
                was=was or Message("(none)"),
            )


def task_of(args: TrainArgs[PolicyConfig]) -> TaskConfig | None:
    """The task's configuration; None when only a folder of episodes was given.

    Raises:
        ConfigError: an unknown task.
        UsageError: neither a task nor a folder of episodes.
    """
    if not args.task:
        if args.dataset_dir is None:
            raise UsageError(
                "no training data: give --task (known: {tasks}) or --dataset_dir", tasks=", ".join(names("tasks"))
            )
        return None
    find("tasks", args.task)
    return load(TaskConfig, "tasks", args.task)


def _published(given: Sequence[str], resumed: str) -> list[str]:
    """The words with `--policy act_reference` for ACT's `--policy_class ACT`, and for CNNMLP likewise.

    Args:
        resumed: policy of the run that is resumed; an older one was started with another meaning of the flag.
    """
    name = (_value(given, "--policy_class") or "").lower()
    policy = PUBLISHED.get(name)
    if policy is None or resumed.lower() == name or _value(given, "--policy"):
        return list(given)
    pairs = pairwise(["", *given])
    kept = [word for before, word in pairs if before != "--policy_class" and not word.startswith("--policy_class")]
    return [*kept, f"--policy={policy}"]


def _normalised(word: str) -> str:
    """A word with `_` for `-` in a flag's name, and ACT++'s `--no_amp` as `--amp=no`."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--"):
        return word
    flag = flag.replace("-", "_").replace("__", "--", 1)
    return "--amp=no" if flag == "--no_amp" else flag + equals + value


def _value(given: Sequence[str], *names: str) -> str | None:
    """The last value given to a flag under one of its names, as `--flag value` or `--flag=value`."""
    found = None
    for word, after in pairwise([*given, ""]):
        flag, equals, value = word.partition("=")
        if flag in names:
            found = value if equals else after
    return found or None

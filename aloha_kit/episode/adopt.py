"""Description of old episodes: writes a contract and a task beside them, from measured ranges, flags and prompts."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aloha_kit.config import load, RigConfig, TaskConfig, to_mapping
from aloha_kit.config.match_checkpoint import rig_joints
from aloha_kit.core import ConfigError, Contract, ContractError
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder, write_text
from aloha_kit.core.lang import marked, Message, shown, tr
from aloha_kit.episode.args import Adopt
from aloha_kit.episode.ranges import doubts, FULL_TURN, measure, Measured, METRES, OPENING
from aloha_kit.storage.contract_file import CONTRACT, UNKNOWN

_LOG = logging.getLogger(__name__)

TASK = "task.yaml"


def adopt(args: Adopt) -> None:
    """Measure the episodes, prompt on a terminal for what the flags leave open, and write both files.

    Raises:
        ConfigError: the files exist, or a flag is missing and there is no terminal to prompt on.
        EpisodeError, ContractError: see `measure` and `described`.
    """
    measured = measure(args.source)
    print(measured.text())
    folder = args.output or args.source
    present = [str(folder / name) for name in (CONTRACT, TASK) if (folder / name).exists()]
    if present and not args.overwrite:
        raise ConfigError("{present} exist already; --overwrite replaces them", present=" and ".join(present))
    answers = _completed(args, measured)
    contract = described(answers, measured)
    for doubt in doubts(contract, measured).values():
        _LOG.warning("%s", shown(doubt))
    make_folder(folder)
    _write(folder / CONTRACT, _ABOUT_CONTRACT, _contract_values(contract))
    _write(folder / TASK, _ABOUT_TASK, _task_values(answers, contract, measured))
    wrote = tr(
        "wrote {first} and {second}; the episodes are as they were. Next:",
        first=folder / CONTRACT,
        second=folder / TASK,
    )
    print(f"\n{wrote}")
    print("\n".join(_next(args.source, folder, measured)))
    print(tr("(on a GPU: --policy act)"))


def described(answers: Adopt, measured: Measured) -> Contract:
    """Contract described by the answers.

    Raises:
        ContractError: other numbers of names than the files have entries.
        ConfigError: an unknown rig, or a name that occurs twice.
    """
    state, whole = measured.state.shape[1], measured.action.shape[1]
    base = tuple(measured.assumed.action_names[whole - measured.base :])
    if answers.rig is not None:
        names, actions = rig_joints(load(RigConfig, "rigs", answers.rig))
    else:
        names = answers.names
        if len(names) < state and state % len(names) == 0:
            joints = state // len(names)
            names = tuple(
                f"{arm}_{f'joint_{i}' if i < joints - 1 else 'gripper'}" for arm in names for i in range(joints)
            )
        if not answers.action_names and len(names) + len(base) != whole:
            raise ContractError(
                "the files have {whole} entries of action and {state} of state: name the action's with --action_names",
                whole=whole,
                state=state,
            )
        actions = (*names, *base)
    actions = answers.action_names or actions
    for what, given, width in ((marked("state"), names, state), (marked("action"), actions, whole)):
        if len(given) != width:
            if answers.rig:
                source = Message(
                    "rig '{rig}' has {count} entries of {what}", rig=answers.rig, count=len(given), what=Message(what)
                )
            else:
                source = Message("given are {count} entries of {what}", count=len(given), what=Message(what))
            raise ContractError("{source}, the files have {width}", source=source, width=width)
        if len(set(given)) < len(given):
            raise ConfigError("a name stands twice for the {what}: {given}", what=Message(what), given=", ".join(given))
    units = {"joints": answers.joints_unit or "rad", "gripper": answers.gripper_unit or OPENING}
    contract = Contract.of(names, actions, measured.assumed.cameras, float(answers.rate_hz or 0), units)
    explicit = {"joints": answers.joints_unit, "gripper": answers.gripper_unit}
    for key, doubt in doubts(contract, measured).items():
        if explicit[key] is None:  # a rig's unit that the files contradict
            raise ContractError("{doubt}; give it with --{key}_unit", doubt=doubt, key=key)
    return contract


def _completed(given: Adopt, measured: Measured) -> Adopt:
    """The flags, completed by prompts on a terminal.

    Raises:
        ConfigError: there is no terminal; shows a command with all flags.
    """
    suggested = _suggestions(given, measured)
    open_ = [flag for flag in suggested if not getattr(given, flag)]
    if given.rig is not None:  # gives names and units
        open_ = [flag for flag in open_ if flag in ("rate_hz", "task")]
    if not open_:
        return given
    if sys.stdin is None or not sys.stdin.isatty():
        words = ["episode", "adopt", str(given.source)]
        for flag, value in suggested.items():
            if given.rig is None or flag in ("rate_hz", "task"):
                now = getattr(given, flag) or value
                words += [f"--{flag}", *(now if isinstance(now, tuple) else (str(now),))]
        words += ["--rig", given.rig] if given.rig else []
        raise ConfigError(
            "the files do not record {names}; give them (or --rig NAME), for example, if it is true: {command}",
            names=", ".join(f"--{flag}" for flag in open_),
            command=command(*words),
        )
    questions = {
        "names": Message("names of the state's entries, or one an arm, with spaces between"),
        "joints_unit": Message("unit of the joints (rad, deg, …)"),
        "gripper_unit": Message("unit of the grippers ({opening}; m; rad; …)", opening=OPENING),
        "rate_hz": Message("control rate in Hz"),
        "task": Message("name of the task"),
    }
    answers: dict[str, Any] = {}
    for flag in open_:
        value = suggested[flag]
        offered = " ".join(value) if isinstance(value, tuple) else str(value)
        try:
            answer = input(f"{shown(questions[flag])} [{offered}]: ").strip()
        except EOFError:
            raise ConfigError("no answer to: {question}; nothing was written", question=questions[flag]) from None
        answers[flag] = value if not answer else tuple(answer.split()) if flag == "names" else answer
    try:
        answers["rate_hz"] = float(answers.get("rate_hz", given.rate_hz or 0))
    except ValueError:
        raise ConfigError("a control rate is a number of Hz, given '{rate_hz}'", rate_hz=answers["rate_hz"]) from None
    return replace(given, **answers)


def _suggestions(given: Adopt, measured: Measured) -> dict[str, Any]:
    """Suggested values of the flags, from the layout and the measured ranges."""
    assumed, state = measured.assumed, measured.state.shape[1]
    known = assumed.units["joints"] != UNKNOWN
    widest = float(np.abs(measured.state).max())
    arms = ("left", "right") if state % 2 == 0 and state >= 10 else ("arm",)
    names = given.names or (assumed.state_names if known else arms)
    last = state // (len(names) if len(names) < state else 1) - 1
    high = float(max(measured.state[1, last], measured.action[1, min(last, measured.action.shape[1] - 1)]))
    return {
        "names": names,
        "joints_unit": "deg" if widest > FULL_TURN else "rad",
        "gripper_unit": "m" if high < METRES else OPENING,
        "rate_hz": assumed.rate_hz,
        "task": given.source.resolve().name or "task",
    }


def suggested_contract(place: Path, measured: Measured) -> str:
    """Text of a contract.yaml whose names and units follow from sizes and ranges: a person has to check them."""
    assumed, state = measured.assumed, measured.state.shape[1]
    named = assumed.state_names[0] not in ("joint_0", "state_0")
    given = Adopt(source=place, names=assumed.state_names if named else ())
    answers = replace(given, **_suggestions(given, measured))
    if named or state != measured.action.shape[1] - measured.base:
        answers = replace(answers, action_names=assumed.action_names)
    return _yaml(_contract_values(described(answers, measured)))


_ABOUT_CONTRACT = "What the vectors of the episodes in this folder mean; see docs/data_format.md of aloha_kit."
_ABOUT_TASK = "The task of these episodes, for --task."


def _contract_values(contract: Contract) -> dict[str, Any]:
    return {
        "state_names": list(contract.state_names),
        "action_names": list(contract.action_names),
        "units": contract.units,
        "rate_hz": contract.rate_hz,
        "cameras": {name: list(size) for name, size in contract.cameras.items()},
    }


def _task_values(answers: Adopt, contract: Contract, measured: Measured) -> dict[str, Any]:
    folder = str(answers.source.resolve()).replace("{", "{{").replace("}", "}}")  # the task's name would go in {task}
    task = TaskConfig(
        name=str(answers.task),
        instruction=answers.instruction or measured.instruction,
        rig=answers.rig or "none",
        episode_len=measured.steps,
        rate_hz=contract.rate_hz,
        cameras=tuple(contract.cameras),
        dataset_dir=folder,
    )
    return {key: value for key, value in to_mapping(task).items() if value not in (None, {}) and key != "scene"}


def _write(path: Path, about: str, values: dict[str, Any]) -> None:
    write_text(path, f"# {about}\n{_yaml(values)}")


def _yaml(values: dict[str, Any]) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110))


def _next(source: Path, folder: Path, measured: Measured) -> list[str]:
    """The next commands, ready to be typed."""
    elsewhere = [] if folder.resolve() == source.resolve() else ["--contract", str(folder / CONTRACT)]
    commands = (
        ["episode", "validate", str(source)],
        ["train", "--task", str(folder / TASK), "--policy", "act_cpu"],
        ["replay", str(measured.files[0])],
    )
    return [f"  {command(*words, *elsewhere)}" for words in commands]

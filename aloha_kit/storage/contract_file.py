"""Contracts of files without one of their own: from contract.yaml, from a flag, or assumed from the layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aloha_kit.config import from_mapping, load, RigConfig
from aloha_kit.config.load import read
from aloha_kit.config.match_checkpoint import rig_joints
from aloha_kit.core import ConfigError, Contract, ContractError, Feature, UsageError
from aloha_kit.core.contract import UNITS
from aloha_kit.core.errors import command
from aloha_kit.core.lang import joined, marked, Message
from aloha_kit.storage.codec import JpegOrder

CONTRACT = "contract.yaml"
"""The file beside old episodes that describes them; `episode adopt` writes it."""

UNKNOWN = "unknown"
"""The unit of entries without a description."""


@dataclass(frozen=True)
class ContractFlags:
    """Flags that describe the vectors and images of old episodes."""

    contract: Path | None = None
    """Names, units and rate of the vectors of files that do not record them: a YAML file, as `adopt` writes it; by
    default contract.yaml beside them."""
    rig: str | None = None
    """The rig (name or YAML) that such files are of, in place of --contract."""

    jpeg_order: JpegOrder | None = None
    """The order of red and blue in JPEG, PNG and WebP images of files that do not record it: standard, as any viewer
    shows them, or mobile_aloha, exchanged, as the ALOHA family's recorders write them (assumed)."""

    def __post_init__(self) -> None:
        _require_one(self.contract, self.rig)

    def load(self) -> Contract | None:
        """The contract that the flags give; None without flags. Errors as `given_contract`."""
        return given_contract(self.contract, self.rig)


@dataclass(frozen=True)
class _Described:
    """The keys of contract.yaml: what people write of the features, see `Contract.of`."""

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    rate_hz: float
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))
    sensors: tuple[Feature, ...] = ()


def given_contract(contract: str | Path | None, rig: str | None) -> Contract | None:
    """The contract in a YAML file, or a rig's with a rate of 0, which stands for the episode's own.

    Raises:
        UsageError: both are given.
        ConfigError: there is no such file or rig, or it is not a contract.
    """
    _require_one(contract, rig)
    if rig:
        return Contract.of(*rig_joints(load(RigConfig, "rigs", rig)), {}, rate_hz=0.0)
    return read_contract(Path(contract)) if contract else None


def _require_one(contract: str | Path | None, rig: str | None) -> None:
    if contract and rig:
        raise UsageError(
            "--contract {contract} and --rig {rig} both describe the joints; give one of them",
            contract=contract,
            rig=rig,
        )


def read_contract(path: Path) -> Contract:
    """The contract in a YAML file; its cameras may be left out.

    Raises:
        ConfigError: no such file, or it is not a contract; names the key.
    """
    if not path.is_file():
        raise ConfigError(
            "no contract '{path}'; `python -m aloha_kit.episode adopt DIR` writes one beside the episodes", path=path
        )
    values = {"cameras": {}, **read(path)}
    if not isinstance(values["cameras"], dict) or any(len(np.shape(size)) != 1 for size in values["cameras"].values()):
        raise ConfigError(
            "{path}: cameras must be like {{cam_high: [480, 640]}}, given {given}", path=path, given=values["cameras"]
        )
    described = from_mapping(_Described, values, where=str(path))
    for key in ("state_names", "action_names"):
        names = getattr(described, key)
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                "{path}: {key} must name every entry once, given: {names}",
                path=path,
                key=key,
                names=", ".join(names) or Message("(none)"),
            )
    if not 0 < described.rate_hz < float("inf"):
        raise ConfigError("{path}: rate_hz must be above 0, given {rate_hz:g}", path=path, rate_hz=described.rate_hz)
    return Contract.of(**vars(described))


def settle(
    path: Path,
    recorded: Contract | None,
    given: Contract | None,
    suggested: Callable[[], Contract],
    widths: tuple[int, int],
    in_file: Collection[str] = (),
    units: Mapping[str, str] = UNITS,
    *,
    adoptable: bool = False,
) -> tuple[Contract, str]:
    """Contract of a file, and a description of its assumed parts (empty where nothing is assumed).

    The file's own contract has priority, then the one given, then `contract.yaml` in its folder or the folder above.

    Args:
        recorded, given: the file's own contract and the user's, if any.
        suggested: gives what the file's layout suggests, with the cameras as they are in the file.
        widths: of the state and of the whole action, a base's included.
        in_file: the parts of the suggested contract that the file itself records: "joints", "rate".
        units: of the file's layout, see `Contract.of`.
        adoptable: `episode adopt` can describe such files, and the description of what is assumed names it.

    Raises:
        ContractError: the contract does not fit the file; lists how.
        ConfigError: `contract.yaml` is not a contract.
    """
    if recorded is not None:
        if given is not None:
            expected = replace(given, rate_hz=given.rate_hz or recorded.rate_hz).without_privileged()
            expected.require(recorded, mine="the contract given", theirs=f"the one in {path}")
        return recorded, ""
    described, source = given, "the contract given"
    for folder in (path.parent, path.parent.parent) if given is None else ():
        if (folder / CONTRACT).is_file():
            described, source = read_contract(folder / CONTRACT), str(folder / CONTRACT)
            break
    assumed = suggested()
    if described is None:
        return assumed, _assumption(path, assumed, in_file, adoptable)
    for key, names, width in zip(
        ("qpos", "action"), (described.state_names, described.action_names), widths, strict=True
    ):
        if len(names) != width:
            raise ContractError(
                "{source} names {count} entries of {key}, {path} has {width}. {remedy}",
                source=source,
                count=len(names),
                key=key,
                path=path,
                width=width,
                remedy=_remedy(path, adoptable),
            )
    for camera, size in described.cameras.items():
        if assumed.cameras.get(camera) != size:
            there = ", ".join(f"{name} {height}x{width}" for name, (height, width) in assumed.cameras.items())
            raise ContractError(
                "{source} has camera '{camera}' of {height}x{width}, {path} has: {there}",
                source=source,
                camera=camera,
                height=size[0],
                width=size[1],
                path=path,
                there=there or Message("(no cameras)"),
            )
    if described.rate_hz:
        return described.with_cameras(assumed.cameras), ""
    # joint names come from the rig; the contents of its recorder's files from their layout
    units = described.units if assumed.units["joints"] == UNKNOWN else units
    rate = "" if "rate" in in_file else f"the file does not record its rate: {assumed.rate_hz:g} Hz is assumed"
    return Contract.of(
        described.state_names, described.action_names, assumed.cameras, assumed.rate_hz, units, described.sensors
    ), rate


def neutral_contract(state: int, action: int, base: int, sizes: dict[str, tuple[int, int]], rate_hz: float) -> Contract:
    """Contract with numbered names for vectors of any width, their units unknown.

    Entries of state and action share their names (`joint_0`, …) where both have equally many. A base's two
    entries are its linear and angular velocity, three are vx, vy and wz.
    """
    alike = state == action
    states, actions = ("joint", "joint") if alike else ("state", "action")
    velocities = {2: ("base_linear", "base_angular"), 3: ("base_vx", "base_vy", "base_wz")}
    return Contract.of(
        tuple(f"{states}_{i}" for i in range(state)),
        (
            *(f"{actions}_{i}" for i in range(action)),
            *velocities.get(base, tuple(f"base_{i}" for i in range(base))),
        ),
        sizes,
        rate_hz,
        units={"joints": UNKNOWN, "gripper": UNKNOWN},
    )


def _assumption(path: Path, contract: Contract, in_file: Collection[str], adoptable: bool) -> Message:
    names, unit = contract.state_names, contract.units["joints"]
    guesses = {
        Message("joints"): f"{names[0]} … {names[-1]}",
        Message("units"): Message("unknown units") if unit == UNKNOWN else unit,
        Message("rate"): f"{contract.rate_hz:g} Hz",
    }
    missing = [key for key in guesses if key not in in_file]
    template = (
        marked("the file does not record its {missing}: {assumed} is assumed. {remedy}")
        if len(missing) == 1
        else marked("the file does not record its {missing}: {assumed} are assumed. {remedy}")
    )
    assumed = _listed([guesses[key] for key in missing])
    return Message(template, missing=_listed(missing), assumed=assumed, remedy=_remedy(path, adoptable))


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return Message("{others} and {last}", others=joined(others, ", "), last=last) if others else last


def _remedy(path: Path, adoptable: bool) -> Message:
    """How the files of a folder are described."""
    if not adoptable:
        return Message("Describe it with --contract FILE or --rig NAME")
    adopt = command("episode", "adopt", path.parent)
    return Message("Describe it with `{adopt}`, --contract FILE or --rig NAME", adopt=adopt)

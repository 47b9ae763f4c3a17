"""What moves the arms: a person, a script, a recording or a network, all behind two methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

Action: TypeAlias = npt.NDArray[np.float32]
"""(14,) normalised command: left arm 6 joints (rad), left gripper (0 closed, 1 open), right arm 6,
right gripper. With a mobile base (16,): the last two are linear (m/s) and angular (rad/s) velocity."""

Stamps: TypeAlias = dict[str, int]
"""Capture time of each stream in ns on the environment's clock; `deadline` is when the step was due,
`command` when the action that led here was sent (absent from a reset)."""

T = TypeVar("T")


class Observation(TypedDict, total=False):
    """One synchronised view of the rig. Vectors are ordered like `Action`; images are RGB.

    An environment gives every key its rig has; `qpos`, `images` and `stamps` are always there.
    `images` may decode an image when it is asked for, so take only those you need. Cameras that sent
    a JPEG have it in `images_jpeg` too: who stores images takes it from there, unchanged.
    """

    qpos: npt.NDArray[np.float32]  # (14,) rad, gripper normalised
    qvel: npt.NDArray[np.float32]  # (14,) rad/s, gripper normalised /s; if all drivers give it, as the next
    effort: npt.NDArray[np.float32]  # (14,) as the driver reports it: mA on Dynamixel, N m in simulation
    images: Mapping[str, npt.NDArray[np.uint8]]  # {camera: (H, W, 3)}
    images_jpeg: Mapping[str, bytes]  # {camera: an ordinary JPEG of the same image}, of some cameras or none
    images_depth: dict[str, npt.NDArray[np.uint16]]  # {camera: (H, W)} mm
    base_vel: npt.NDArray[np.float32]  # (2,) m/s, rad/s
    environment_state: npt.NDArray[np.float32]  # (E,) true object poses, simulation only
    sensors: Mapping[str, npt.NDArray[np.float32]]  # {sensor: (D,)} in the units that the contract says
    stamps: Stamps
    history: Sequence[Observation]  # the steps before, oldest first, for a policy that reads several (`n_obs_steps`)


class Policy(Protocol):
    """Chooses the next action. The same protocol serves people, scripts, recordings and networks."""

    def reset(self) -> None:
        """Forget the previous episode."""

    def act(self, observation: Observation) -> Action:
        """Return the command for the present step.

        Raises:
            StopEpisode: the episode is over (an operator's key, the end of a recording).
        """
        ...


class Subset(Mapping[str, T]):
    """Some entries of a mapping, in the order given; none is looked at (and so decoded) before it is asked for."""

    def __init__(self, whole: Mapping[str, T], names: Iterable[str]) -> None:
        self._whole, self._names = whole, tuple(names)

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._whole[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def value_of(observation: Mapping[str, Any], name: str) -> Any:
    """What a feature's name stands for: `qpos`, or `images/top` of a mapping in it; None where it is not there."""
    key, _, inner = name.partition("/")
    value = observation.get(key)
    return value if not inner or value is None else value.get(inner)


def flatten(observation: Observation) -> dict[str, Any]:
    """`{"qpos": …, "images/top": …}`: one level, the naming of an episode file, for specs and messages.

    `images_jpeg` is left out: it is `images` in another form.
    """
    flat: dict[str, Any] = {}
    for key, value in observation.items():
        if key == "images_jpeg":
            continue
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": item for name, item in value.items()})
        else:
            flat[key] = value
    return flat

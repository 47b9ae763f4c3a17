"""Features of an observation: their roles, their names, and the observation itself.

A role is one line of `ROLES`. Recording, episode files, statistics, training and messages follow from it, so a new role
is a line there, and a key of `Observation` where it has a vector of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.core.errors import ContractError, shown
from aloha_kit.core.lang import Message

STATE, ACTION, IMAGE, DEPTH, PRIVILEGED = "state", "action", "image", "depth", "privileged"
VELOCITY, EFFORT = "velocity", "effort"
IMAGES, DEPTHS, SENSORS = "images/", "images_depth/", "sensors/"  # before a camera's name, or a sensor's

_DTYPES = ("float32", "uint8", "uint16")

T = TypeVar("T")

Stamps: TypeAlias = dict[str, int]
"""Capture time of each stream in ns on the environment's clock; `deadline` is when the step was due,
`command` when the action that led here was sent (absent from a reset)."""


@dataclass(frozen=True)
class Role:
    """Role of features: where its vectors are stored, and which policies read them.

    Attributes:
        name: in a contract.
        vectors: names of its vectors in an observation, in messages and, under `/observations`, in an episode file.
            Features of other names are stored as `images/<camera>`, `images_depth/<camera>` or `sensors/<name>`.
        read: "always"; "listed" in a policy's `sensors`; "privileged", with `use_environment_state`; "depth", of the
            cameras in `depth_cameras`; or "never".
    """

    name: str
    vectors: tuple[str, ...] = ()
    read: Literal["always", "listed", "privileged", "depth", "never"] = "listed"


ROLES = {
    role.name: role
    for role in (
        Role(STATE, ("qpos",), read="always"),
        Role(ACTION, read="never"),
        Role(IMAGE, read="always"),
        Role(DEPTH, read="depth"),
        Role(VELOCITY, ("qvel", "base_vel")),
        Role(EFFORT, ("effort",)),
        Role(PRIVILEGED, ("environment_state",), read="privileged"),  # of a simulator only
    )
}
"""Roles with a rule of their own. Any other word is the role of a sensor, see `role_of`."""

VECTORS = tuple(vector for role in ROLES.values() for vector in role.vectors)
"""Names of an observation's vectors that are not under `sensors/`, in the order of files and messages."""


def role_of(name: str) -> Role:
    """Role by its name: of `ROLES`, or a sensor's, read by the policies that list the sensor."""
    return ROLES.get(name) or Role(name)


@dataclass(frozen=True)
class Feature:
    """One stream of an observation, or the action.

    Attributes:
        name: where it is in an observation and in an episode: `qpos`, `images/top`, `effort`, `sensors/left_wrench`.
        role: a name in `ROLES`, or any other word: the role of a sensor.
        shape: of one sample.
        dtype: numpy's name of it.
        entries: of a vector, their names in order.
        units: of each entry; of an image or depth one for all pixels.
        rate_hz: of its samples, where it is not the contract's.
        optional: a device may leave it out, so that a contract with it fits one without it.

    Raises:
        ContractError: entries, units and shape differ in number, or a size is none.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    entries: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    rate_hz: float | None = None
    optional: bool = False

    @property
    def privileged(self) -> bool:
        """Whether a policy reads it only with `use_environment_state`."""
        return role_of(self.role).read == "privileged"

    @classmethod
    def vector(
        cls, name: str, role: str, entries: Sequence[str], units: Sequence[str] | str, *, optional: bool = False
    ) -> Feature:
        """A float32 vector of named entries; `units` is one for all of them, or one each."""
        each = (units,) * len(entries) if isinstance(units, str) else tuple(units)
        return cls(name, role, (len(entries),), entries=tuple(entries), units=each, optional=optional)

    @classmethod
    def image(cls, camera: str, size: tuple[int, int]) -> Feature:
        """A camera's RGB images; `size` is (height, width) in pixels."""
        return cls(f"{IMAGES}{camera}", IMAGE, (*size, 3), "uint8")

    @classmethod
    def depth(cls, camera: str, size: tuple[int, int]) -> Feature:
        """A camera's depth in mm, 0 where nothing was measured; `size` is (height, width) in pixels."""
        return cls(f"{DEPTHS}{camera}", DEPTH, size, "uint16", units=("mm",), optional=True)

    @classmethod
    def from_json(cls, raw: Any) -> Feature:
        """Feature from its fields, as JSON has them; those with a default may be missing.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, or not of its type.
            ContractError: the fields do not fit one another.
        """
        if raw.get("dtype", "float32") not in _DTYPES:
            raise ValueError(
                Message(
                    "{dtype} is no type of a feature; there are: {known}",
                    dtype=shown(raw["dtype"]),
                    known=", ".join(_DTYPES),
                )
            )
        rate, (name, role) = raw.get("rate_hz"), texts_of([raw["name"], raw["role"]])
        return cls(
            name,
            role,
            tuple(raw["shape"]),
            raw.get("dtype", "float32"),
            texts_of(raw.get("entries", ())),
            texts_of(raw.get("units", ())),
            None if rate is None else rate_of(rate),
            raw.get("optional") is True,
        )

    def __post_init__(self) -> None:
        if wrong := [size for size in self.shape if type(size) is not int or not 0 <= size < 1 << 16]:
            raise ContractError("{wrong} is no size of '{name}'", wrong=shown(wrong[0]), name=self.name)
        if self.role == IMAGE and not (self.name.startswith(IMAGES) and self.shape[2:] == (3,) and min(self.shape)):
            raise ContractError(
                "an image is named {images}<camera> and has the shape (height, width, 3), given '{name}' of {shape}",
                images=IMAGES,
                name=self.name,
                shape=self.shape,
            )
        if self.entries and self.shape != (len(self.entries),):
            raise ContractError(
                "'{name}' names {count} entries and has shape {shape}",
                name=self.name,
                count=len(self.entries),
                shape=self.shape,
            )
        if self.entries and self.units and len(self.units) != len(self.entries):
            raise ContractError(
                "'{name}' has {count} entries and {units} units",
                name=self.name,
                count=len(self.entries),
                units=len(self.units),
            )


def texts_of(values: Any) -> tuple[str, ...]:
    """Texts of a list from JSON; ValueError for anything else."""
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ValueError(Message("{values} are no names", values=shown(values)))
    return tuple(values)


def rate_of(value: Any) -> float:
    """Rate in Hz from JSON, above 0; ValueError for anything else."""
    if isinstance(value, (str, bool)) or not 0 < float(value) < math.inf:
        raise ValueError(Message("{value} is no rate in Hz", value=shown(value)))
    return float(value)


def joint_sensors(names: Sequence[str], effort: Sequence[str] | str) -> tuple[Feature, ...]:
    """`qvel` and `effort` of joints: optional, since a driver may leave them out; `effort` is its unit, or one each."""
    speeds = ["1/s" if name.endswith("gripper") else "rad/s" for name in names]
    return (
        Feature.vector("qvel", VELOCITY, names, speeds, optional=True),
        Feature.vector("effort", EFFORT, names, effort, optional=True),
    )


def object_poses(names: Sequence[str]) -> tuple[Feature, ...]:
    """`environment_state`: true poses of a simulation's objects, entries `<object>_x` … `_qz`; none without objects."""
    units = ["m" if name.endswith(("_x", "_y", "_z")) else "1" for name in names]
    return (Feature.vector("environment_state", PRIVILEGED, names, units),) if names else ()


def vestibular() -> Feature:
    """`sensors/vestibular`: the senses of balance at one place of a body, in that place's axes.

    Angular velocity (`gyro`, rad/s), acceleration that an accelerometer measures, which is gravity's reaction at rest
    (`accelerometer`, m/s²), linear velocity (`velocimeter`, m/s) and the world's upward axis (`z_axis`, unit vector).
    """
    senses = {"gyro": "rad/s", "accelerometer": "m/s^2", "velocimeter": "m/s", "z_axis": "1"}
    entries = [f"{sense}_{axis}" for sense in senses for axis in "xyz"]
    return Feature.vector(
        f"{SENSORS}vestibular", "vestibular", entries, [senses[entry.rsplit("_", 1)[0]] for entry in entries]
    )


def target_vector() -> Feature:
    """`sensors/target`: the vector from what has to reach a target to the target, m; the environment names its axes."""
    return Feature.vector(f"{SENSORS}target", "target", ("target_x", "target_y", "target_z"), "m")


class Observation(TypedDict, total=False):
    """Synchronised observation of a robot. Vectors are ordered like `Action`; images are RGB.

    An environment gives every key that its robot has; `qpos`, `images` and `stamps` are always there.
    `images` may decode an image on access. Of cameras that send a JPEG, `images_jpeg` has it unchanged, for storage.
    """

    qpos: npt.NDArray[np.float32]  # (D,) in the contract's order, 14 on ALOHA: rad, gripper normalised
    qvel: npt.NDArray[np.float32]  # (D,) rad/s, gripper normalised /s; if all drivers give it, as the next
    effort: npt.NDArray[np.float32]  # (D,) in the driver's unit: mA on Dynamixel, N m in simulation
    images: Mapping[str, npt.NDArray[np.uint8]]  # {camera: (H, W, 3)}
    images_jpeg: Mapping[str, bytes]  # {camera: an ordinary JPEG of the same image}, of some cameras or none
    images_depth: Mapping[str, npt.NDArray[np.uint16]]  # {camera: (H, W)} mm, 0: not measured
    base_vel: npt.NDArray[np.float32]  # (2,) m/s, rad/s
    environment_state: npt.NDArray[np.float32]  # (E,) true object poses, simulation only
    sensors: Mapping[str, npt.NDArray[np.float32]]  # {sensor: (D,)} in the units of the contract
    stamps: Stamps
    history: Sequence[Observation]  # the steps before, oldest first, for a policy that reads several (`n_obs_steps`)


class Subset(Mapping[str, T]):
    """Some entries of a mapping, in the order given; each is read (and an image decoded) only on access."""

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
    """Value of a feature in an observation by its name, `qpos` or `images/top`; None where it is missing."""
    key, _, inner = name.partition("/")
    value = observation.get(key)
    return value if not inner or value is None else value.get(inner)


def flatten(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Observation as a flat mapping `{"qpos": …, "images/top": …}`, for specs and messages.

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

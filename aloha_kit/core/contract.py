"""Embodiment contract: the features of an observation and of the action, by name, role, shape and unit.

It is stored in every episode and every checkpoint. Deployment compares it with the robot's and names
each difference, because a policy that runs with swapped joints or cameras fails silently.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aloha_kit.core.errors import ContractError, reason, shown
from aloha_kit.core.features import (
    ACTION,
    DEPTH,
    DEPTHS,
    Feature,
    IMAGE,
    IMAGES,
    object_poses,
    rate_of,
    STATE,
    texts_of,
)
from aloha_kit.core.lang import joined, Message

UNITS = {"joints": "rad", "gripper": "0 closed, 1 open"}
"""Units of state and action where none are given."""

_BASE_UNITS = {"base_linear": "m/s", "base_vx": "m/s", "base_vy": "m/s", "base_angular": "rad/s", "base_wz": "rad/s"}
_POSES = "environment_state_names"  # JSON key of the object poses, from the time before features had roles


@dataclass(frozen=True)
class Contract:
    """Embodiment contract: the features that data, checkpoint and robot share, and the control rate in Hz.

    `features` begins with the state `qpos` and the `action`; images and sensors follow. Sensors are the others (true
    object poses, velocities, efforts, depth, force sensors); their names are those of `features.VECTORS`,
    `images_depth/<camera>` or `sensors/<name>`. The other properties are views of this list.

    Raises:
        ContractError: state and action do not come first, or two features have one name.
    """

    features: tuple[Feature, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        if [(f.name, f.role) for f in self.features[:2]] != [("qpos", STATE), ("action", ACTION)]:
            raise ContractError(
                "a contract's first features are the state 'qpos' and the action 'action', given: {names}",
                names=", ".join(f.name for f in self.features[:2]) or Message("(none)"),
            )
        names = [feature.name for feature in self.features]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ContractError("a contract has two features of the name '{twice}'", twice=twice[0])

    @classmethod
    def of(
        cls,
        state_names: Sequence[str],
        action_names: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        rate_hz: float,
        units: Mapping[str, str] = UNITS,
        sensors: Iterable[Feature] = (),
    ) -> Contract:
        """Contract of named entries and cameras.

        Args:
            state_names, action_names: of the entries, in order.
            cameras: {name: (height, width)} in pixels.
            rate_hz: control rate.
            units: of all `joints`, of each `gripper`, and of single entries by their names.
            sensors: the further features, described in full.
        """
        vectors = [
            Feature.vector(name, role, entries, [_unit(entry, units) for entry in entries])
            for name, role, entries in (("qpos", STATE, state_names), ("action", ACTION, action_names))
        ]
        return cls((*vectors, *map(Feature.image, cameras, cameras.values()), *sensors), rate_hz)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state's entries."""
        return self.features[0].entries

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's entries."""
        return self.features[1].entries

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """{name: (height, width)} of the cameras, in pixels."""
        return {f.name.removeprefix(IMAGES): (f.shape[0], f.shape[1]) for f in self.features if f.role == IMAGE}

    @property
    def depth_cameras(self) -> dict[str, tuple[int, int]]:
        """{name: (height, width)} of the cameras' depth, in pixels."""
        return {f.name.removeprefix(DEPTHS): (f.shape[0], f.shape[1]) for f in self.features if f.role == DEPTH}

    @property
    def sensors(self) -> tuple[Feature, ...]:
        """Features beside state, action and images."""
        return tuple(feature for feature in self.features[2:] if feature.role != IMAGE)

    @property
    def units(self) -> dict[str, str]:
        """Units of state and action as `of` takes them: of `joints`, of `gripper`, and of entries with another one."""
        each = dict.fromkeys((*self.state_names, *self.action_names), "")
        for feature in self.features[1::-1]:
            each |= zip(feature.entries, feature.units, strict=False)
        found: dict[str, str] = {}
        for entry in each:
            if entry not in _BASE_UNITS:
                found.setdefault("gripper" if "gripper" in entry else "joints", each[entry])
        return found | {entry: unit for entry, unit in each.items() if unit != _unit(entry, found)}

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """Inputs of a network with this contract: every feature but the action."""
        return tuple(feature for feature in self.features if feature.role != ACTION)

    @property
    def privileged(self) -> tuple[Feature, ...]:
        """The privileged features: those that a policy reads only with `use_environment_state`."""
        return tuple(sensor for sensor in self.sensors if sensor.privileged)

    def only(self, *roles: str) -> Contract:
        """Contract without the features of other roles; state and action always stay."""
        kept = tuple(feature for feature in self.features[2:] if feature.role in roles)
        return dataclasses.replace(self, features=self.features[:2] + kept)

    def without_privileged(self) -> Contract:
        """Contract without the privileged features."""
        return self.with_sensors(sensor for sensor in self.sensors if not sensor.privileged)

    def with_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> Contract:
        """Contract with these cameras, {name: (height, width)}, in their order, in place of its own."""
        images = {(image.name, image.shape): image for image in self.only(IMAGE).features[2:]}
        wanted = map(Feature.image, cameras, cameras.values())
        kept = [images.get((image.name, image.shape), image) for image in wanted]
        return dataclasses.replace(self, features=(*self.features[:2], *kept, *self.sensors))

    def with_sensors(self, sensors: Iterable[Feature]) -> Contract:
        """Contract with these features in place of those beside state, action and images."""
        return dataclasses.replace(self, features=(*self.features[:2], *self.only(IMAGE).features[2:], *sensors))

    def to_json(self) -> str:
        """One line of JSON, keys sorted: `features`, `rate_hz`, and the keys by which versions before them read it."""
        sensors = self.sensors
        poses = object_poses(sensors[0].entries) if sensors else ()
        if poses != sensors[:1]:
            poses = ()
        values = {
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "rate_hz": self.rate_hz,
            "state_names": self.state_names,
            "action_names": self.action_names,
            "cameras": self.cameras,
            "units": self.units,
            _POSES: poses[0].entries if poses else (),
            "sensors": [dataclasses.asdict(sensor) for sensor in sensors[len(poses) :]],
        }
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Contract from the text of `to_json`, or of a version that did not write `features`.

        Raises:
            ContractError: the text is not a contract; names the field that is missing or wrong.
        """
        try:
            raw = json.loads(text)
            if "features" in raw or "state_names" not in raw:
                contract = cls(tuple(map(Feature.from_json, raw["features"])), rate_of(raw["rate_hz"]))
                written = json.loads(contract.to_json())
                given = {**written, **raw, "features": written["features"]}
                if edited := [key for key in written if given[key] != written[key]]:
                    raise ContractError(
                        "'{edited}' of the contract does not agree with its features: edit both", edited=edited[0]
                    )
                return contract
            return cls.of(
                texts_of(raw["state_names"]),
                texts_of(raw["action_names"]),
                {name: (height, width) for name, (height, width) in raw["cameras"].items()},
                rate_of(raw["rate_hz"]),
                dict(zip(raw["units"], texts_of(list(raw["units"].values())), strict=True)),
                (*object_poses(texts_of(raw.get(_POSES, ()))), *map(Feature.from_json, raw.get("sensors", ()))),
            )
        except KeyError as error:
            raise ContractError(
                "not an embodiment contract, it lacks {error}: {text}", error=error, text=shown(text)
            ) from error
        except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ContractError(
                "not an embodiment contract ({error}): {text}", error=reason(error), text=shown(text)
            ) from error

    def differences(self, other: Contract) -> list[str]:
        """Differences of `other` (a robot's contract) from this one (a policy's), one line each.

        Cameras and sensors that only `other` has, and optional ones that it lacks, are not listed.
        """
        there = {feature.name: feature for feature in other.features}
        found = [line for mine in self.features if not mine.optional for line in _differences(mine, there)]
        if self.rate_hz != other.rate_hz:
            found.append(Message("rate: {mine:g} Hz against {theirs:g} Hz", mine=self.rate_hz, theirs=other.rate_hz))
        return list(dict.fromkeys(found))  # joints of state and action differ in their units alike

    def named_sensors(self, names: Sequence[str]) -> tuple[Feature, ...]:
        """Sensors that a policy lists, in the order of `names`; none of them is optional any more.

        Raises:
            ContractError: no such vector, or a privileged one; lists those that there are.
        """
        there = {s.name: s for s in self.sensors if len(s.shape) == 1 and not s.privileged}
        if missing := [name for name in names if name not in there]:
            raise ContractError(
                "the policy reads '{missing}', which is not there; sensors: {there}",
                missing=missing[0],
                there=", ".join(there) or Message("(none)"),
            )
        return tuple(dataclasses.replace(there[name], optional=False) for name in names)

    def named_depth(self, cameras: Iterable[str]) -> tuple[Feature, ...]:
        """Depth of the cameras that a policy lists, sorted by name; none of them is optional any more.

        Raises:
            ContractError: a camera without depth; lists those that have it.
        """
        there = self.depth_cameras
        if missing := sorted(set(cameras) - there.keys()):
            raise ContractError(
                "the policy reads the depth of camera '{missing}', which is not there; depth is of: {there}",
                missing=missing[0],
                there=", ".join(there) or Message("(no camera)"),
            )
        wanted = [Feature.depth(camera, there[camera]) for camera in sorted(cameras)]
        return tuple(dataclasses.replace(feature, optional=False) for feature in wanted)

    def renamed(self, names: Mapping[str, str]) -> Contract:
        """Contract with renamed cameras, {this contract's: the new one}; their order stays.

        Raises:
            ContractError: no such camera, or one name for two cameras.
        """
        there = ", ".join(self.cameras) or Message("(none)")
        for name, new in names.items():
            if name not in self.cameras:
                hint = Message("; did you mean {new}={name}?", new=new, name=name) if new in self.cameras else ""
                raise ContractError(
                    "cannot rename camera '{name}' to '{new}': there are: {there}{hint}",
                    name=name,
                    new=new,
                    there=there,
                    hint=hint,
                )
        if len({names.get(name, name) for name in self.cameras}) != len(self.cameras):
            raise ContractError(
                "cannot rename {names}: two cameras of {there} would have one name", names=dict(names), there=there
            )
        changed = {f"{kind}{name}": f"{kind}{new}" for name, new in names.items() for kind in (IMAGES, DEPTHS)}
        features = tuple(dataclasses.replace(f, name=changed.get(f.name, f.name)) for f in self.features)
        return dataclasses.replace(self, features=features)

    def require(self, other: Contract, *, mine: str, theirs: str) -> None:
        """Require that there are no `differences`.

        Raises:
            ContractError: lists every difference; `mine` and `theirs` name the two sides.
        """
        found = self.differences(other)
        if found:
            lines = joined(found, "\n  ")
            raise ContractError("{mine} does not fit {theirs}:\n  {lines}", mine=mine, theirs=theirs, lines=lines)


def _unit(entry: str, units: Mapping[str, str]) -> str:
    """Unit of an entry of state or action in `units`, see `Contract.of`; empty where it is not known."""
    group = units.get("gripper" if "gripper" in entry else "joints", "")
    return units.get(entry) or _BASE_UNITS.get(entry) or group


def _differences(mine: Feature, there: Mapping[str, Feature]) -> list[str]:
    """Differences of the feature of one name in `there` from `mine`; an unknown unit of mine fits every other."""
    camera = mine.name.removeprefix(IMAGES) if mine.role == IMAGE else ""
    label: str = Message("{role} '{name}'", role=mine.role, name=mine.name)
    if mine.role in (STATE, ACTION):
        label = mine.role
    elif camera:
        label = Message("camera '{name}'", name=camera)
    theirs = there.get(mine.name)
    if theirs is None:
        alike = [f.name.removeprefix(IMAGES) for f in (*there.values(),)[2:] if (f.role == IMAGE) == bool(camera)]
        names = ", ".join(alike) or Message("(none)")
        return [Message("{label} is missing; there are: {there}", label=label, there=names)]
    if camera or not mine.entries:
        shapes = (
            f"{mine.shape[:2]} (height, width)" if camera else f"{mine.shape}",
            theirs.shape[: 2 if camera else None],
        )
        if mine.shape == theirs.shape:
            return []
        return [Message("{label}: {mine} against {theirs}", label=label, mine=shapes[0], theirs=shapes[1])]
    found: list[str] = []
    if len(mine.entries) != len(theirs.entries):
        found.append(
            Message(
                "{label}: {mine} entries against {theirs}",
                label=label,
                mine=len(mine.entries),
                theirs=len(theirs.entries),
            )
        )
    units: dict[tuple[str, str], list[str]] = {}  # {two units: the entries that have them}
    ours, others = (feature.units or ("",) * len(feature.entries) for feature in (mine, theirs))  # empty: not known
    each = zip(mine.entries, theirs.entries, ours, others, strict=False)
    for i, (a, b, unit, other) in enumerate(each):
        if a != b:
            found.append(Message("{label}[{i}]: '{mine}' against '{theirs}'", label=label, i=i, mine=a, theirs=b))
        elif unit and unit != other:
            units.setdefault((unit, other), []).append(a)
    for (unit, other), entries in units.items():
        names = ", ".join(entries[:3])
        if len(entries) > 3:
            names = Message("{names} and {more} more", names=names, more=len(entries) - 3)
        of = names if mine.role in (STATE, ACTION) else f"{label}, {names}"
        theirs_unit = other or Message("(none)")
        found.append(Message("unit of {key}: '{unit}' against '{other}'", key=of, unit=unit, other=theirs_unit))
    return found

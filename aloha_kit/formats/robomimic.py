"""robomimic's HDF5 data sets as a source: one file of demonstrations, of states alone or with images."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, did_you_mean, EpisodeError
from aloha_kit.core.robomimic import (
    contract,
    DEPTH_SUFFIX,
    IMAGE_SUFFIX,
    OBJECT_KEY,
    observation_keys,
    ROBOSUITE,
    STATE_KEYS,
)
from aloha_kit.core.source import Array, Depth, EpisodeData, EpisodeSource, Image
from aloha_kit.formats import is_robomimic, ReadOptions, split_filter_key
from aloha_kit.formats.missing_rows import no_depth, no_image
from aloha_kit.storage.hdf5 import damage_reported, datasets, reading, require_rows, require_table
from aloha_kit.storage.paths import identity_of


class RobomimicSource(EpisodeSource):
    """Demonstrations `data/demo_<i>` of one file, in the order of their numbers.

    `FILE:KEY` takes those that the file's filter key `mask/KEY` lists. Otherwise all are used, and `mask/valid` names
    the validation episodes.

    The state is `robot<i>_eef_pos`, `_eef_quat` and `_gripper_qpos` of every robot, `environment_state` is `object`,
    and the images are `<camera>_image`. The last row of `next_obs` follows those of `obs`. A file of
    `RobomimicExporter` has its contract, which tells what its observations are.

    Raises:
        EpisodeError: several places, no such file or filter key, or another layout; names what is missing.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("robomimic", "contract", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("a robomimic data set is one HDF5 file, given {count} places", count=len(places))
        self.place, key = split_filter_key(places[0])
        if not self.place.is_file():
            raise EpisodeError(
                "no file '{place}'; expected a robomimic data set such as low_dim_v15.hdf5", place=self.place
            )
        with damage_reported(self.place), reading(self.place) as file:
            if not is_robomimic(file):
                raise EpisodeError(
                    "{place} is no robomimic data set: it lacks data/demo_<i> or env_args of data", place=self.place
                )
            self.env_args = _env_args(file, self.place)
            self._demos = _demos(file, self.place, key)[: options.first]
            self.validation = () if key else tuple(name for name in _mask(file, "valid") if name in self._demos)
            written = file["data"].attrs.get("contract")
            self._contract = None if written is None else Contract.from_json(str(written))
            self.unused = self._not_read(file["data"][self._demos[0]].get("obs", {}))

    def __len__(self) -> int:
        return len(self._demos)

    def name(self, number: int) -> str:
        return self._demos[number]

    def identity(self, number: int) -> str:
        return f"{identity_of(self.place)}:{self._demos[number]}"

    def open(self, number: int) -> EpisodeData:
        name = self._demos[number]
        where = f"{self.place}: {name}"
        with damage_reported(where):
            file = h5py.File(self.place, "r")
            try:
                return self._episode(Demo(file, name, where))
            except BaseException:
                file.close()
                raise

    def _episode(self, demo: Demo) -> EpisodeData:
        if self._contract is not None:
            vectors = demo.vectors(self._contract)
            return self._data(demo, self._contract, demo.table("actions"), vectors.pop("qpos"), vectors)
        fingers, state = demo.state()
        objects = demo.observations(OBJECT_KEY) if OBJECT_KEY in demo.obs else np.zeros((len(state), 0), np.float32)
        action = demo.table("actions")
        found = contract(self.env_args, fingers, action.shape[1], objects.shape[1], demo.cameras)
        further = {"environment_state": objects} if objects.shape[1] else {}
        return self._data(demo, found, action, state, further)

    def _data(
        self, demo: Demo, found: Contract, action: Array, state: Array, further: Mapping[str, Array]
    ) -> EpisodeData:
        reward = demo.table("rewards", (1, 2)).reshape(-1) if "rewards" in demo.group else None
        kwargs = self.env_args.get("env_kwargs") or {}
        # of a shaped reward it is not known from which value on the task is done
        judged = reward is not None and self.env_args.get("type") == ROBOSUITE and not kwargs.get("reward_shaping")
        success = bool(np.any(reward > 0)) if judged else None  # type: ignore[operator]
        ours = demo.description
        return EpisodeData(
            demo.name,
            found,
            action,
            state,
            demo.image,
            layout="robomimic",
            id=str(ours.get("id", "")),
            reward=reward,
            success=ours.get("success", success),
            further_vectors=further,
            stamps=demo.stamps,
            attrs={
                "task": str(self.env_args.get("env_name", "")).lower(),
                "instruction": demo.instruction,
                **ours.get("attrs", {}),
            },
            describe=ours.get("describe", {}),
            resources=(demo.file,),
            read_depth=demo.depth if all(f"{name}{DEPTH_SUFFIX}" in demo.obs for name in found.depth_cameras) else None,
        )

    def _not_read(self, obs: Mapping[str, Any]) -> str:
        """Observations of the file that nothing here reads."""
        read = {f"{robot}_{key}" for robot in _robots(obs) for key in STATE_KEYS} | {OBJECT_KEY}
        if self._contract is not None:
            depth = {f"{camera}{DEPTH_SUFFIX}" for camera in self._contract.depth_cameras}
            read = {*observation_keys(self._contract), *depth}
        names = [name for name in obs if name not in read and not name.endswith(IMAGE_SUFFIX)]
        return f"{self.place}: observations that are not read: {', '.join(names)}" if names else ""


@dataclass(frozen=True)
class Demo:
    """Reader of a demonstration in an open file; `where` names it in messages."""

    file: Any
    name: str
    where: str

    @property
    def group(self) -> Any:
        return self.file["data"][self.name]

    @property
    def obs(self) -> Any:
        """The observations; an empty mapping where there are none."""
        return self.group.get("obs", {})

    def table(self, key: str, dimensions: tuple[int, ...] = (2,), dtype: Any = np.float32) -> npt.NDArray[Any]:
        """(T, …) of a data set beside the observations."""
        if key not in self.group:
            raise EpisodeError(
                "{where} lacks {key}; it has: {there}", where=self.where, key=key, there=", ".join(self.group)
            )
        data = self.group[key]
        self._check(data, key, dimensions)
        return np.asarray(data[:], dtype)

    @property
    def model_file(self) -> str:
        """The simulator's model, XML."""
        text = self.group.attrs.get("model_file")
        if text is None:
            raise EpisodeError(
                "{where} lacks the attribute model_file, the model that its states are of", where=self.where
            )
        return text.decode() if isinstance(text, bytes) else str(text)

    @property
    def description(self) -> Mapping[str, Any]:
        """What `RobomimicExporter` wrote of an episode besides its arrays; empty in other files."""
        text = self.group.attrs.get("episode")
        found: Mapping[str, Any] = {} if text is None else json.loads(text)
        return found

    @property
    def instruction(self) -> str:
        """The task in words, where RoboCasa (of the demonstration) or LIBERO (of the file) stores it; else empty."""
        for attrs, name, key in (
            (self.group.attrs, "ep_meta", "lang"),
            (self.file["data"].attrs, "problem_info", "language_instruction"),
        ):
            with contextlib.suppress(ValueError, TypeError, AttributeError):  # no JSON, or no mapping
                found = json.loads(attrs.get(name, "{}")).get(key)
                if found:  # LIBERO's is a text, or a list of its letters, within quotation marks
                    return "".join(found).strip('"')
        return ""

    @property
    def stamps(self) -> dict[str, npt.NDArray[np.int64]]:
        """Capture times in ns, where the file has them."""
        there = self.group.get("stamps", {})
        return {name: np.asarray(rows[:], np.int64) for name, rows in datasets(there)} if len(there) else {}

    def vectors(self, contract: Contract) -> dict[str, Array]:
        """{vector: (T or T + 1, D)} of a contract, from the observations that hold their entries."""
        parts: dict[str, list[Array]] = {}
        for key, (vector, _) in observation_keys(contract).items():
            if key in self.obs:
                parts.setdefault(vector, []).append(self.observations(key))
            elif vector == "qpos":
                raise EpisodeError(
                    "{where} lacks the observations {key}; it has: {there}",
                    where=self.where,
                    key=key,
                    there=", ".join(self.obs),
                )
        return {vector: np.concatenate(tables, axis=1) for vector, tables in parts.items()}

    def observations(self, key: str) -> Array:
        """(T or T + 1, D) of an observation."""
        rows, following = self.obs[key], self._following(key)
        self._check(rows, f"obs/{key}", (2,))
        if following is None:
            return np.asarray(rows[:], np.float32)
        return np.concatenate([rows[:], following[-1:]]).astype(np.float32)

    def state(self) -> tuple[dict[str, int], Array]:
        """{robot: its fingers}, and (T or T + 1, S) of all robots."""
        robots = _robots(self.obs)
        wanted = [f"{robot}_{key}" for robot in robots or ("robot0",) for key in STATE_KEYS]
        if missing := [key for key in wanted if key not in self.obs]:
            there = ", ".join(self.obs) or "(none; robomimic's dataset_states_to_obs.py computes them)"
            raise EpisodeError(
                "{where} lacks the observations {missing}; it has: {there}",
                where=self.where,
                missing=", ".join(missing),
                there=there,
            )
        tables = [self.observations(key) for key in wanted]
        fingers = {robot: self.obs[f"{robot}_gripper_qpos"].shape[1] for robot in robots}
        return fingers, np.concatenate(tables, axis=1)

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """{camera: (height, width)} of the images that are stored."""
        sizes = {}
        for key in self.obs:
            if key.endswith(IMAGE_SUFFIX):
                rows = self.obs[key]
                self._check(rows, f"obs/{key}", (4,))
                if rows.shape[-1] != 3 or rows.dtype != np.uint8:
                    shape = f"{rows.shape} {rows.dtype}"
                    raise EpisodeError(
                        "{where}: obs/{key} is {shape}, expected (rows, height, width, 3) uint8",
                        where=self.where,
                        key=key,
                        shape=shape,
                    )
                sizes[key.removesuffix(IMAGE_SUFFIX)] = (rows.shape[1], rows.shape[2])
        return sizes

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
        """Row i of a camera, (H, W, 3) RGB."""
        with damage_reported(self.where):
            image: Image | None = self._row(f"{camera}{IMAGE_SUFFIX}", i)
            if image is None:
                raise no_image(self.where, camera, i, self.cameras)
            return image

    def depth(self, camera: str, i: int) -> Depth:
        """Row i of a camera's depth, (H, W) uint16 mm."""
        with damage_reported(self.where):
            found = self._row(f"{camera}{DEPTH_SUFFIX}", i)
            if found is None:
                stored = [key.removesuffix(DEPTH_SUFFIX) for key in self.obs if key.endswith(DEPTH_SUFFIX)]
                raise no_depth(self.where, camera, i, stored)
            return np.asarray(found[..., 0], np.uint16)

    def _row(self, key: str, i: int) -> Any:
        """Row i of an observation, of which the last one may be in `next_obs`; None where it is not there."""
        rows = self.obs.get(key)
        if rows is not None and 0 <= i < len(rows):
            return rows[i]
        following = None if rows is None or i != len(rows) else self._following(key)
        return None if following is None else following[-1]

    def _following(self, key: str) -> Any:
        """The rows of `next_obs`, of which the last one is not in `obs`; None without."""
        found = self.group.get(f"next_obs/{key}")
        return found if found is not None and found.shape == self.obs[key].shape else None

    def _check(self, data: Any, name: str, dimensions: tuple[int, ...]) -> None:
        try:
            (require_rows if len(getattr(data, "shape", None) or ()) > 2 else require_table)(data, name)
        except EpisodeError as error:
            raise EpisodeError("{where}: {error}", where=self.where, error=error) from None
        steps = len(self.group["actions"])
        if len(data.shape) not in dimensions or len(data) != steps:
            what = " or ".join(f"{count} dimensions" for count in dimensions)
            raise EpisodeError(
                "{where}: {name} has shape {shape}, expected {what} and {steps} rows",
                where=self.where,
                name=name,
                shape=data.shape,
                what=what,
                steps=steps,
            )


_NUMBER = re.compile(r"demo_(\d+)")
_ROBOT = re.compile(r"(robot\d+)_")


def _robots(obs: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the robots that an observation has, `robot0` first."""
    found = {match.group(1) for key in obs if (match := _ROBOT.match(key)) and not key.endswith(IMAGE_SUFFIX)}
    return tuple(sorted(found))


def _env_args(file: Any, path: Path) -> dict[str, Any]:
    text = file["data"].attrs["env_args"]
    try:
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(found.get("env_kwargs", {}), dict):
            return found
    except (TypeError, ValueError):
        pass
    raise EpisodeError(
        '{path}: env_args of data must be JSON like {{"env_name": "Lift", …}}, given {text!r:.80}', path=path, text=text
    )


def _demos(file: Any, path: Path, key: str) -> list[str]:
    """Names of the demonstrations of a filter key, or of all, by number."""
    there = sorted((n for n in file["data"] if _NUMBER.fullmatch(n)), key=lambda n: int(n.removeprefix("demo_")))
    if not key:
        return there
    keys = list(file.get("mask", {}))
    if key not in keys:
        raise EpisodeError(
            "{path} has no filter key '{key}'. {known}", path=path, key=key, known=did_you_mean(key, keys)
        )
    listed = _mask(file, key)
    if missing := [name for name in listed if name not in there]:
        raise EpisodeError(
            "{path}: filter key '{key}' lists {missing}, which is not in data", path=path, key=key, missing=missing[0]
        )
    if not listed:
        raise EpisodeError("{path}: filter key '{key}' lists no demonstration", path=path, key=key)
    return [name for name in there if name in set(listed)]


def _mask(file: Any, key: str) -> list[str]:
    """Names that a filter key lists; none where there is no such key."""
    rows = file.get(f"mask/{key}")
    return [] if rows is None else [n.decode() if isinstance(n, bytes) else str(n) for n in rows[:]]

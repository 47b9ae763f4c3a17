"""Playback of robomimic's data sets from the states of the simulator, which each demonstration has with its model."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.features import Feature, STATE
from aloha_kit.core.robomimic import contract, VISUAL_GROUPS
from aloha_kit.core.source import EpisodeData, Image
from aloha_kit.formats.robomimic import Demo, RobomimicSource

try:
    from aloha_kit.mujoco_images import ModelRenderer  # before MuJoCo: how it draws is settled when it loads
except ImportError as missing:
    raise ConfigError(
        "images of a robomimic data set without stored ones are rendered with MuJoCo, which is missing "
        "({missing}); `make robosuite` installs it with robosuite in .venv-robosuite",
        missing=missing,
    ) from missing
import mujoco

SIZE = (256, 256)
"""Height and width of the images."""
CAMERAS = ("agentview", "robot0_eye_in_hand")
"""Cameras where `env_args` names none, of those that the model has."""
_FILE = re.compile(r'(?<=\bfile=")[^"]+')  # of a mesh or texture in a model's XML


class RobomimicStates(RobomimicSource):
    """The demonstrations of a robomimic file with images rendered from `states`, in their own models.

    Row i is the state in which action i was chosen. Meshes and textures are those of the installed robosuite.
    Demonstrations without observations have the simulator's generalised positions as their state.

    Raises:
        EpisodeError: as `RobomimicSource`; in `open` also: no states or model, a model that MuJoCo does not load,
            meshes that are not installed, or states of another model.
    """

    def _episode(self, demo: Demo) -> EpisodeData:
        player = StatePlayer(demo.model_file, demo.table("states", dtype=np.float64), demo.where)
        rows = len(player.states)
        if demo.obs:
            episode = super()._episode(demo)
        else:
            action, positions = demo.table("actions"), player.positions
            found = contract(self.env_args, {"robot0": 0}, action.shape[1], 0, {})
            names = tuple(f"position{i}" for i in range(positions.shape[1]))
            state = Feature.vector("qpos", STATE, names, "rad or m")
            found = dataclasses.replace(found, features=(state, *found.features[1:]))
            episode = self._data(demo, found, action, positions, {})
        named = (self.env_args.get("env_kwargs") or {}).get("camera_names") or CAMERAS
        cameras = player.cameras((named,) if isinstance(named, str) else named)
        further = {name: table[:rows] for name, table in episode.further_vectors.items()}
        return dataclasses.replace(
            episode,
            contract=episode.contract.with_cameras(dict.fromkeys(cameras, SIZE)),
            qpos=episode.qpos[:rows],
            further_vectors=further,
            read_image=player.image,
            resources=(demo.file, player),
        )


class StatePlayer:
    """Images of a simulator's states.

    Args:
        xml: the model, as robosuite writes it.
        states: (T, 1 + positions + velocities): time (s), generalised positions and velocities.
        where: named in messages.

    Raises:
        EpisodeError: a model that MuJoCo does not load, meshes that are not installed, or states of another model.
    """

    def __init__(self, xml: str, states: npt.NDArray[np.float64], where: str) -> None:
        self.states, self._where = states, where
        try:
            self.model: Any = mujoco.MjModel.from_xml_string(_with_installed_files(xml, where))
        except ValueError as error:
            raise EpisodeError(
                "{where}: MuJoCo {version} does not load model_file: {error}",
                where=where,
                version=mujoco.__version__,
                error=reason(error),
            ) from error
        entries = 1 + self.model.nq + self.model.nv
        if states.shape[1] != entries:
            raise EpisodeError(
                "{where}: states has {count} entries, and the model of model_file has {entries}: time, {nq} "
                "positions, {nv} velocities",
                where=where,
                count=states.shape[1],
                entries=entries,
                nq=self.model.nq,
                nv=self.model.nv,
            )
        self._data = mujoco.MjData(self.model)
        self._renderer = ModelRenderer(self.model, self._data, groups=VISUAL_GROUPS, shadows=False)

    @property
    def positions(self) -> npt.NDArray[np.float32]:
        """(T, positions) generalised positions."""
        return self.states[:, 1 : 1 + self.model.nq].astype(np.float32)

    def cameras(self, names: Any) -> list[str]:
        """Those of `names` that the model has, or else its first camera."""
        there = [self.model.camera(i).name for i in range(self.model.ncam)]
        if not there:
            raise EpisodeError("{where}: the model of model_file has no camera", where=self._where)
        return [name for name in names if name in there] or there[:1]

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None = None) -> Image:
        """State i as a camera of the model shows it, (H, W, 3) RGB.

        Raises:
            EpisodeError: no such state or camera.
        """
        try:
            self.model.camera(camera)
        except KeyError:
            raise EpisodeError(
                "{where}: the model has no camera '{camera}'", where=self._where, camera=camera
            ) from None
        if not 0 <= i < len(self.states):
            raise EpisodeError(
                "{where} has no state {i} for an image, but {count}", where=self._where, i=i, count=len(self.states)
            )
        state, positions = self.states[i], self.model.nq
        self._data.time = state[0]
        self._data.qpos[:] = state[1 : 1 + positions]
        self._data.qvel[:] = state[1 + positions :]
        mujoco.mj_forward(self.model, self._data)
        return self._renderer.draw(camera, SIZE)

    def close(self) -> None:
        self._renderer.close()


def _with_installed_files(xml: str, where: str) -> str:
    """The model with the paths of this machine's robosuite in place of those of the recording machine."""
    spec = importlib.util.find_spec("robosuite")
    root = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    lacking = []

    def here(match: re.Match[str]) -> str:
        path = match.group()
        _, found, inside = path.replace("\\", "/").rpartition("/robosuite/")
        if found and root is not None:
            path = str(root / inside)
        if not Path(path).is_file():
            lacking.append(path)
        return path

    changed = _FILE.sub(here, xml)
    if lacking and root is None:
        raise EpisodeError(
            "{where}: meshes of its model are robosuite's, which is not installed here; `make robosuite` "
            "installs it: then .venv-robosuite/bin/python -m aloha_kit.replay …",
            where=where,
        )
    if lacking:
        raise EpisodeError(
            "{where}: {count} files of its model are not in the installed robosuite, such as {lacking}",
            where=where,
            count=len(lacking),
            lacking=lacking[0],
        )
    return changed

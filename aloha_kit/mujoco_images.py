"""Images of one MuJoCo model, which robosuite's tasks and robomimic's recorded states have anew in each episode."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError

if sys.platform == "linux":  # servers have no display; MuJoCo reads this once, when it loads
    os.environ.setdefault("MUJOCO_GL", "egl")
if "OpenGL.EGL" not in sys.modules and importlib.util.find_spec("triton"):
    importlib.import_module("triton")  # its LLVM has to be loaded before software OpenGL's, see `sim`

import mujoco

Image = npt.NDArray[np.uint8]


class ModelRenderer:
    """Renderer of a model's cameras, each at any size. Collision shapes (geometry group 0) and sites are not drawn.

    It is used in one thread, to which its OpenGL contexts belong.

    Args:
        shadows: draw shadows, which cost half of the time without a GPU.
    """

    def __init__(self, model: Any, data: Any, *, shadows: bool = False) -> None:
        self._model, self._data, self._shadows = model, data, shadows
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0
        self._options.sitegroup[:] = 0
        self._renderers: dict[tuple[int, int], Any] = {}

    def draw(self, camera: str, size: tuple[int, int]) -> Image:
        """(H, W, 3) uint8 RGB of the data's present state; `size` is (height, width)."""
        renderer = self._renderers.get(size)
        if renderer is None:
            renderer = self._renderers[size] = self._make(*size)
        renderer.update_scene(self._data, camera, self._options)
        image: Image = renderer.render()
        return image

    def _make(self, height: int, width: int) -> Any:
        limits = self._model.vis.global_
        limits.offheight, limits.offwidth = max(height, limits.offheight), max(width, limits.offwidth)
        try:
            renderer = mujoco.Renderer(self._model, height, width)
        except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
            raise ConfigError(
                f"no OpenGL context for images ({error}). MUJOCO_GL is '{os.environ.get('MUJOCO_GL', '')}'; without a "
                "display it has to be 'egl', and the system needs an EGL library (Debian: apt install libegl1)"
            ) from error
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(self._shadows)
        return renderer

    def close(self) -> None:
        """Free the contexts."""
        for renderer in self._renderers.values():
            if renderer._gl_context:
                renderer._gl_context.make_current()  # MuJoCo frees a renderer's objects in the current context
            renderer.close()
        self._renderers.clear()


class ImagesLater(Mapping[str, Image]):
    """Images that are rendered when they are first read, which has to be before the next step.

    Args:
        draw: renders a camera's image.
        current: whether the environment is still in the step of these images.
    """

    def __init__(self, cameras: Mapping[str, Any], draw: Callable[[str], Image], current: Callable[[], bool]) -> None:
        self._cameras, self._draw, self._current = cameras, draw, current
        self._drawn: dict[str, Image] = {}

    def __getitem__(self, camera: str) -> Image:
        if camera not in self._drawn:
            if camera not in self._cameras:
                raise KeyError(camera)
            if not self._current():
                raise RuntimeError(
                    f"the image of camera '{camera}' was not read before the environment's next step; "
                    "read it at once, or leave lazy_images off"
                )
            self._drawn[camera] = self._draw(camera)
        return self._drawn[camera]

    def __contains__(self, camera: object) -> bool:
        return camera in self._cameras

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)

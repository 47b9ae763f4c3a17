"""Images of MuJoCo models, by software or hardware OpenGL: one renderer for each size.

Import it before MuJoCo or dm_control: how they draw is settled when they load.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.core.interrupt import interrupts_put_off

if sys.platform == "linux":  # servers and robots have no display; MuJoCo reads this once, when it loads
    os.environ.setdefault("MUJOCO_GL", "egl")
if "OpenGL.EGL" not in sys.modules and importlib.util.find_spec("triton"):
    # torch's compiler and software OpenGL bring one LLVM each, and the process ends if OpenGL's comes
    # first: torch would load its own at the first optimiser. Triton alone loads without torch.
    importlib.import_module("triton")

import mujoco

Image = npt.NDArray[np.uint8]
Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])

_collected: deque[tuple[Any, Any]] = deque()
"""(MuJoCo's, OpenGL's) contexts of renderers that were garbage-collected, to be freed when nothing is being drawn."""


class _Renderer(mujoco.Renderer):  # type: ignore[misc]  # MuJoCo ships no types
    """A renderer that frees its OpenGL objects in its own context.

    MuJoCo frees them in the context that is current, which may be another environment's: that one's shadows and
    textures have the same numbers and would be deleted. The garbage collector may run in the middle of a drawing.
    """

    def close(self) -> None:
        if self._gl_context:
            self._gl_context.make_current()
        super().close()

    def __del__(self) -> None:
        if (drawing := getattr(self, "_mjr_context", None)) and (context := getattr(self, "_gl_context", None)):
            _collected.append((drawing, context))


def _free_collected() -> None:
    """Free the contexts of collected renderers, but for those that belong to another thread."""
    for _ in range(len(_collected)):
        drawing, context = _collected.popleft()
        try:
            context.make_current()
        except RuntimeError:
            _collected.append((drawing, context))
            continue
        drawing.free()
        context.free()


def egl_devices() -> int:
    """Number of devices that EGL can render on: its GPUs, and software.

    Raises:
        ConfigError: no EGL.
    """
    try:
        from mujoco.egl import egl_ext

        return len(egl_ext.eglQueryDevicesEXT())
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            "EGL cannot be used: {error}. MUJOCO_GL is '{value}'; a device can be chosen for 'egl' only",
            error=error,
            value=os.environ.get("MUJOCO_GL", ""),
        ) from error


class ModelRenderer:
    """Renderer of a model's cameras, each at any size, without sites.

    A GL context belongs to the thread that first draws: make and use one in the same thread.

    Args:
        groups: of the shapes that are drawn.
        shadows: draw shadows, which cost half of the time without a GPU.
        options: {camera: what is drawn} in place of `groups`, as an egocentric camera without the head around it.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        groups: Collection[int],
        shadows: bool,
        options: Mapping[str, mujoco.MjvOption] = MappingProxyType({}),
    ) -> None:
        self._model, self._data, self._shadows, self._options_of = model, data, shadows, options
        self._options = mujoco.MjvOption()
        for group in range(len(self._options.geomgroup)):
            self._options.geomgroup[group] = group in groups
            self._options.sitegroup[group] = 0
        self._renderers: dict[tuple[int, int], Any] = {}

    def draw(self, camera: str, size: tuple[int, int]) -> Image:
        """(H, W, 3) uint8 RGB of the data's present state; `size` is (height, width)."""
        image: Image = self._aimed(camera, size).render()
        return image

    def _aimed(self, camera: str, size: tuple[int, int]) -> Any:
        """The renderer of a size, with the camera's view of the present state."""
        _free_collected()
        renderer = self._renderers.get(size)
        if renderer is None:
            with interrupts_put_off():  # a half-made context would be freed at the exit, with a traceback
                renderer = self._renderers[size] = self._make(*size)
        renderer.update_scene(self._data, camera, self._options_of.get(camera, self._options))
        return renderer

    def _make(self, height: int, width: int) -> Any:
        self._model.vis.global_.offheight, self._model.vis.global_.offwidth = height, width
        try:
            renderer = _Renderer(self._model, height, width)
        except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
            raise ConfigError(
                "no OpenGL context for images ({error}). MUJOCO_GL is '{value}'; without a display it has to be "
                "'egl' before MuJoCo is first imported, and the system needs an EGL library (Debian: apt install "
                "libegl1)",
                error=error,
                value=os.environ.get("MUJOCO_GL", ""),
            ) from error
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(self._shadows)
        if not self._renderers:
            # after MuJoCo's own exit hook, so it runs before it: contexts must not outlive their display
            atexit.register(_close_if_alive, weakref.ref(self))
        return renderer

    def close(self) -> None:
        """Free the GL contexts; drawing again makes new ones. Ctrl-C waits: a context cannot be freed twice."""
        with interrupts_put_off():
            for renderer in self._renderers.values():
                renderer.close()
            self._renderers.clear()


def _close_if_alive(renderer: weakref.ref[ModelRenderer]) -> None:
    alive = renderer()
    if alive is not None:
        alive.close()
    _free_collected()


class ImagesLater(Mapping[str, Pixels]):
    """Images, or depth, that are rendered when they are first read, which has to be before the next step.

    Args:
        draw: renders a camera's image.
        current: whether the environment is still in the step of these images.
    """

    def __init__(self, cameras: Mapping[str, Any], draw: Callable[[str], Pixels], current: Callable[[], bool]) -> None:
        self._cameras, self._draw, self._current = cameras, draw, current
        self._drawn: dict[str, Pixels] = {}

    def __getitem__(self, camera: str) -> Pixels:
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

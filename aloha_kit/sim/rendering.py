"""Images from software or hardware OpenGL: one renderer for each size, for the environment's life."""

from __future__ import annotations

import atexit
import os
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from dm_control.mujoco import Physics

from aloha_kit.core import ConfigError
from aloha_kit.core.interrupt import interrupts_put_off

SHADOWS_AT = 480  # image rows that a quality's shadow map is meant for
DRAWN_GROUPS = (0, 1, 2)  # group 3 holds collision shapes, 4 helper sites


_collected: deque[tuple[mujoco.MjrContext, Any]] = deque()
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


class CameraRenderer:
    """Renderer of a simulation's cameras, each at its own size; an image is rendered only when it is read.

    A GL context belongs to the thread that first draws: make and use one in the same thread.
    """

    def __init__(self, physics: Physics, cameras: dict[str, tuple[int, int]]) -> None:
        self._physics = physics
        self._cameras = dict(cameras)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._round = 0  # of images that are rendered when they are read
        self._shadow_map: int = physics.model.vis.quality.shadowsize
        self._option = mujoco.MjvOption()
        for group in range(len(self._option.geomgroup)):
            self._option.geomgroup[group] = group in DRAWN_GROUPS
            self._option.sitegroup[group] = 0

    def render(self) -> dict[str, npt.NDArray[np.uint8]]:
        """{camera: (H, W, 3) uint8 RGB} of the physics' present state."""
        return {name: self.draw(name, size) for name, size in self._cameras.items()}

    def later(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Images as of `render`, each rendered when first read, which has to be before the next `later`."""
        self._round += 1
        return _Later(self, self._round)

    def draw(self, camera: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of one camera at `size` (height, width)."""
        image: npt.NDArray[np.uint8] = self._aimed(camera, size).render()
        return image

    def draw_depth(self, camera: str, size: tuple[int, int]) -> npt.NDArray[np.uint16]:
        """(H, W) uint16: mm along the camera's axis at each pixel, 0 where there is nothing."""
        renderer = self._aimed(camera, size)
        renderer.enable_depth_rendering()
        try:
            metres: npt.NDArray[np.float32] = renderer.render()
        finally:
            renderer.disable_depth_rendering()
        model = self._physics.model
        nothing = 0.99 * model.vis.map.zfar * model.stat.extent  # m: there the room's image begins
        return np.where(metres < nothing, np.rint(1000.0 * metres), 0.0).astype(np.uint16)

    def _aimed(self, camera: str, size: tuple[int, int]) -> mujoco.Renderer:
        _free_collected()
        renderer = self._renderers.get(size)
        if renderer is None:
            with interrupts_put_off():  # a half-made context would be freed at the exit, with a traceback
                renderer = self._renderers[size] = self._make(*size)
        renderer.update_scene(self._physics.data.ptr, camera, self._option)
        return renderer

    def _make(self, height: int, width: int) -> mujoco.Renderer:
        model = self._physics.model.ptr
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        # a small image does not show the detail of a large shadow map, which would be most of its cost
        rows = max(1, self._shadow_map * height // SHADOWS_AT)
        model.vis.quality.shadowsize = min(self._shadow_map, 1 << (rows - 1).bit_length())
        try:
            renderer = _Renderer(model, height, width)
        except (mujoco.FatalError, RuntimeError, ImportError, AttributeError) as error:
            raise ConfigError(
                f"no OpenGL context for images ({error}). MUJOCO_GL is '{os.environ.get('MUJOCO_GL', '')}'; "
                "without a display it has to be 'egl' before MuJoCo is first imported, and the system needs "
                "an EGL library (Debian: apt install libegl1)"
            ) from error
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


class _Later(Mapping[str, npt.NDArray[np.uint8]]):
    """Images of one time step, rendered when read."""

    def __init__(self, renderer: CameraRenderer, round_: int) -> None:
        self._renderer, self._round = renderer, round_
        self._drawn: dict[str, npt.NDArray[np.uint8]] = {}

    def __getitem__(self, camera: str) -> npt.NDArray[np.uint8]:
        if camera not in self._drawn:
            size = self._renderer._cameras[camera]
            if self._round != self._renderer._round:
                raise RuntimeError(
                    f"the image of camera '{camera}' was not read before the environment's next step; "
                    "read it at once, or leave lazy_images off"
                )
            self._drawn[camera] = self._renderer.draw(camera, size)
        return self._drawn[camera]

    def __contains__(self, camera: object) -> bool:
        return camera in self._renderer._cameras

    def __iter__(self) -> Iterator[str]:
        return iter(self._renderer._cameras)

    def __len__(self) -> int:
        return len(self._renderer._cameras)


def _close_if_alive(renderer: weakref.ref[CameraRenderer]) -> None:
    alive = renderer()
    if alive is not None:
        alive.close()
    _free_collected()

"""Images and depth of the workcell's cameras, each at its own size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from dm_control.mujoco import Physics

from aloha_kit.mujoco_images import ImagesLater, ModelRenderer

SHADOWS_AT = 480  # image rows that a quality's shadow map is meant for
DRAWN_GROUPS = (0, 1, 2)  # group 3 holds collision shapes, 4 helper sites


class CameraRenderer(ModelRenderer):
    """Renderer of a simulation's cameras, each at its own size, and of the depth of some of them."""

    def __init__(self, physics: Physics, cameras: dict[str, tuple[int, int]], depth: Collection[str] = ()) -> None:
        super().__init__(physics.model.ptr, physics.data.ptr, groups=DRAWN_GROUPS, shadows=True)
        self._cameras = dict(cameras)
        self._depth = {name: cameras[name] for name in depth}
        self._round = 0  # of images that are rendered when they are read
        self._shadow_map: int = self._model.vis.quality.shadowsize

    def render(self) -> tuple[dict[str, npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.uint16]]]:
        """{camera: (H, W, 3) uint8 RGB} and {camera: (H, W) uint16 mm} of the physics' present state."""
        images = {name: self.draw(name, size) for name, size in self._cameras.items()}
        return images, {name: self.draw_depth(name, size) for name, size in self._depth.items()}

    def later(self) -> tuple[Mapping[str, npt.NDArray[np.uint8]], Mapping[str, npt.NDArray[np.uint16]]]:
        """As `render`, but each image is rendered when first read, which has to be before the next `later`."""
        self._round += 1
        round_ = self._round
        images = ImagesLater(
            self._cameras, lambda name: self.draw(name, self._cameras[name]), lambda: self._round == round_
        )
        depth = ImagesLater(
            self._depth, lambda name: self.draw_depth(name, self._depth[name]), lambda: self._round == round_
        )
        return images, depth

    def draw_depth(self, camera: str, size: tuple[int, int]) -> npt.NDArray[np.uint16]:
        """(H, W) uint16: mm along the camera's axis at each pixel, 0 where there is nothing."""
        renderer = self._aimed(camera, size)
        renderer.enable_depth_rendering()
        try:
            metres: npt.NDArray[np.float32] = renderer.render()
        finally:
            renderer.disable_depth_rendering()
        nothing = 0.99 * self._model.vis.map.zfar * self._model.stat.extent  # m: there the room's image begins
        return np.where(metres < nothing, np.rint(1000.0 * metres), 0.0).astype(np.uint16)

    def _make(self, height: int, width: int) -> Any:
        # a small image does not show the detail of a large shadow map, which would be most of its cost
        rows = max(1, self._shadow_map * height // SHADOWS_AT)
        self._model.vis.quality.shadowsize = min(self._shadow_map, 1 << (rows - 1).bit_length())
        return super()._make(height, width)

"""Layout of Rerun recordings, written and live: names of entities, and their views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rerun.blueprint as rrb

from aloha_kit.core.arm_models import BASE, by_arm

JPEG_QUALITY = 85


def entity_of(name: str) -> str:
    """`left_waist` to `arms/left/waist`, so that the viewer groups an arm's joints; without an arm, `other/NAME`."""
    ((arm, _),) = by_arm((name,)).items()
    return f"other/{name}" if arm in ("", BASE) else f"arms/{arm}/{name.partition('_')[2]}"


def camera_grid(cameras: Iterable[str], depth: Iterable[str] = ()) -> Any:
    """A view of each camera's image and depth, in a grid."""
    views = [rrb.Spatial2DView(origin=f"cameras/{c}", name=c) for c in cameras]
    views += [rrb.Spatial2DView(origin=f"depth/{c}", name=f"depth of {c}") for c in depth]
    return rrb.Grid(*views, name="cameras")


def arm_views(names: Iterable[str]) -> list[Any]:
    """A plot of each arm's joints, and one of what belongs to no arm."""
    panels = dict.fromkeys(entity_of(name).rpartition("/")[0] for name in names)
    return [rrb.TimeSeriesView(origin=p, name=f"{p.removeprefix('arms/')} arm" if p != "other" else p) for p in panels]

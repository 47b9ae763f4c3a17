"""Meshes and kinematics of the arms, from an installed wheel, found without importing it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NEEDED = ("vx300s_left.xml", "vx300s_right.xml", "vx300s_dependencies.xml", "vx300s_7_gripper.stl")


@cache
def folder() -> Path:
    """The folder of the ViperX 300s meshes and kinematics.

    The package itself is never imported, since that would pull gymnasium and tie its version to ours.

    Raises:
        ConfigError: the wheel is not installed, or carries other files than expected.
    """
    spec = importlib.util.find_spec("gym_aloha")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        assets = Path(place) / "assets"
        if all((assets / name).is_file() for name in _NEEDED):
            return assets
    found = f"found {places[0]} without assets/{{{', '.join(_NEEDED)}}}" if places else "it is not installed"
    raise ConfigError(
        "the simulated arms take their meshes from the package gym-aloha 0.1.3, but {found}. Install it "
        "with: pip install --no-deps 'gym-aloha==0.1.3' (or pip install 'aloha_kit[sim]')",
        found=found,
    )


def read_stl(path: Path) -> npt.NDArray[np.float32]:
    """Triangles of a binary STL file, (N, 3 corners, 3 coordinates), in the file's unit."""
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little")
    if len(data) != 84 + count * _TRIANGLE.itemsize:
        raise ConfigError(
            "{path} is not a binary STL file: {size} bytes for {count} triangles",
            path=path,
            size=len(data),
            count=count,
        )
    return np.frombuffer(data, _TRIANGLE, count, 84)["corners"]


def simplify(triangles: npt.NDArray[np.float32], cell: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Vertices (V, 3) and faces (F, 3) with every vertex moved to the mean of its grid cell of size `cell`.

    Vertex clustering (Rossignac and Borrel 1993): faces that collapse or coincide go, so a mesh with
    details smaller than a pixel costs what its shape needs. `cell` is in the triangles' unit.
    """
    corners = triangles.reshape(-1, 3).astype(np.float64)
    _, member = np.unique(np.round(corners / cell).astype(np.int64), axis=0, return_inverse=True)
    member = member.reshape(-1)
    count = np.bincount(member)
    vertices = np.stack([np.bincount(member, corners[:, axis]) / count for axis in range(3)], axis=1)
    faces = member.reshape(-1, 3)
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[whole]
    # the same three corners in the same turning sense, whichever comes first, are the same face
    first = np.argmin(faces, axis=1)
    turned = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)
    return vertices, np.unique(turned, axis=0).astype(np.int32)

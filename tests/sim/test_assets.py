"""Finding the arms' files, and meshes with fewer triangles."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import ConfigError
from aloha_kit.sim import assets


@pytest.fixture
def fresh():
    """`folder` remembers its answer; forget it before and after."""
    assets.folder.cache_clear()
    yield
    assets.folder.cache_clear()


def test_assets_are_found_without_importing_their_package() -> None:
    program = (
        "import sys; from aloha_kit.sim import assets; assert (assets.folder() / 'vx300s_left.xml').is_file();"
        "print(sorted({'gym_aloha', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_missing_package_states_what_to_install(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"it is not installed. Install it with: pip install --no-deps 'gym-aloha"):
        assets.folder()


def test_another_layout_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.machinery.ModuleSpec("gym_aloha", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match=r"found .* without assets/"):
        assets.folder()


def test_a_damaged_mesh_is_refused(tmp_path: Path) -> None:
    whole = (assets.folder() / "vx300s_6_wrist.stl").read_bytes()
    (tmp_path / "wrist.stl").write_bytes(whole[:-7])
    with pytest.raises(ConfigError, match="is not a binary STL file"):
        assets.read_stl(tmp_path / "wrist.stl")


def test_simplified_meshes_keep_their_place() -> None:
    triangles = assets.read_stl(assets.folder() / "vx300s_7_gripper.stl")  # millimetres
    corners = triangles.reshape(-1, 3)
    vertices, faces = assets.simplify(triangles, 5.0)
    assert len(triangles) == 9000
    assert 50 < len(faces) < 1000
    assert faces.min() == 0
    assert faces.max() < len(vertices)
    np.testing.assert_allclose(vertices.min(axis=0), corners.min(axis=0), atol=5.0)
    np.testing.assert_allclose(vertices.max(axis=0), corners.max(axis=0), atol=5.0)
    nearest = np.min(np.linalg.norm(vertices[:, None] - corners[None, ::7], axis=2), axis=1)
    assert nearest.max() < 5.0 * np.sqrt(3)


def test_simplifying_below_all_detail_changes_no_triangle() -> None:
    box = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 0], [0, 1, 0]]], np.float32)
    vertices, faces = assets.simplify(box, 0.01)
    assert len(vertices) == 4
    areas = [np.linalg.norm(np.cross(b - a, c - a)) / 2 for a, b, c in vertices[faces]]
    np.testing.assert_allclose(areas, [0.5, 0.5])
    normals = [np.cross(b - a, c - a)[2] for a, b, c in vertices[faces]]
    assert min(normals) > 0, "the turning sense stays"


def test_collapsed_and_double_triangles_go() -> None:
    triangles = np.array(
        [
            [[0, 0, 0], [10, 0, 0], [0, 10, 0]],
            [[0, 10, 0], [0, 0, 0], [10, 0, 0]],
            [[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]],
        ],
        np.float32,
    )
    _, faces = assets.simplify(triangles, 1.0)
    assert len(faces) == 1

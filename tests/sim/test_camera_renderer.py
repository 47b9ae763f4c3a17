"""Images: sizes, what they show, and what they must not change."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from aloha_kit import mujoco_images
from aloha_kit.sim import SimEnv, workcell


def red(image: np.ndarray) -> np.ndarray:
    """Pixels of the cube: far more red than anything else in the scene."""
    pixels = image.astype(int)
    return (pixels[..., 0] > 90) & (pixels[..., 0] > 2.2 * pixels[..., 1]) & (pixels[..., 0] > 2.2 * pixels[..., 2])


def test_every_camera_at_its_own_size() -> None:
    sizes = {
        "top": (48, 64),
        "angle": (30, 50),
        "front_close": (64, 48),
        "left_wrist": (17, 31),
        "right_wrist": (48, 64),
    }
    env = SimEnv("insertion", cameras=sizes, quality="draft")
    images = env.reset().observation["images"]
    assert {name: image.shape for name, image in images.items()} == {n: (*size, 3) for n, size in sizes.items()}
    for name, image in images.items():
        assert image.dtype == np.uint8
        assert image.std() > 10, f"{name} shows next to nothing"
    env.close()


@pytest.mark.parametrize("camera", ["top", "angle", "front_close"])
def test_the_cube_is_seen_where_a_pinhole_camera_has_it(camera: str) -> None:
    height, width = 240, 320
    env = SimEnv("transfer_cube", cameras={camera: (height, width)}, quality="draft", seed=4)
    observation = env.reset().observation
    cube = observation["environment_state"][:3].astype(float)
    described = workcell.CAMERAS[camera]
    eye, target = np.array(described.position), np.array(described.target)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    focal = height / 2 / np.tan(np.deg2rad(described.fovy) / 2)
    ray = cube - eye
    column = width / 2 + focal * (ray @ right) / (ray @ forward)
    row = height / 2 + focal * (ray @ down) / (ray @ forward)
    rows, columns = np.nonzero(red(observation["images"][camera]))
    assert len(rows) > 30
    assert np.hypot(rows.mean() - row, columns.mean() - column) < 4
    env.close()


def test_the_wrist_camera_shows_the_cube_that_the_gripper_holds() -> None:
    env = SimEnv("transfer_cube", cameras={"right_wrist": (60, 80)}, quality="draft", episode_len=150)
    expert = env.expert()
    step = env.reset()
    expert.reset()
    while not step.last():
        step = env.step(expert.act(step.observation))
    rows, columns = np.nonzero(red(step.observation["images"]["right_wrist"]))
    assert len(rows) > 20
    assert abs(columns.mean() - 40) < 8, "between the fingers, in the middle"
    env.close()


def test_quality_changes_images_and_never_physics() -> None:
    states, shades = {}, {}
    for quality in workcell.QUALITIES:
        env = SimEnv("transfer_cube", cameras={"top": (60, 80)}, quality=quality, seed=3, episode_len=130)
        expert = env.expert()
        step = env.reset()
        expert.reset()
        env.step(expert.act(step.observation))
        states[quality] = env.physics.data.qpos.copy()
        shades[quality] = step.observation["images"]["top"].astype(float)
        env.close()
    np.testing.assert_array_equal(states["draft"], states["fast"])
    np.testing.assert_array_equal(states["draft"], states["fine"])
    assert (shades["draft"] - shades["fast"]).mean() > 0.3, "fast has shadows, draft has none"
    assert not np.array_equal(shades["fast"], shades["fine"])


def test_cameras_that_were_not_requested_are_not_drawn() -> None:
    env = SimEnv("transfer_cube", cameras={})
    assert env.reset().observation["images"] == {}
    env.close()


def test_lazy_images_are_those_of_their_instant_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = {"top": (24, 32), "angle": (20, 30)}
    eager, lazy = (SimEnv("transfer_cube", cameras=cameras, quality="draft", lazy_images=on) for on in (False, True))
    drawn: list[str] = []
    draw = lazy._renderer.draw
    monkeypatch.setattr(lazy._renderer, "draw", lambda camera, size: drawn.append(camera) or draw(camera, size))
    wanted, later = eager.reset().observation, lazy.reset().observation["images"]
    for _ in range(3):
        wanted, later = (env.step(wanted["qpos"] + 0.05).observation for env in (eager, lazy))
        later = later["images"]
        assert (list(later), len(later), "top" in later, "left" in later) == (["top", "angle"], 2, True, False)
    assert drawn == []
    np.testing.assert_array_equal(later["top"], wanted["images"]["top"])
    assert later["top"] is later["top"]
    assert drawn == ["top"]
    before = later["top"].copy()
    lazy.step(wanted["qpos"])
    np.testing.assert_array_equal(later["top"], before)
    with pytest.raises(RuntimeError, match="camera 'angle' was not read before the environment's next step"):
        later["angle"]
    with pytest.raises(KeyError):
        later["left"]
    eager.close()
    lazy.close()


def test_a_closed_environment_draws_again() -> None:
    env = SimEnv("transfer_cube", cameras={"top": (24, 32)}, quality="draft")
    before = env.reset().observation["images"]["top"]
    env._renderer.close()
    env.seed(0)
    np.testing.assert_array_equal(env.reset().observation["images"]["top"], before)
    env.close()
    env.close()


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **environment}, timeout=300
    )


@pytest.mark.parametrize("order", ["torch first", "images first"])
def test_images_and_training_live_in_one_process_and_end_quietly(order: str) -> None:
    """Software OpenGL and torch bring one compiler each; in the wrong order the first optimiser crashes."""
    torch = "import torch\n"
    rendering = (
        "from aloha_kit.sim import SimEnv\n"
        "env = SimEnv('transfer_cube', cameras={'top': (24, 32)}, quality='draft')\n"
        "env.reset()\n"
    )
    done = run_python(
        (torch + rendering if order == "torch first" else rendering + torch)
        + "net = torch.nn.Linear(3, 3)\n"
        + "optimiser = torch.optim.AdamW(net.parameters())\n"
        + "net(torch.ones(1, 3)).sum().backward()\n"
        + "optimiser.step()\n"
        + "print(env.reset().observation['images']['top'].shape)\n"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "(24, 32, 3)"), done.stderr
    assert "Exception ignored" not in done.stderr, "contexts outlived their display"


def test_no_opengl_is_explained() -> None:
    done = run_python(
        "from aloha_kit.sim import SimEnv\n"
        "env = SimEnv('transfer_cube', cameras={'top': (8, 8)})\n"
        "try:\n    env.reset()\nexcept Exception as error:\n    print(type(error).__name__, error)\n",
        MUJOCO_GL="off",
    )
    assert "ConfigError no OpenGL context for images" in done.stdout, done.stderr
    assert "MUJOCO_GL is 'off'" in done.stdout


@pytest.mark.parametrize("ends", ["closed", "collected"])
def test_images_stay_the_same_when_another_environment_ends(ends: str) -> None:
    """MuJoCo frees OpenGL objects in the current context, which is the other environment's: its shadows went."""
    first, second = (SimEnv("transfer_cube", cameras={"top": (48, 64)}, seed=3) for _ in range(2))
    images = [env.reset().observation["images"]["top"] for env in (first, second)]
    if ends == "closed":
        first.close()
    del first
    gc.collect()
    for _ in range(2):
        second.seed(3)
        np.testing.assert_array_equal(second.reset().observation["images"]["top"], images[0])
    np.testing.assert_array_equal(images[1], images[0])
    second.close()


def test_ctrl_c_waits_until_the_contexts_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is freed half is an EGL error with a traceback when the process ends."""
    freed = []

    def close(renderer: mujoco_images._Renderer) -> None:
        signal.raise_signal(signal.SIGINT)
        usual(renderer)
        freed.append(renderer._gl_context is None)

    usual = mujoco_images._Renderer.close
    monkeypatch.setattr(mujoco_images._Renderer, "close", close)
    env = SimEnv("transfer_cube", cameras={"top": (24, 32), "angle": (12, 16)}, quality="draft")
    env.reset()
    with pytest.raises(KeyboardInterrupt):
        env.close()
    assert freed == [True, True]
    monkeypatch.undo()
    env.close()

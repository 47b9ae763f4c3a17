"""A new role is one line of the table of roles: it is recorded, validated, trained on, deployed and replayed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py

from aloha_kit.core import Observation
from aloha_kit.core.features import role_of, value_of, VECTORS
from tests.tiny import write_policy

ROOT = Path(__file__).parents[2]
LINE = '        Role("target", ("target",), read="privileged"),\n    )\n}\n'
ENVIRONMENT = """
from dataclasses import replace

from dm_env import specs
import numpy as np
import point_world
from aloha_kit.core import Feature


class TargetEnv(point_world.PointEnv):
    def __init__(self, task, rig, *, realtime=False):
        super().__init__(task, rig, realtime=realtime)
        target = Feature.vector("target", "target", ("goal_x", "goal_y"), "m")
        self.contract = self.contract.with_sensors((target,))

    def _observe(self, **stamps):
        return {**super()._observe(**stamps), "target": self.goal.copy()}

    def observation_spec(self):
        return {**super().observation_spec(), "target": specs.Array((2,), np.float32)}
"""
RIG = "name: point\nkind: target_world:TargetEnv\ncameras:\n  top: {height: 24, width: 32}\n"
TASK = (
    "name: reach\ninstruction: Reach.\nrig: point.yaml\nepisode_len: 20\nrate_hz: 20\n"
    "cameras: [top]\ndataset_dir: data\n"
)
COMMANDS = """
import importlib
for line in [
    "record --task reach.yaml --num_episodes 2 --workers 1",
    "episode validate data",
    "train --task reach.yaml --policy small.yaml --use_environment_state --include_failed --ckpt_dir run"
    " --device cpu --num_steps 2 --batch_size 4 --val_every 2 --val_batches 1",
    "deploy --task reach.yaml --ckpt run --num_rollouts 1 --output out --device cpu --video 0",
    "replay out/episode_0.hdf5 --execute --task reach.yaml --output replayed",
]:
    name, *flags = line.split()
    importlib.import_module(f"aloha_kit.{name}.__main__").main(flags)
"""


def test_a_role_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "aloha_kit", tmp_path / "aloha_kit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    table = tmp_path / "aloha_kit" / "core" / "features.py"
    before = table.read_text()
    table.write_text(before.replace("    )\n}\n", LINE, 1))
    assert table.read_text() != before
    shutil.copy(ROOT / "tests" / "envs" / "point_world.py", tmp_path)
    for name, text in (("target_world.py", ENVIRONMENT), ("point.yaml", RIG), ("reach.yaml", TASK)):
        (tmp_path / name).write_text(text)
    write_policy(tmp_path / "small.yaml", chunk_size=5)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
    assert "(agree)" in done.stdout
    with h5py.File(tmp_path / "out" / "episode_0.hdf5") as episode:
        assert episode["observations/target"].shape == (21, 2)
    assert '"target.mean"' in (tmp_path / "run" / "checkpoints" / "last" / "statistics.json").read_text()


def test_any_other_word_is_the_role_of_a_sensor() -> None:
    assert (role_of("wrench").read, role_of("privileged").read) == ("listed", "privileged")
    assert set(VECTORS) == {"qpos", "qvel", "effort", "base_vel", "environment_state"}


def test_a_value_is_found_by_its_feature() -> None:
    observation = Observation(qpos=[1.0], images={"top": [[[0]]]})  # type: ignore[typeddict-item]
    assert value_of(observation, "qpos") == [1.0]
    assert value_of(observation, "images/top") == [[[0]]]
    assert value_of(observation, "images/wrist") is value_of(observation, "sensors/force") is None

"""Files in robomimic's layout, written with h5py as robomimic's own programs write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LENGTHS = (7, 5, 6)
ENV_ARGS = {
    "env_name": "Lift",
    "type": 1,
    "env_version": "1.4.1",
    "env_kwargs": {
        "robots": "Panda",
        "control_freq": 20,
        "reward_shaping": False,
        "controller_configs": {
            "type": "OSC_POSE",
            "control_delta": True,
            "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
        },
        "camera_names": ["agentview"],
    },
}


def rows_of(steps: int, seed: int, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """Data sets of one demonstration, random but for the reward, which is 1 at the end."""
    rng = np.random.default_rng(seed)
    whole: dict[str, Any] = {
        "robot0_eef_pos": rng.normal(size=(steps + 1, 3)),
        "robot0_eef_quat": rng.normal(size=(steps + 1, 4)),
        "robot0_gripper_qpos": rng.normal(size=(steps + 1, 2)),
        "robot0_joint_pos": rng.normal(size=(steps + 1, 7)),
        "object": rng.normal(size=(steps + 1, 10)),
    }
    if image_size:
        for camera in ("agentview", "robot0_eye_in_hand"):
            whole[f"{camera}_image"] = rng.integers(0, 256, (steps + 1, *image_size, 3), np.uint8)
    reward = np.zeros(steps)
    reward[-1] = 1
    return {
        "actions": rng.uniform(-1, 1, (steps, 7)),
        "states": rng.normal(size=(steps, 32)),
        "rewards": reward,
        "dones": reward.astype(np.int64),
        **{f"obs/{key}": value[:-1] for key, value in whole.items()},
        **{f"next_obs/{key}": value[1:] for key, value in whole.items()},
    }


def write(
    path: Path,
    *,
    images: tuple[int, int] | None = None,
    masks: Mapping[str, Sequence[str]] | None = None,
    env_args: Any = None,
    without: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Write three demonstrations, and return what each holds."""
    demos = {f"demo_{i}": rows_of(steps, i, images) for i, steps in enumerate(LENGTHS)}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ENV_ARGS if env_args is None else env_args)
        data.attrs["total"] = sum(LENGTHS)
        for name, rows in demos.items():
            group = data.create_group(name)
            group.attrs["num_samples"] = len(rows["actions"])
            group.attrs["model_file"] = "<mujoco/>"
            for key, value in rows.items():
                if not key.startswith(tuple(without)):
                    group.create_dataset(key, data=value)
        for key, names in (masks or {}).items():
            file[f"mask/{key}"] = np.array(names, dtype="S")
    return demos

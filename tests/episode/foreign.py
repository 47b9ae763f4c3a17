"""Files of other recorders, built with plain h5py from what is known of their layouts."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np

from tests.episode.recording import Rig

STEPS = 40


def _vectors(file: h5py.File, rig: Rig, *, effort: bool) -> None:
    rows = range(STEPS)
    file["action"] = np.stack([rig.action(i)[:14] for i in rows])
    file["observations/qpos"] = np.stack([rig.qpos(i) for i in rows])
    file["observations/qvel"] = np.stack([rig.observation(i)["qvel"] for i in rows])
    if effort:
        file["observations/effort"] = np.stack([rig.observation(i)["effort"] for i in rows])


def _raw(file: h5py.File, rig: Rig) -> None:
    for name, (height, width) in rig.sizes.items():
        data = file.create_dataset(
            f"observations/images/{name}", (STEPS, height, width, 3), "uint8", chunks=(1, height, width, 3)
        )
        for i in range(STEPS):
            data[i] = rig.image(name, i)


def _padded(file: h5py.File, rig: Rig, names: list[str], quality: int = 50) -> None:
    coded = {
        name: [
            cv2.imencode(".jpg", rig.image(name, i), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].reshape(-1)
            for i in range(STEPS)
        ]
        for name in names
    }
    longest = max(len(c) for rows in coded.values() for c in rows)
    for name, rows in coded.items():
        padded = np.stack([np.pad(c, (0, longest - len(c))) for c in rows])
        file.create_dataset(f"observations/images/{name}", data=padded, chunks=(1, longest))
    file["compress_len"] = np.array([[len(c) for c in coded[name]] for name in names], np.float32)


def aloha(path: Path, rig: Rig) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        _vectors(file, rig, effort=True)
        _raw(file, rig)


def act_sim(path: Path, rig: Rig) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = True
        _vectors(file, rig, effort=False)
        _raw(file, rig)


def mobile_aloha(path: Path, rig: Rig) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["sim"], file.attrs["compress"] = False, True
        _vectors(file, rig, effort=True)
        file["base_action"] = np.tile(np.array([0.1, -0.2], np.float32), (STEPS, 1))
        # the rows of compress_len follow the task's order, the keys are listed alphabetically
        _padded(file, rig, ["cam_right_wrist", "cam_high", "cam_left_wrist"])


def cobot_magic(path: Path, rig: Rig) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["sim"], file.attrs["compress"] = False, False
        _vectors(file, rig, effort=True)
        file["base_action"] = np.zeros((STEPS, 2), np.float32)
        _raw(file, rig)
        height, width = rig.sizes["cam_high"]
        data = file.create_dataset("observations/images_depth/cam_high", (STEPS, height, width), "uint16")
        for i in range(STEPS):
            data[i] = rig.depth_image(i)


LAYOUTS = {"aloha": aloha, "act_sim": act_sim, "mobile_aloha": mobile_aloha, "cobot_magic": cobot_magic}

"""Files of other recorders, built with plain h5py from what is known of their layouts."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np

from tests.storage.recording import Rig

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


# ---- files of other layouts, from the published descriptions of their writers

SIDES = ("left", "right")
ROBOTWIN_CAMERAS = {"head_camera": "cam_high", "left_camera": "cam_left_wrist", "right_camera": "cam_right_wrist"}
RGB_COMMENT = b"\xff\xfe" + (2 + 8).to_bytes(2, "big") + b"XPL-RGB1"


def _strings(rows: list[bytes]) -> np.ndarray:
    return np.array(rows, f"S{max(map(len, rows))}")


def _jpegs(rig: Rig, name: str, rows: int = STEPS, *, marked: bool = False) -> list[bytes]:
    """RGB handed to an encoder that takes it for BGR; or, marked, an ordinary JPEG with XPolicyLab's comment."""
    if not marked:
        return [cv2.imencode(".jpg", rig.image(name, i))[1].tobytes() for i in range(rows)]
    codes = [cv2.imencode(".jpg", rig.image(name, i)[..., ::-1])[1].tobytes() for i in range(rows)]
    return [code[:20] + RGB_COMMENT + code[20:] for code in codes]  # behind the JFIF segment


def robotwin(path: Path, rig: Rig, *, vector_only: bool = False) -> None:
    """One series of joints; a camera is a group with `rgb` as byte strings, `depth` in mm and its matrices."""
    joints = np.stack([rig.qpos(i) for i in range(STEPS)]).astype(np.float64)
    with h5py.File(path, "w") as file:
        file["joint_action/vector"] = joints
        for side, part in zip(SIDES, (joints[:, :7], joints[:, 7:]), strict=True) if not vector_only else ():
            file[f"joint_action/{side}_arm"], file[f"joint_action/{side}_gripper"] = part[:, :6], part[:, 6]
            file[f"endpose/{side}_endpose"] = np.zeros((STEPS, 7))
        for name, drawn in ROBOTWIN_CAMERAS.items():
            file[f"observation/{name}/rgb"] = _strings(_jpegs(rig, drawn))
            file[f"observation/{name}/intrinsic_cv"] = np.zeros((STEPS, 3, 3))
        file["observation/head_camera/depth"] = np.stack([rig.depth_image(i) + 0.25 for i in range(STEPS)])
        file["pointcloud"] = np.zeros((STEPS, 0))


def xpolicylab(path: Path, rig: Rig, *, marked: bool = False, frequency: bool = True) -> None:
    """State and action as a data set an arm and a gripper, images under `vision`, one or several instructions."""
    with h5py.File(path, "w") as file:
        file["data_format_version"] = "v1.0"
        file["instructions"] = '["put the cube into the bowl", "cube into bowl"]'
        if frequency:
            file["additional_info/frequency"] = np.int32(20)
        for group, vector in (("state", rig.qpos), ("action", lambda i: rig.action(i)[:14])):
            rows = np.stack([vector(i) for i in range(STEPS)])
            for side, part in zip(SIDES, (rows[:, :7], rows[:, 7:]), strict=True):
                file[f"{group}/{side}_arm_joint_states"] = part[:, :6]
                file[f"{group}/{side}_ee_joint_states"] = part[:, 6:]
        for name, drawn in (("cam_head", "cam_high"), ("cam_left_wrist", "cam_left_wrist")):
            file[f"vision/{name}/colors"] = _strings(_jpegs(rig, drawn, marked=marked))
            file[f"vision/{name}/shape"] = np.array([*rig.sizes[drawn], 3])
        file["vision/cam_head/depths"] = np.stack([rig.depth_image(i) for i in range(STEPS)])[..., None]


def rdt(path: Path, rig: Rig, instruction: object = "pour the water") -> None:
    """The ALOHA family's vectors, images as byte strings, depth as rows of PNG, the task in words in the file."""
    with h5py.File(path, "w") as file:
        _vectors(file, rig, effort=True)
        file["base_action"] = np.zeros((STEPS, 2), np.float32)
        for name in rig.sizes:
            file[f"observations/images/{name}"] = _strings(_jpegs(rig, name))
        depth = [cv2.imencode(".png", rig.depth_image(i))[1].tobytes() for i in range(STEPS)]
        file["observations/images_depth/cam_high"] = _strings(depth)
        file["instruction"] = instruction


def any_arms(path: Path, state: int, action: int, base: int = 0, seed: int = 0) -> Path:
    """An ALOHA-like file of any widths; the joints follow smooth commands two steps later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wave = 0.4 * np.sin(np.arange(STEPS + 2)[:, None] / 9 + rng.uniform(0, 6, max(state, action)))
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file["action"] = wave[2:, :action].astype(np.float32)
        file["observations/qpos"] = (wave[:-2, :state] + rng.normal(0, 1e-4, (STEPS, state))).astype(np.float32)
        if base:
            file["base_action"] = rng.normal(0, 0.1, (STEPS, base)).astype(np.float32)
        images = rng.integers(0, 255, (STEPS, 12, 16, 3), np.uint8)
        file["observations/images/cam"] = images
    return path

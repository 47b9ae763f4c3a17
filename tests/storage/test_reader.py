"""Files of others are read as they are, ours are read by their loaders, and errors name what is there."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError, joint_names
from aloha_kit.episode import Episode, list_episodes, list_partials
from tests.storage.foreign import cobot_magic, LAYOUTS, mobile_aloha, STEPS
from tests.storage.recording import record, Rig

# ---- files of others


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_files(tmp_path: Path, layout: str) -> None:
    rig, path = Rig(), tmp_path / "episode_3.hdf5"
    LAYOUTS[layout](path, rig)
    with Episode.open(path) as episode:
        assert (episode.layout, episode.length, episode.frames) == (layout, STEPS, STEPS)
        assert sorted(episode.cameras) == sorted(rig.sizes)
        np.testing.assert_array_equal(episode.action, np.stack([rig.action(i) for i in range(STEPS)]))
        np.testing.assert_array_equal(episode.qpos, np.stack([rig.qpos(i) for i in range(STEPS)]))
        assert episode.qvel is not None
        assert (episode.effort is None) == (layout == "act_sim")
        assert (episode.base_action is None) == (layout in ("aloha", "act_sim"))
        assert episode.stamps == {}
        assert episode.success is None
        assert "environment_state" not in episode.vectors
        for camera in rig.sizes:
            assert episode.image_size(camera) == rig.sizes[camera]
            for row in (0, STEPS - 1):
                got, given = episode.image(camera, row).astype(int), rig.image(camera, row).astype(int)
                if layout == "mobile_aloha":
                    assert np.abs(got - given).mean() < 12
                    jpeg = episode.jpeg(camera, row)
                    assert jpeg is not None
                    assert (jpeg[:2], jpeg[-2:]) == (b"\xff\xd8", b"\xff\xd9")
                else:
                    np.testing.assert_array_equal(got, given)
                    assert episode.jpeg(camera, row) is None
        contract = episode.contract
        assert contract is not None
        assert contract.cameras == {camera: rig.sizes[camera] for camera in episode.cameras}
        assert len(contract.action_names) == (14 if layout in ("aloha", "act_sim") else 16)
        if layout == "cobot_magic":
            assert contract.state_names[:2] == ("left_joint0", "left_joint1")
            assert (contract.rate_hz, contract.units["joints"]) == (30.0, "rad")
            assert episode.depth_cameras == ("cam_high",)
            np.testing.assert_array_equal(episode.depth("cam_high", 5), rig.depth_image(5))
        else:
            assert contract.state_names == joint_names()
            assert contract.rate_hz == 50.0


def test_older_cobot_files_keep_depth_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    cobot_magic(path, Rig())
    with h5py.File(path, "r+") as file:
        file.move("observations/images_depth", "observations/depths")
    with Episode.open(path) as episode:
        assert (episode.layout, episode.depth_cameras) == ("cobot_magic", ("cam_high",))
        assert episode.depth("cam_high", 1).dtype == np.uint16


def test_other_arms_have_names_without_a_meaning(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["action"] = np.zeros((5, 7))
        file["observations/qpos"] = np.ones((5, 7))
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.contract.state_names == tuple(f"joint_{i}" for i in range(7))
        assert episode.contract.units["joints"] == "unknown"
        assert episode.rate_hz == 50.0
        assert "joint_0 … joint_6, unknown units and 50 Hz are assumed" in episode.assumption
        assert episode.action.dtype == np.float32
        assert episode.cameras == ()


# ---- our files in the hands of others: their loaders, written here from what they are known to read


def act_loader(path: Path, cameras: list[str], start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ACT: one raw frame a camera and qpos at `start`, actions from there (one earlier on a real robot)."""
    with h5py.File(path, "r") as root:
        is_sim = root.attrs["sim"]
        shape = root["/action"].shape
        qpos = root["/observations/qpos"][start]
        assert root["/observations/qvel"][start].shape == qpos.shape
        images = np.stack([root[f"/observations/images/{name}"][start] for name in cameras])
        first = start if is_sim else max(0, start - 1)
        action = root["/action"][first:]
    padded = np.zeros(shape, np.float32)
    padded[: len(action)] = action
    return images, qpos, padded


def act_plus_plus_loader(path: Path, cameras: list[str], start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ACT++: base velocities appended to the action, padded JPEG handed to imdecode with its padding."""
    with h5py.File(path, "r") as root:
        compressed = root.attrs.get("compress", False)
        action = root["/action"][()]
        base = root["/base_action"][()] if "/base_action" in root else np.zeros((len(action), 2), np.float32)
        action = np.concatenate([action, base], axis=-1)
        qpos = root["/observations/qpos"][start]
        images = [root[f"/observations/images/{name}"][start] for name in cameras]
        if compressed:
            images = [cv2.imdecode(image, 1) for image in images]
        first = start if root.attrs["sim"] else max(0, start - 1)
    return np.stack(images), qpos, action[first:]


SAME_SIZE = {"cam_high": (24, 32), "cam_left_wrist": (24, 32)}


@pytest.mark.parametrize("sim", [True, False])
def test_act_reads_our_raw_files(tmp_path: Path, sim: bool) -> None:
    rig = Rig(sizes=dict(SAME_SIZE))
    path = record(tmp_path, 30, rig, images="raw", sim=sim)
    actions = np.stack([rig.action(i) for i in range(30)])
    for start in (0, 11, 29):  # they draw the start below the action's length
        images, qpos, action = act_loader(path, list(rig.sizes), start)
        for name, image in zip(rig.sizes, images, strict=True):
            np.testing.assert_array_equal(image, rig.image(name, start))
        np.testing.assert_array_equal(qpos, rig.qpos(start))
        first = start if sim else max(0, start - 1)
        assert action.shape == (30, 14)
        np.testing.assert_array_equal(action[: 30 - first], actions[first:])


@pytest.mark.parametrize("images", ["jpeg", "raw"])
@pytest.mark.parametrize("base", [True, False])
def test_act_plus_plus_reads_our_files(tmp_path: Path, images: str, base: bool) -> None:
    rig = Rig(sizes=dict(SAME_SIZE), base=base)
    path = record(tmp_path, 30, rig, images=images)
    for start in (0, 29):
        frames, qpos, action = act_plus_plus_loader(path, list(rig.sizes), start)
        for name, pixels in zip(rig.sizes, frames, strict=True):
            assert np.abs(pixels.astype(int) - rig.image(name, start).astype(int)).mean() < (
                12 if images == "jpeg" else 1
            )
            assert pixels[:, :6, 0].mean() > pixels[:, :6, 2].mean()  # RGB, not BGR
        np.testing.assert_array_equal(qpos, rig.qpos(start))
        expected = np.stack([rig.action(i) for i in range(start, 30)])
        np.testing.assert_array_equal(action[:, : expected.shape[1]], expected)
        assert action.shape[1] == 16


def test_statistics_of_others_stack_our_files(tmp_path: Path) -> None:
    """Both loaders stack whole qpos and action arrays of all episodes, which need equal lengths across files only."""
    paths = [record(tmp_path, 20, images="raw") for _ in range(2)]
    arrays: dict[str, list[np.ndarray]] = {"qpos": [], "action": []}
    for path in paths:
        with h5py.File(path, "r") as root:
            arrays["qpos"].append(root["/observations/qpos"][()])
            arrays["action"].append(root["/action"][()])
            assert root["/observations/qvel"][()].shape == (21, 14)
    assert np.stack(arrays["qpos"]).shape == (2, 21, 14)
    assert np.stack(arrays["action"]).shape == (2, 20, 14)


# ---- sharing


def _read_in_child(episode: Episode, queue: object) -> None:
    queue.put((os.getpid(), episode.image("cam_high", 4).sum(), episode.qpos.sum()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_episode_travels_to_other_processes(tmp_path: Path, method: str) -> None:
    with Episode.open(record(tmp_path, 8)) as episode:
        expected = episode.image("cam_high", 4).sum()
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=_read_in_child, args=(episode, queue))
        child.start()
        process, image, qpos = queue.get(timeout=60)
        child.join()
        assert process != os.getpid()
        assert (image, qpos) == (expected, episode.qpos.sum())


def test_threads_share_an_episode(tmp_path: Path) -> None:
    rig = Rig()
    with Episode.open(record(tmp_path, 30, rig, images="raw")) as episode, ThreadPoolExecutor(4) as pool:
        rows = list(range(31)) * 8
        for row, image in zip(rows, pool.map(lambda row: episode.image("cam_high", row), rows), strict=True):
            np.testing.assert_array_equal(image, rig.image("cam_high", row))


def test_pickle_and_arrays_that_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    with Episode.open(record(tmp_path, 8)) as episode, pickle.loads(pickle.dumps(episode)) as copy:
        np.testing.assert_array_equal(copy.qpos, episode.qpos)
        with pytest.raises(ValueError, match="read-only"):
            episode.qpos[0, 0] = 1


# ---- errors


def test_missing_things_are_named(tmp_path: Path) -> None:
    path = record(tmp_path, 8)
    with Episode.open(path) as episode:
        with pytest.raises(
            EpisodeError, match=r"no camera 'cam_hihg'\. Did you mean 'cam_high'\? Known: cam_high, cam_le"
        ):
            episode.image("cam_hihg", 0)
        with pytest.raises(EpisodeError, match="no depth of 'cam_high'"):
            episode.depth("cam_high", 0)
        for row in (9, -1):
            with pytest.raises(EpisodeError, match=f"has frames 0 to 8 of camera 'cam_high', given frame {row}"):
                episode.image("cam_high", row)
        with pytest.raises(EpisodeError, match="no camera 'x'"):
            episode.jpeg("x", 0)
    with pytest.raises(EpisodeError, match="was closed"):
        episode.image("cam_high", 0)
    with pytest.raises(EpisodeError, match=r"no episode .*episode_7\.hdf5'; the folder has: episode_0\.hdf5"):
        Episode.open(tmp_path / "episode_7.hdf5")
    with pytest.raises(EpisodeError, match=r"\(no episodes\)"):
        Episode.open(tmp_path / "elsewhere" / "episode_7.hdf5")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.99])
def test_truncated_files(tmp_path: Path, fraction: float) -> None:
    path = record(tmp_path, 30, images="raw")
    size = round(path.stat().st_size * fraction)
    os.truncate(path, size)
    with pytest.raises(EpisodeError, match=rf"episode_0\.hdf5 is damaged or not an episode \({size} bytes on disk\)"):
        Episode.open(path)
    (tmp_path / "episode_0.hdf5.partial").touch()
    with pytest.raises(EpisodeError, match=r"journal is still there, run: python -m aloha_kit\.episode recover"):
        Episode.open(path)


def test_a_journal_is_not_an_episode(tmp_path: Path) -> None:
    (tmp_path / "episode_0.hdf5.partial").write_bytes(b"aloha_kit jrnl1\n")
    with pytest.raises(EpisodeError, match="it is the journal of a recording, run: python -m"):
        Episode.open(tmp_path / "episode_0.hdf5.partial")


def test_unknown_layouts(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 7))
    with pytest.raises(
        EpisodeError, match=r"in no known layout: it lacks /action\. It has: /data/demo_0/actions \(3, 7\)"
    ):
        Episode.open(path)
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = "aloha_kit/9"
    with pytest.raises(EpisodeError, match="has schema 'aloha_kit/9', this version reads 'aloha_kit/1'"):
        Episode.open(path)


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    mobile_aloha(path, Rig())
    with h5py.File(path, "r+") as file:
        file["observations/images/cam_high"][7] = 0
        file["observations/images/cam_high"][8, :4] = [1, 2, 3, 4]
    with Episode.open(path) as episode:
        assert episode.image("cam_high", 6).shape == (24, 32, 3)
        for row in (7, 8):
            with pytest.raises(EpisodeError, match=f"frame {row} of camera 'cam_high' cannot be used: not a JPEG"):
                episode.image("cam_high", row)


def test_listing_is_by_number_and_by_name(tmp_path: Path) -> None:
    for name in ("episode_10.hdf5", "episode_2.hdf5", "episode_2.hdf5.tmp", "episode_x.hdf5", "mirror_episode_1.hdf5",
                 "episode_3.hdf5.partial", "notes.txt"):  # fmt: skip
        (tmp_path / name).touch()
    assert [p.name for p in list_episodes(tmp_path)] == ["episode_2.hdf5", "episode_10.hdf5"]
    assert [p.name for p in list_partials(tmp_path)] == ["episode_3.hdf5.partial"]
    with pytest.raises(EpisodeError, match=r"no folder .*expected a folder that holds episode_<i>\.hdf5"):
        list_episodes(tmp_path / "nowhere")

"""robomimic's HDF5 layout as a source: vectors, images, filter keys, and what is missing."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.policies import checkpoint
from aloha_kit.replay.__main__ import main as replay
from aloha_kit.testing.sources import check_source
from aloha_kit.train.__main__ import main as train
from tests.formats.robomimic_file import ENV_ARGS, LENGTHS, write
from tests.tiny import write_policy


def test_low_dim_demonstrations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "low_dim_v15.hdf5"
    demos = write(file)
    source = open_source(file)
    check_source(source)
    assert len(source) == 3
    assert "not read: robot0_joint_pos" in source.unused
    with closing(source.open(1)) as episode:
        rows = demos["demo_1"]
        assert (episode.name, episode.length, episode.frames, episode.rate_hz) == ("demo_1", 5, 6, 20.0)
        np.testing.assert_array_equal(episode.action, rows["actions"].astype(np.float32))
        keys = [f"robot0_{key}" for key in ("eef_pos", "eef_quat", "gripper_qpos")]
        for part, end in (("obs", slice(0, 5)), ("next_obs", slice(1, 6))):
            wanted = np.concatenate([rows[f"{part}/{key}"] for key in keys], axis=1)
            np.testing.assert_array_equal(episode.qpos[end], wanted.astype(np.float32))
            objects = rows[f"{part}/object"].astype(np.float32)
            np.testing.assert_array_equal(episode.vectors["environment_state"][end], objects)
        assert episode.success is True
        assert episode.reward is not None
        assert episode.reward.tolist() == [0, 0, 0, 0, 1]
        assert episode.attrs["task"] == "lift"
        features = {feature.name: feature for feature in episode.contract.features}
    assert features["action"].entries[0] == "delta_x"
    assert features["action"].units == ("0.05 m",) * 3 + ("0.5 rad",) * 3 + ("-1 opens, 1 closes",)
    assert features["qpos"].units == ("m",) * 3 + ("1",) * 4 + ("m",) * 2
    assert features["environment_state"].entries[:4] == ("cube_x", "cube_y", "cube_z", "cube_qx")


def test_images_are_those_of_the_file_and_the_last_one_is_of_next_obs(tmp_path: Path) -> None:
    file = tmp_path / "image_v15.hdf5"
    demos = write(file, images=(20, 28))
    source = open_source(file, kind="robomimic")
    check_source(source)
    with closing(source.open(2)) as episode:
        assert episode.contract.cameras == {"agentview": (20, 28), "robot0_eye_in_hand": (20, 28)}
        stored = demos["demo_2"]
        np.testing.assert_array_equal(episode.image("agentview", 3), stored["obs/agentview_image"][3])
        np.testing.assert_array_equal(episode.image("agentview", 6), stored["next_obs/agentview_image"][-1])
        with pytest.raises(EpisodeError, match="no image 7 of camera 'agentview'; its cameras: agentview, robot0_eye"):
            episode.image("agentview", 7)


def test_without_next_obs_there_are_as_many_observations_as_actions(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", without=["next_obs", "rewards", "obs/object"])
    source = open_source(tmp_path / "a.hdf5")
    check_source(source)
    with closing(source.open(0)) as episode:
        assert (episode.length, episode.frames) == (7, 7)
        assert episode.success is None
        assert set(episode.vectors) == {"qpos"}


def test_filter_keys_choose_demonstrations_and_divide_them(tmp_path: Path) -> None:
    file = tmp_path / "a.hdf5"
    write(file, masks={"train": ["demo_2", "demo_0"], "valid": ["demo_1"]})
    whole, training = open_source(file), open_source(f"{file}:train")
    assert (len(whole), list(whole.validation)) == (3, ["demo_1"])
    assert [training.open(i).name for i in range(len(training))] == ["demo_0", "demo_2"]
    assert list(training.validation) == []
    assert len(open_source(f"{file}:train", options=ReadOptions(first=1))) == 1
    with pytest.raises(EpisodeError, match=r"has no filter key 'tran'. Did you mean 'train'\?"):
        open_source(f"{file}:tran")
    with h5py.File(file, "r+") as content:
        content["mask/odd"] = np.array(["demo_7"], dtype="S")
    with pytest.raises(EpisodeError, match="filter key 'odd' lists demo_7, which is not in data"):
        open_source(f"{file}:odd")


@pytest.mark.parametrize(
    ("kwargs", "name", "unit"),
    [
        ({"controller_configs": {"body_parts": {"right": {"output_max": [0.1] * 6}}}}, "delta_x", "0.1 m"),
        ({"controller_configs": {"control_delta": False}}, "target_x", "m"),
        ({"controller_configs": {"body_parts": {"right": {"input_type": "absolute"}}}}, "target_x", "m"),
        ({}, "delta_x", "0.05 m"),
    ],
)
def test_units_of_actions_are_the_range_of_the_controller(
    tmp_path: Path, kwargs: dict[str, Any], name: str, unit: str
) -> None:
    write(tmp_path / "a.hdf5", env_args={**ENV_ARGS, "env_kwargs": kwargs})
    with closing(open_source(tmp_path / "a.hdf5").open(0)) as episode:
        action = next(feature for feature in episode.contract.features if feature.name == "action")
    assert (action.entries[0], action.units[0]) == (name, unit)


def test_what_is_missing_or_different_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.hdf5"
    write(file, without=["obs", "next_obs"])
    with pytest.raises(EpisodeError, match=r"demo_0 lacks the observations robot0_eef_pos, .*dataset_states_to_obs"):
        open_source(file).open(0)
    write(file, without=["actions"])
    with pytest.raises(EpisodeError, match="demo_0"):
        open_source(file).open(0)
    write(file, env_args=["Lift"])
    with pytest.raises(EpisodeError, match="env_args of data must be JSON like"):
        open_source(file)
    with h5py.File(file, "w") as content:
        content["action"] = np.zeros((3, 7))
    with pytest.raises(EpisodeError, match=r"a\.hdf5 is no robomimic data set: it lacks data/demo_<i>"):
        open_source(file, kind="robomimic")
    with pytest.raises(EpisodeError, match=r"no file .nowhere\.hdf5.; expected a robomimic data set"):
        open_source("nowhere.hdf5", kind="robomimic")
    write(file)
    with h5py.File(file, "r+") as content:
        del content["data/demo_1/obs/object"]
        content["data/demo_1/obs/object"] = np.zeros((3, 10))
    with pytest.raises(EpisodeError, match=r"demo_1: obs/object has shape \(3, 10\), expected 2 dimensions and 5 rows"):
        open_source(file).open(1)


def test_it_trains_with_its_own_validation_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALOHA_KIT_CACHE", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    demos = write(tmp_path / "image.hdf5", images=(24, 32), masks={"valid": ["demo_0"]})
    write_policy(tmp_path / "tiny.yaml")
    flags = ["--policy", "tiny.yaml", "--dataset_dir", "image.hdf5", "--batch_size", "4", "--no_preflight"]
    flags += ["--cameras", "agentview", "--num_steps", "2", "--val_every", "2", "--threads", "1", "--device", "cpu"]
    train([*flags, "--ckpt_dir", "run"])
    assert "2 episodes to train on, 1 to validate; 18 steps; cameras: agentview" in capsys.readouterr().err
    network = checkpoint.load(tmp_path / "run" / "checkpoints" / "last")
    expected = np.concatenate([rows["actions"] for rows in demos.values()]).mean(axis=0)
    np.testing.assert_allclose(network.stats["action"].mean, expected, atol=1e-6)


def test_it_is_played_back_as_one_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, video = tmp_path / "image.hdf5", tmp_path / "out.mp4"
    write(file, images=(60, 80))
    replay([str(file), "--n", "2", "--video_path", str(video), "--height", "240"])
    printed = capsys.readouterr().out
    assert "demo_1" in printed
    assert "demo_2" not in printed
    with av.open(str(video)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        assert container.streams.video[0].average_rate == 20
    assert frames == LENGTHS[0] + LENGTHS[1] + 2
    assert {path.name for path in tmp_path.iterdir()} == {"image.hdf5", "out.mp4"}


def test_flags_of_playback_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (["--video_path", "out.avi"], "--video_path must end with .mp4"),
        (["--video_path", "out.mp4", "--execute"], "writes one video and nothing else"),
        (["--n", "0"], "--n must be at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            replay([str(tmp_path), *flags])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


MODEL = """<mujoco>
  <asset><texture name="wood" type="2d" file="{texture}"/><material name="wood" texture="wood"/></asset>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="agentview" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/>
    <body><joint type="slide" axis="1 0 0"/><geom group="1" type="sphere" size="0.1" rgba="1 0 0 1"/></body>
    <body><geom group="0" type="box" size="0.05 0.5 0.5" pos="0.5 0 0" rgba="0 1 0 1"/></body>
  </worldbody>
</mujoco>"""


def write_states(file: Path, texture: str, xs: list[float], **options: Any) -> None:
    """Demonstrations of a red ball on a rail, at x (m) in each state; a green box is a collision shape."""
    write(file, **options)
    with h5py.File(file, "r+") as content:
        for name, demo in content["data"].items():
            del demo["states"]
            states = np.zeros((len(demo["actions"]), 3))
            states[:, 1] = xs[int(name[-1])]
            demo["states"] = states
            demo.attrs["model_file"] = MODEL.format(texture=texture)


@pytest.fixture
def robosuite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `robosuite` with one texture."""
    texture = tmp_path / "site" / "robosuite" / "models" / "assets" / "wood.png"
    texture.parent.mkdir(parents=True)
    (tmp_path / "site" / "robosuite" / "__init__.py").write_text("raise RuntimeError('it is not imported')\n")
    cv2.imwrite(str(texture), np.full((4, 4, 3), 128, np.uint8))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return texture


RECORDED = "/home/somebody/robosuite/robosuite/models/assets/wood.png"


@pytest.mark.parametrize("without", [[], ["obs", "next_obs"]], ids=["low-dim", "states only"])
def test_states_are_rendered_in_the_model_of_each_demonstration(
    tmp_path: Path, robosuite: Path, without: list[str]
) -> None:
    file = tmp_path / "low_dim.hdf5"
    write_states(file, RECORDED, [-0.3, 0.0, 0.3], without=without)
    source = open_source(file, kind="robomimic_states")
    columns = []
    for number in range(3):
        with closing(source.open(number)) as episode:
            assert episode.length == episode.frames == LENGTHS[number]
            assert list(episode.contract.cameras.items()) == [("agentview", (256, 256))]
            red, green, _ = episode.image("agentview", 2).astype(int).transpose(2, 0, 1)
            columns.append(np.nonzero(red > 2 * green + 40)[1].mean())
            assert not (green > 2 * red + 40).any()  # no collision shape
            with pytest.raises(EpisodeError, match=f"no state {LENGTHS[number]} for an image"):
                episode.image("agentview", LENGTHS[number])
    # a vertical angle of 45 deg at 1 m: 0.828 m are 256 pixels
    np.testing.assert_allclose(columns, 127.5 + np.array([-0.3, 0.0, 0.3]) * 256 / 0.828, atol=2)


def test_a_file_without_images_is_played_back_from_its_states(tmp_path: Path, robosuite: Path) -> None:
    write_states(tmp_path / "a.hdf5", RECORDED, [0.0, 0.1, 0.2])
    replay([str(tmp_path / "a.hdf5"), "--n", "1", "--video_path", str(tmp_path / "out.mp4"), "--height", "240"])
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == LENGTHS[0]


def test_states_that_cannot_be_rendered_are_one_line(tmp_path: Path, robosuite: Path) -> None:
    file = tmp_path / "a.hdf5"
    write_states(file, RECORDED.replace("wood", "steel"), [0, 0, 0])
    with pytest.raises(EpisodeError, match=r"1 files of its model are not in the installed robosuite, such as .*steel"):
        open_source(file, kind="robomimic_states").open(0)
    write(file)
    with pytest.raises(EpisodeError, match="states has 32 entries, and the model of model_file has 1:"):
        open_source(file, kind="robomimic_states").open(0)
    with h5py.File(file, "r+") as content:
        content["data/demo_0"].attrs["model_file"] = "<mujoco><worldbody><boddy/></worldbody></mujoco>"
        del content["data/demo_1"].attrs["model_file"]
    with pytest.raises(EpisodeError, match=r"demo_0: MuJoCo .* does not load model_file: .*boddy") as refused:
        open_source(file, kind="robomimic_states").open(0)
    assert "\n" not in str(refused.value)
    with pytest.raises(EpisodeError, match="demo_1 lacks the attribute model_file"):
        open_source(file, kind="robomimic_states").open(1)


def test_without_robosuite_its_meshes_are_named_as_missing(tmp_path: Path) -> None:
    write_states(tmp_path / "a.hdf5", RECORDED, [0, 0, 0])
    with pytest.raises(EpisodeError, match="which is not installed here; `make robosuite` installs it"):
        open_source(tmp_path / "a.hdf5", kind="robomimic_states").open(0)

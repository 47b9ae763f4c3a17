"""The commands as a user types them: run folder, fresh processes, videos, episodes, interruptions."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
import yaml
from stable_baselines3 import PPO

from aloha_kit.core import ConfigError, ContractError
from aloha_kit.formats import open_source
from aloha_kit.loop import Replay, run_episode, SafetyGuard, wilson_interval
from aloha_kit.replay.__main__ import main as replay
from aloha_kit.rl.__main__ import main
from aloha_kit.rl.policy import LoadedRun
from aloha_kit.rl.run_folder import read_lines, RunFolder
from aloha_kit.sim import ReachEnv
from tests.commands import failure
from tests.rl.conftest import QUICK
from tests.waiting import until

ROOT = Path(__file__).parents[2]


def process(here: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a fresh process."""
    return subprocess.Popen(
        [sys.executable, "-m", "aloha_kit.rl", *words],
        cwd=here,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{here}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def normaliser(run: Path) -> Any:
    found = RunFolder(run).checkpoint()
    assert found is not None
    return pickle.loads((found.folder / "normaliser.pkl").read_bytes())


def test_a_run_leaves_everything_it_promises(here: Path, run: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["task"], settings["observe"], settings["algorithm"]) == ("reach.yaml", ["joints", "target"], "ppo")
    recorded = json.loads((run / "env.json").read_text())
    assert recorded["bands"] == [[0.1, 0.3], [0.3, 0.6]]
    assert recorded["cameras"] == []
    assert {"aloha_kit", "stable_baselines3", "torch"} <= recorded["versions"].keys()
    checkpoint = RunFolder(run).checkpoint()
    assert checkpoint is not None
    assert checkpoint.state["steps"] == 1280
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == ["model.zip", "normaliser.pkl", "state.json"]
    episodes, progress = read_lines(run / "episodes.jsonl"), read_lines(run / "progress.jsonl")
    assert len(episodes) == 1280 // 20
    assert {row["band"] for row in episodes} == {0}  # the first level
    for row in episodes:
        assert row["returned"] == pytest.approx(sum(row["terms"].values()))
    assert [row["step"] for row in progress] == list(range(128, 1281, 128))
    recent = [row["success"] for row in episodes][-60:]
    assert progress[-1]["success/band_0"] == pytest.approx(np.mean(recent))
    assert progress[-1]["curriculum/level"] == checkpoint.state["curriculum"]["level"] == 0
    assert "python -m aloha_kit.rl train --task reach.yaml" in (run / "logs" / "log.txt").read_text()
    assert list((run / "tensorboard").iterdir())
    refused = failure(main, ["train", "--task", "reach.yaml", "--output", str(run)])
    assert refused == f"error: '{run}' is not empty; go on with its run by --resume {run}, or choose another place " + (
        "with --output"
    )


def test_eval_in_a_fresh_process_reports_bands_and_films_another_camera(here: Path, run: Path, tmp_path: Path) -> None:
    words = ("--num_rollouts", "3", "--camera", "side", "--output", str(tmp_path))
    evaluated = process(here, "eval", str(run), *words)
    printed, error = evaluated.communicate(timeout=900)
    assert evaluated.returncode == 0, error
    report = json.loads((tmp_path / "eval.json").read_text())
    assert [band["band"] for band in report["bands"]] == [[0.1, 0.3], [0.3, 0.6]]
    for number, band in enumerate(report["bands"]):
        rows = [row for row in report["rollouts"] if row["band"] == number]
        successes = sum(row["success"] for row in rows)
        assert len(rows) == 3
        assert (band["success"]["successes"], band["success"]["trials"]) == (successes, 3)
        assert band["success"]["wilson95"] == pytest.approx(wilson_interval(successes, 3))
        assert band["mean_return"] == pytest.approx(np.mean([row["returned"] for row in rows]))
    assert printed.startswith("10-30 cm: success ")
    for name in ("band_0_seed_100000.mp4", "band_1_seed_100000.mp4"):
        with av.open(str(tmp_path / name)) as video:
            assert sum(1 for _ in video.decode(video=0)) == 21 + 20  # T + 1, and the last one for a second


def test_render_makes_videos_and_no_report(here: Path, run: Path, tmp_path: Path) -> None:
    main(["render", str(run), "--camera", "top", "--output", str(tmp_path)])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["band_0_seed_100000.mp4", "band_1_seed_100000.mp4"]
    wrong = failure(main, ["render", str(run), "--camera", "sied", "--output", str(tmp_path)])
    assert wrong == "error: rig 'point' has no camera 'sied'. Did you mean 'side'? Known: side, top."


def test_an_exported_episode_is_valid_and_replays_to_the_same_distance(
    here: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(LoadedRun.load(run, "cpu").connect())
    # after 1280 steps nearly all rollouts fail
    monkeypatch.setattr(kind, "succeeded", lambda env, outcome: not outcome.error)
    main(["export", str(run), "--num_episodes", "2", "--cameras", "side", "--output", str(tmp_path)])
    files = sorted(tmp_path.glob("*.hdf5"))
    assert [file.name for file in files] == ["episode_0.hdf5", "episode_1.hdf5"]
    loaded = LoadedRun.load(run, "cpu")
    for file in files:
        with h5py.File(file) as episode:
            actions, observed = episode["action"][:], episode["observations/sensors/target"][:]
            assert episode["observations/images/side"].shape[0] == 21
        described = open_source(str(file)).open(0).describe
        assert described["source"] == "rl:run"
        env: Any = loaded.connect()
        env.seed(described["seed"])
        run_episode(env, SafetyGuard(Replay(actions), env.limits))
        assert abs(env.target_distance - float(np.linalg.norm(observed[-1]))) < 1e-5
    from aloha_kit.episode.__main__ import main as episode_command

    episode_command(["validate", str(tmp_path)])


def test_an_exported_reach_episode_replays_to_the_same_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "--task", "reach", "--output", "run", "--num_steps", "256", "--lr", "0.05", *QUICK])
    distances: list[float] = []
    usual = ReachEnv.close
    monkeypatch.setattr(ReachEnv, "succeeded", lambda env, outcome: not outcome.error)  # wherever it ends
    monkeypatch.setattr(ReachEnv, "close", lambda env: distances.append(env.target_distance) or usual(env))
    main(["export", "run", "--num_episodes", "2"])
    for file in sorted(Path("run/episodes").glob("*.hdf5")):
        with h5py.File(file) as episode:
            to_target = np.linalg.norm(episode["observations/sensors/target"][:], axis=1)
        assert abs(to_target[-1] - to_target[0]) > 0.02, "the arm moves"
        replay(["--execute", "--task", "reach", "--no_video", "--no_plots", "--no_rrd", str(file)])
        assert abs(distances[-1] - to_target[-1]) < 1e-5
    assert len(distances) == 3  # of the export and of each replay


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval", "run", "--num_rollouts", "0"), "num_rollouts must be at least 1, given 0"),
        (("eval", "run", "--video", "-1"), "video must be at least 0, given -1"),
        (("render", "run", "--num_rollouts", "0"), "num_rollouts must be at least 1, given 0"),
        (("export", "run", "--num_episodes", "0"), "num_episodes must be at least 1, given 0"),
        (("export", "run", "--seed", "-1"), "seed must be at least 0, given -1"),
        (("train", "--seed", "-1"), "seed must be at least 0, given -1"),
        (("train", "--image_size", "0", "64"), "image_height must be at least 1, given 0"),
        (
            ("train", "--resume", "run", "--output", "new"),
            "--resume goes on in its own folder, run: give it without --output",
        ),
        (
            ("train", "--task", "reach.yaml", "--observe", "joints", "sid_image"),
            "no observation group 'sid_image'. Did you mean 'side_image'? Known: joints, qpos, side_image, target, "
            "top_image.",
        ),
    ],
)
def test_wrong_flags_are_one_line(here: Path, words: tuple[str, ...], message: str) -> None:
    assert failure(main, list(words)).removeprefix("error: ").startswith(message)
    assert not Path("runs").exists()


def test_a_checkpoint_holds_the_update_of_its_last_rollout(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[int, Any] = {}
    usual = RunFolder.save

    def save(run: RunFolder, *args: Any) -> Path:
        folder = usual(run, *args)
        weights[args[0]] = PPO.load(folder / "model.zip").policy.state_dict()
        return folder

    words = ["train", "--task", "reach.yaml", "--processes", "no", "--log_std_init", "-1.6", *QUICK]
    main([*words, "--output", str(tmp_path / "ended"), "--num_steps", "128"])
    ended = LoadedRun.load(tmp_path / "ended", "cpu").model.policy.state_dict()
    monkeypatch.setattr(RunFolder, "save", save)
    main([*words, "--output", str(tmp_path / "went_on"), "--num_steps", "256", "--save_every", "128"])
    assert list(weights) == [128, 256]
    np.testing.assert_allclose(ended["log_std"], -1.6, atol=0.05)
    for name, values in ended.items():
        np.testing.assert_array_equal(weights[128][name], values)


@pytest.mark.parametrize(
    ("file", "key", "value", "error", "words"),
    [
        ("config.yaml", "observe", ["joints"], ContractError, "observe is ['joints'] in config.yaml and"),
        ("config.yaml", "algorithm", "ppa", ConfigError, "algorithm is 'ppa', expected ppo, sac"),
        ("env.json", "bands", [[0.1, 0.3]], ContractError, "bands: [[0.1, 0.3]] against [[0.1, 0.3], [0.3, 0.6]]"),
        ("env.json", "actions", 6, ContractError, "actions: 6 against 2"),
        ("env.json", "contract", None, ContractError, "action[0]: 'elbow' against 'x'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    here: Path, run: Path, tmp_path: Path, file: str, key: str, value: Any, error: type[Exception], words: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    text = (copy / file).read_text()
    values = json.loads(text) if file.endswith("json") else yaml.safe_load(text)
    if key == "contract":
        values[key] = json.loads(json.dumps(values[key]).replace('"x"', '"elbow"'))
    else:
        values[key] = value
    (copy / file).write_text(json.dumps(values) if file.endswith("json") else yaml.safe_dump(values))
    with pytest.raises(error) as refused:
        LoadedRun.load(copy, "cpu").connect()
    assert words in str(refused.value)


@pytest.mark.parametrize(("pattern", "key"), [("env.json", "task"), ("checkpoints/*/state.json", "curriculum")])
def test_a_file_that_lacks_a_value_is_named(here: Path, run: Path, tmp_path: Path, pattern: str, key: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (file,) = copy.glob(pattern)
    values = json.loads(file.read_text())
    del values[key]
    file.write_text(json.dumps(values))
    assert failure(main, ["eval", str(copy)]) == f"error: {file} is damaged: it lacks {key}"
    assert failure(main, ["train", "--resume", str(copy), "--num_steps", "2000"]) == (
        f"error: {file} is damaged: it lacks {key}"
    )


def test_a_network_that_was_cut_is_refused(here: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (file,) = copy.glob("checkpoints/*/model.zip")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert failure(main, ["eval", str(copy)]).startswith(f"error: {file.parent} cannot be loaded: ")
    resumed = failure(main, ["train", "--resume", str(copy), "--num_steps", "2000"])
    assert resumed.startswith(f"error: {file.parent} cannot be resumed: ")


def test_kill_and_resume_keep_level_normaliser_and_success(here: Path, tmp_path: Path) -> None:
    """A process that is killed goes on from its checkpoint; what it wrote beyond is removed."""
    run = tmp_path / "killed"
    words = ["train", "--task", "reach.yaml", "--output", str(run), "--save_every", "256", *QUICK]
    training = process(here, *words, "--num_steps", "1000000", "--processes", "yes")
    try:
        until(lambda: RunFolder(run).checkpoint() is not None, "a checkpoint", timeout=900)
    finally:
        training.kill()
        training.communicate()
    before = RunFolder(run).checkpoint()
    assert before is not None
    state = before.state
    saved = normaliser(run)
    state["curriculum"]["level"] = 1  # as if the first band had been mastered
    (before.folder / "state.json").write_text(json.dumps(state))
    steps = state["steps"]
    more = steps + 128
    main(["train", "--resume", str(run), "--num_steps", str(more)])
    after = RunFolder(run).checkpoint()
    assert after is not None
    assert (after.state["steps"], after.state["curriculum"]["level"]) == (more, 1)
    assert after.state["cpu_s"] >= state["cpu_s"]
    new = normaliser(run)
    assert new.obs_rms["target"].count == pytest.approx(saved.obs_rms["target"].count + 130)  # resets count too
    rows = read_lines(run / "episodes.jsonl")
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert {row["band"] for row in rows if row["step"] > steps} == {0, 1}
    assert failure(main, ["train", "--resume", str(run), "--observe", "joints"]).startswith(
        "error: --observe does not go with --resume: the run keeps observe ['joints', 'target']"
    )
    assert failure(main, ["train", "--resume", str(run), "--num_steps", "128"]).startswith(
        f"error: already at step {more}; give a larger --num_steps than 128"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_stops(here: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "stopped"
    words = ["train", "--task", "reach.yaml", "--output", str(run), "--num_steps", "1000000", "--processes", "no"]
    training = process(here, *words, *QUICK)
    try:
        until(lambda: read_lines(run / "progress.jsonl"), "an update", timeout=900)
        training.send_signal(number)
        _, error = training.communicate(timeout=900)
    finally:
        training.kill()
    assert training.returncode == 128 + number, error
    checkpoint = RunFolder(run).checkpoint()
    assert checkpoint is not None
    assert checkpoint.state["steps"] >= 128
    assert f"stopped by {number.name} and saved; go on with: python -m aloha_kit.rl train --resume {run}" in error
    assert "tmux" in error
    assert "Traceback" not in error


def test_a_device_to_render_on_that_is_not_there_is_one_line(here: Path, run: Path) -> None:
    commands = (["train", "--task", "reach.yaml"], ["eval", str(run)], ["train", "--resume", str(run)])
    refused = {failure(main, [*words, "--render_device", "99"]) for words in commands}
    from mujoco.egl import egl_ext  # after torch's compiler, which the command loads first

    there = ", ".join(map(str, range(len(egl_ext.eglQueryDevicesEXT()))))
    assert refused == {f"error: --render_device 99 is not there. EGL has: {there}"}
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["stable_baselines3", "gymnasium"])
def test_a_missing_extra_is_one_line_and_the_package_loads_without_it(name: str, tmp_path: Path) -> None:
    block = f"import sys; sys.modules['{name}'] = None\n"
    loads = "import aloha_kit, aloha_kit.rl, aloha_kit.rl.args, aloha_kit.rl.app\n"
    command = "from aloha_kit.rl.__main__ import main; main(['train'])"
    done = subprocess.run(
        [sys.executable, "-c", block + loads + command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"error: aloha_kit.rl needs {name}, not installed here; install the extra with: "
        "pip install 'aloha_kit[rl,sim,view]'\n"
    )


def test_sac_reads_images_and_resumes_with_its_buffer_and_gpu(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "7")  # put back at the end
    run = tmp_path / "sac"
    flags = ["--algorithm", "sac", "--observe", "joints", "side_image", "--image_size", "36", "36"]
    quick = ["--num_envs", "1", "--batch_size", "8", "--processes", "no"]
    main(
        [
            "train",
            "--task",
            "reach.yaml",
            "--output",
            str(run),
            "--num_steps",
            "60",
            "--render_device",
            "0",
            *flags,
            *quick,
        ]
    )
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "7")
    main(["train", "--resume", str(run), "--num_steps", "70"])
    assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "0"
    loaded = LoadedRun.load(run, "cpu")
    assert loaded.checkpoint.state["steps"] == 70
    model: Any = loaded.model
    model.load_replay_buffer(loaded.checkpoint.folder / "replay_buffer.pkl")
    assert model.replay_buffer.size() == 70  # of both sessions
    env = loaded.connect()
    assert env.contract.cameras == {"side": (36, 36)}
    env.seed(1)
    outcome = run_episode(env, SafetyGuard(loaded.policy(env), env.limits))
    assert outcome.steps == 20

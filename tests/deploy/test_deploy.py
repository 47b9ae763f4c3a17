"""The command from flags to files, in real MuJoCo with small images."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.stats import binomtest

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.control.execution import ChunkExecutor
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import Contract, ContractError
from aloha_kit.core.lang import language
from aloha_kit.deploy.__main__ import main
from aloha_kit.deploy.app import deploy as run
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.deploy.deployment_report import DeployedRollout, table
from aloha_kit.deploy.local_policy import local, TimedChunkPolicy
from aloha_kit.deploy.policy_source import executor
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.loop import LatencyReport
from aloha_kit.loop.rollouts import success_rate, summarise
from aloha_kit.policies import checkpoint
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.find import find_checkpoint, load_network
from aloha_kit.policies.native import trained_task
from aloha_kit.sim.camera_renderer import CameraRenderer
from tests.commands import failure
from tests.deploy.conftest import CHUNK, CONTRACT, save_checkpoint

TASK = ("--task", "sim_transfer_cube", "--episode_len", "12")


def deploy(*argv: Any) -> None:
    main([str(word) for word in argv])


def fail(*argv: Any) -> str:
    return failure(deploy, *argv)


def test_rollouts_become_episodes_a_report_and_videos(
    trained: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = list[str](), CameraRenderer.draw
    monkeypatch.setattr(CameraRenderer, "draw", lambda self, name, size: drawn.append(name) or draw(self, name, size))
    out = tmp_path / "out"
    deploy("--ckpt_dir", trained, "--task_name", "sim_transfer_cube", "--episode_len", 12, "--num_rollouts", 2,
           "--video", 1, "--video_size", 96, 128, "--horizon", 3, "--output", out)  # fmt: skip
    episodes = ["episode_0.hdf5", "episode_0.mp4", "episode_0.steps.csv", "episode_1.hdf5", "episode_1.steps.csv"]
    names = ["deploy.json", *episodes]
    assert sorted(p.name for p in out.iterdir()) == names
    report = json.loads((out / "deploy.json").read_text())
    wilson = binomtest(0, 2).proportion_ci(0.95, method="wilson")
    assert report["success"]["wilson95"] == pytest.approx([wilson.low, wilson.high])
    assert report["success"]["trials"] == report["success_any_time"]["trials"] == 2
    assert report["max_reward_histogram"] == {"0": 2}
    assert report["ended_by"] is None
    assert report["checkpoint"] == str(trained / "checkpoints" / "best")
    assert report["execution"]["n_action_steps"] == 3
    assert report["guard"]["commands"] == report["latency"]["steps"] == 24
    counts = {stage: row["count"] for stage, row in report["latency"]["stages"].items()}
    assert counts["network"] == counts["preprocessing"] == 2 * 4  # an inference every 3 of 12 steps
    assert counts["observation"] == counts["command"] == counts["total"] == 24
    assert [r["seed"] for r in report["rollouts"]] == report["seeds"] == [100_000, 100_001]
    assert [r["video"] for r in report["rollouts"]] == ["episode_0.mp4", None]
    for i in (0, 1):
        with Episode.open(out / f"episode_{i}.hdf5") as episode:
            assert (episode.length, episode.frames, episode.cameras) == (12, 13, ("top",))
            assert episode.success is False
            assert json.loads(episode.attrs["describe"])["seed"] == 100_000 + i
            assert sorted(episode.stamps) == ["command", "deadline", "images/top", "qpos"]
    with av.open(str(out / "episode_0.mp4")) as container:
        assert container.streams.video[0].average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 7 + 25  # every second one; the last one is held for a second
    assert drawn.count("angle") == 7  # of 13
    assert frames[0].shape == (36 + 480 + 12, 640 + 4 + 640, 3)  # the view, and the images that the policy reads
    text = capsys.readouterr().out
    assert "success, held to the end   0/2 = 0.0%   95 % interval 0.0% to 65.8%" in text
    assert "preprocessing" in text
    assert "Safety guard: " in text


def test_a_live_view_gets_the_rollout(trained: Path, tmp_path: Path) -> None:
    deploy("--ckpt", trained, *TASK, "--num_rollouts", 1, "--video", 0, "--output", tmp_path / "out",
           "--view", tmp_path / "live.rrd")  # fmt: skip
    assert len(list_episodes(tmp_path / "out")) == 1
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(tmp_path / "live_1.rrd")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for entity in ("/cameras/top", "/arms/left/waist/qpos", "/arms/left/waist/upper_limit", "/episode"):
        assert entity in text, entity


def test_a_view_without_a_screen_is_refused_before_anything_runs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    text = fail("--ckpt", trained, *TASK, "--output", tmp_path / "out", "--view")
    assert text.startswith("error: --view has no screen here")
    assert not (tmp_path / "out").exists()


def test_the_episode_holds_what_a_chunk_executor_and_the_guard_make_of_the_network(
    trained: Path, tmp_path: Path
) -> None:
    deploy("--ckpt", trained / "checkpoints" / "best", *TASK, "--num_rollouts", 1, "--video", 0, "--output", tmp_path)
    network = load_network(find_checkpoint(trained))
    policy = ChunkExecutor(ChunkPolicy(network))
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        seen = [{"qpos": episode.qpos[i], "images": {"top": episode.image("top", i)}} for i in range(12)]
        before, done = episode.qpos[0].astype(float), episode.action
    reached = np.zeros(14, bool)
    step = np.full(14, np.pi / 50)
    step[[6, 13]] = 10 / 50
    for i, observation in enumerate(seen):
        wanted = policy.act(observation)
        short = np.abs(wanted - before) > np.where(reached, step, step / 3)
        # JPEG changes the images a little, and so the prediction
        np.testing.assert_allclose(done[i][~short], wanted[~short], atol=0.03)
        assert np.all(np.abs(done[i] - before) <= np.where(reached, step, step / 3) + 1e-6)
        reached |= ~short
        before = done[i].astype(float)


def test_temporal_aggregation_infers_at_every_step(trained: Path, tmp_path: Path) -> None:
    args = DeployArgs(
        ckpt=trained,
        task="sim_transfer_cube",
        temporal_agg=True,
        num_rollouts=1,
        video=0,
        episode_len=6,
        output=tmp_path,
    )
    (rollout,) = run(args)
    assert (rollout.steps, rollout.reason, rollout.success) == (6, "complete", False)
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert report["latency"]["stages"]["network"]["count"] == 6
    assert report["execution"]["n_action_steps"] == 1


def test_in_real_time_deadlines_are_a_period_apart_and_waiting_is_not_counted(trained: Path, tmp_path: Path) -> None:
    deploy("--ckpt", trained, *TASK, "--num_rollouts", 1, "--video", 0, "--realtime", "--output", tmp_path)
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        deadline, command = episode.stamps["deadline"], episode.stamps["command"]
    assert deadline[0] > 1_600_000_000 * 10**9  # Unix time, not simulated
    assert np.all(np.diff(deadline) >= 20_000_000)  # later ones are re-based after a late step, never early
    assert np.all(command >= deadline[:-1])
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert report["execution"]["realtime"] is True
    assert report["latency"]["stages"]["observation"]["count"] == 12


def test_the_same_seed_gives_the_same_rollout(trained: Path, tmp_path: Path) -> None:
    same = ("--ckpt", trained, *TASK, "--engine", "eager", "--num_rollouts", 1)  # which is fastest may differ
    for name in ("a", "b"):
        deploy(*same, "--video", int(name == "a"), "--output", tmp_path / name)
    with Episode.open(tmp_path / "a/episode_0.hdf5") as a, Episode.open(tmp_path / "b/episode_0.hdf5") as b:
        np.testing.assert_array_equal(a.qpos, b.qpos)
        poses = [episode.vectors["environment_state"] for episode in (a, b)]
        np.testing.assert_array_equal(*poses)  # the video changes nothing


def test_by_default_everything_goes_into_the_run_and_nothing_is_replaced(trained: Path) -> None:
    deploy("--ckpt", trained / "checkpoints" / "best", *TASK, "--num_rollouts", 1, "--video", 0)
    (folder,) = (trained / "deploy").iterdir()
    assert folder.name.startswith("sim_transfer_cube_")
    deploy("--ckpt", trained, *TASK, "--num_rollouts", 1, "--video", 0, "--output", folder)
    names = sorted(p.name for p in folder.iterdir())
    assert [name for name in names if "steps" not in name] == [
        "deploy.json", "deploy_1.json", "episode_0.hdf5", "episode_1.hdf5"
    ]  # fmt: skip


def test_every_difference_of_policy_and_rig_is_listed(tmp_path: Path) -> None:
    names = list(CONTRACT.action_names)
    names[0], names[7] = names[7], names[0]
    cameras = {"cam_high": (48, 64), "top": (48, 64)}
    wrong = Contract.of(CONTRACT.state_names, tuple(names), cameras, rate_hz=30.0, units=CONTRACT.units)
    save_checkpoint(tmp_path / "best", wrong)
    text = fail("--ckpt", tmp_path / "best", *TASK)
    assert "does not fit rig 'sim' in task 'sim_transfer_cube':" in text
    assert "action[0]: 'right_waist' against 'left_waist'" in text
    assert "action[7]: 'left_waist' against 'right_waist'" in text
    assert "camera 'cam_high' is missing; there are: top" in text
    assert "rate: 30 Hz against 50 Hz" in text


def test_other_image_sizes_than_in_training_are_refused(trained: Path) -> None:
    text = fail("--ckpt", trained, *TASK, "--image_size", 60, 80)
    assert "camera 'top': (48, 64) (height, width) against (60, 80)" in text
    assert "if images of top were resized for the training: --resize_images" in text
    assert "--resize_images" not in fail("--ckpt", trained, *TASK, "--image_size", 60, 90)
    assert "against (60, 90)" in fail("--ckpt", trained, *TASK, "--image_size", 60, 90, "--resize_images")
    assert "--resize_images" not in fail("--ckpt", trained, *TASK, "--image_size", 24, 32), "smaller ones lack detail"


def test_larger_images_are_resized_for_the_policy(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[Any] = []
    predict = TimedChunkPolicy.predict_chunk

    def noting(policy: TimedChunkPolicy, observation: Any) -> Any:
        seen.append(observation["images"]["top"])
        return predict(policy, observation)

    monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", noting)
    flags = ("--num_rollouts", 1, "--video", 0, "--episode_len", 2, "--n_action_steps", 1)
    deploy("--ckpt", trained, *TASK, *flags, "--image_size", 96, 128, "--resize_images", "--output", tmp_path)
    assert json.loads((tmp_path / "deploy.json").read_text())["execution"]["resized_images"] == {"top": [48, 64]}
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.image_size("top") == (96, 128), "as the camera gave it"
        area = episode.image("top", 1).reshape(48, 2, 64, 2, 3).mean((1, 3))
    assert seen[1].shape == (48, 64, 3)
    assert np.abs(seen[1] - area).mean() < 3, "the mean of each 2x2, but for JPEG"


@pytest.mark.parametrize("how", ["sigterm", "ctrl-c"])
def test_an_interruption_keeps_what_was_done(how: str, trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    requested = TimedChunkPolicy.predict_chunk
    calls = 0

    def interrupted(self: Any, observation: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # the third chunk of 5 begins step 10; the second rollout's second one step 5
            if how == "ctrl-c":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)
        return requested(self, observation)

    monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", interrupted)
    status = "130" if how == "ctrl-c" else "143"
    assert fail("--ckpt", trained, *TASK, "--num_rollouts", 9, "--video", 0, "--output", tmp_path) == status
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert [rollout["seed"] for rollout in report["rollouts"]] == [report["seeds"][0]]
    assert report["ended_by"] == "KeyboardInterrupt" + (": SIGTERM" if how == "sigterm" else "")
    with Episode.open(list_episodes(tmp_path)[1]) as episode:
        assert episode.length == 5
        assert episode.attrs["reason"] == "KeyboardInterrupt" + (": SIGTERM" if how == "sigterm" else "")
        assert episode.success is False


def test_a_policy_that_gives_nan_never_moves_an_arm(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        TimedChunkPolicy, "predict_chunk", lambda self, observation: np.full((CHUNK, 14), np.nan, np.float32)
    )
    text = fail("--ckpt", trained, *TASK, "--video", 0, "--output", tmp_path)
    assert text.startswith("error: step 0: the action is not finite: left_waist = nan, left_shoulder = nan")
    assert list(tmp_path.glob("*.hdf5*")) == []  # no step was made, so no episode and no reserved index


def test_a_checkpoint_is_found_where_training_leaves_it(tmp_path: Path) -> None:
    last, best = (save_checkpoint(tmp_path / "run/checkpoints" / name) for name in ("last", "best"))
    assert find_checkpoint(tmp_path / "run") == best
    assert find_checkpoint(last) == last
    (best / checkpoint.WEIGHTS).unlink()
    assert find_checkpoint(tmp_path / "run") == last
    assert find_checkpoint(tmp_path / "run" / "checkpoints") == last
    (tmp_path / ".git").mkdir()
    text = fail("--ckpt", tmp_path, *TASK)
    assert "nor policy_best.ckpt. There is: run" in text
    (tmp_path / "notes.txt").touch()
    text = fail("--ckpt", tmp_path / "notes.txt", *TASK)
    assert text.endswith("notes.txt: it is a file; expected a run, a checkpoint's folder or a .ckpt")
    text = fail("--ckpt", tmp_path / "runs", *TASK)
    assert "no such folder; beside it: notes.txt, run" in text


def test_the_published_repositorys_checkpoint_acts(tmp_path: Path) -> None:
    import torch

    from aloha_kit.config.policies import load_policy
    from aloha_kit.policies.build import build
    from aloha_kit.policies.reference_export import save_reference
    from tests.tiny import statistics

    torch.manual_seed(0)
    config = load_policy("act_reference", chunk_size=4, hidden_dim=32, dim_feedforward=32, enc_layers=1)
    network = build(config, CONTRACT, statistics(), pretrained=False)
    save_reference(network, tmp_path)
    for given in (tmp_path, tmp_path / "policy_best.ckpt"):
        assert find_checkpoint(given) == tmp_path / "policy_best.ckpt"
    loaded = load_network(tmp_path / "policy_best.ckpt", AssumedSetup({"top": (48, 64)}))
    rng = np.random.default_rng(0)
    observation: Any = {
        "qpos": np.zeros(14, np.float32),
        "images": {"top": rng.integers(0, 255, (48, 64, 3), np.uint8)},
    }
    ours, theirs = (ChunkPolicy(n.eval()).predict_chunk(observation) for n in (network, loaded))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    deploy("--ckpt", tmp_path, *TASK, "--engine", "eager", "--image_size", 48, 64, "--num_rollouts", 1, "--video", 0)
    (report,) = (tmp_path.parent / tmp_path.name / "deploy").glob("*/deploy.json")
    assert json.loads(report.read_text())["rollouts"][0]["steps"] == 12


def test_another_task_than_trained_on_is_reported(trained: Path, tmp_path: Path, capsys: Any) -> None:
    notes = trained / "checkpoints" / "best" / "extra.json"
    (notes.parent / "checksums.json").unlink()  # or the edited notes are refused
    for task, warning in (
        ("sim_insertion", ["warning: trained on sim_insertion, deployed on sim_transfer_cube"]),
        ("sim_transfer_cube", []),
    ):
        notes.write_text(json.dumps({"task": task}))
        words = "--num_rollouts", 1, "--video", 0, "--engine", "eager", "--output", tmp_path / task
        deploy("--ckpt", trained, *TASK, *words)
        assert json.loads((tmp_path / task / "deploy.json").read_text())["trained_on"] == task
        # no bar without a terminal, but a line a rollout; behind the time
        lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
        uncompared = f"warning: {notes.parent} has no checksums.json: its files are loaded without comparing them"
        assert lines == [uncompared, *warning, "sim_transfer_cube: rollout 1/1, success 0/1"]
    notes.unlink()
    assert trained_task(notes.parent) is None


def test_an_output_that_is_in_the_way_is_refused_first(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("aloha_kit.deploy.local_policy.load_network", None)
    (tmp_path / "out").touch()
    text = fail("--ckpt", trained, *TASK, "--output", tmp_path / "out")
    assert text == f"error: '{tmp_path / 'out'}' cannot be a folder: a file of that name is in the way"


@pytest.mark.parametrize(
    ("flag", "values", "lowest"),
    [
        ("num_rollouts", ["0"], 1),
        ("seed", ["-1"], 0),
        ("episode_len", ["0"], 1),
        ("video_size", ["480", "0"], 1),
        ("image_size", ["0", "9"], 1),
    ],
)
def test_values_out_of_range(flag: str, values: list[str], lowest: int, tmp_path: Path) -> None:
    text = fail("--ckpt", tmp_path, "--task", "sim_insertion", f"--{flag}", *values)
    assert text == f"error: --{flag} must be at least {lowest}, given {' '.join(values)}"


def test_flags_are_checked(trained: Path, capsys: Any) -> None:
    assert "--n_action_steps must be 1 to the chunk size 5, given 6" in fail("--ckpt", trained, *TASK, "--horizon", 6)
    assert "Did you mean 'sim_insertion'?" in fail("--ckpt", trained, "--task", "sim_insrtion")
    assert "device 'warp' cannot be used" in fail("--ckpt", trained, *TASK, "--device", "warp")
    assert "rig 'sim' has no camera 'angel'. Did you mean 'angle'?" in fail(
        "--ckpt", trained, *TASK, "--video_camera", "angel"
    )
    with pytest.raises(SystemExit):
        deploy("--ckpt", trained)
    assert "--task" in capsys.readouterr().err


def rollout(**changes: Any) -> DeployedRollout:
    fixed = DeployedRollout(
        seed=1, steps=10, final_reward=4.0, max_reward=4.0, success=True, touched=True, reason="complete",
        actions="00000000", episode="episode_0.hdf5", video=None,
    )  # fmt: skip
    return replace(fixed, **changes)


def test_success_is_counted_held_and_at_any_time() -> None:
    dropped = rollout(final_reward=1.0, success=False)
    failed = rollout(final_reward=0.0, max_reward=2.0, success=False, touched=False)
    found = summarise([rollout(), dropped, failed, failed])
    assert (found["success"]["successes"], found["success_any_time"]["successes"]) == (1, 2)
    theirs = binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert found["success_any_time"]["wilson95"] == pytest.approx([theirs.low, theirs.high])
    assert found["max_reward_histogram"] == {"2": 2, "4": 2}
    latency = LatencyReport(50.0)
    guard = {"commands": 9, "limited": 2, "held": 1, "limited_by": {"speed": {"left_waist": 2}}, "faults": {"x": 1}}
    text = table([rollout(), dropped], latency.table(), {"guard": guard})
    assert "success, held to the end   1/2 = 50.0%" in text
    assert "2 of 9 commands limited, 1 steps held" in text
    assert "speed: left_waist 2" in text
    assert "fault: x (1x)" in text
    with language("zh"):
        assert "成功（保持到结束）         1/2 = 50.0%" in table(
            [rollout(), dropped], latency.table(), {"guard": guard}
        )


def test_a_rig_without_rewards_is_not_called_a_failure() -> None:
    unknown = rollout(success=None, touched=None, final_reward=0.0, max_reward=0.0)
    assert success_rate([None, None]) is None
    guard = {"commands": 0, "limited": 0, "held": 0, "limited_by": {}, "faults": {}}
    assert "not measured" in table([unknown], "", {"guard": guard})


def test_an_executor_of_the_wrong_observation_states_what_is_missing(trained: Path) -> None:
    execution = Execution(temporal_agg=True)
    policy = executor(local(find_checkpoint(trained)), execution, LatencyReport(50.0), "sync", 50.0)
    policy.reset()
    with pytest.raises(ContractError, match="camera 'top' is missing; there are: front"):
        policy.act({"qpos": np.zeros(14, np.float32), "images": {"front": np.zeros((4, 4, 3), np.uint8)}, "stamps": {}})

"""Deployment and replay on the simulated rig behind a real roscore: every way out leaves the arms parked."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roslaunch.config
import rospy
import tyro
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from aloha_kit.core import Contract, joint_names, START_ARM_POSE, VX300S
from aloha_kit.deploy.__main__ import main
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.deploy.local_policy import TimedChunkPolicy
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.remote import PolicyServer, ServedPolicy
from aloha_kit.replay.__main__ import main as replay
from aloha_kit.replay.args import ReplayArgs
from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.simulation_client import SimulationClient
from tests.commands import failure
from tests.deploy.conftest import save_checkpoint
from tests.ros.competing_publisher import CompetingPublisher
from tests.ros.master import ROOT, Ros

NAMES = joint_names()
CONTRACT = Contract.of(NAMES, NAMES, {"cam_high": (48, 64)}, rate_hz=50.0)
TASK = """
name: tiny
instruction: Hand the cube over.
rig: aloha
scene: transfer_cube
episode_len: 30
cameras: [cam_high]
image_size: [48, 64]
"""
START = np.tile([*START_ARM_POSE, 0.0], 2).astype(np.float32)
SERVICES_S = 60.0


@pytest.fixture(scope="module")
def rig(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A simulated ALOHA without a person; the path of its task."""
    folder = tmp_path_factory.mktemp("rig")
    task = folder / "tiny.yaml"
    task.write_text(TASK)
    launched = session_ros.launch("sim_rig.launch", task=task, operator="false", quality="draft")
    launched.wait_for("is up", timeout=120)
    launched.wait_for("cam_right_wrist", timeout=120)
    yield task
    launched.stop()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best", CONTRACT)


def deploy(rig: Path, checkpoint: Path, out: Path, *flags: Any) -> None:
    words = ["--ckpt", checkpoint, "--task", rig, "--output", out, "--num_rollouts", 1, *flags]
    main([str(word) for word in words])


def fail(*arguments: Any) -> str:
    return failure(deploy, *arguments)


def joints(arm: str) -> Any:
    """(6,) rad: where a follower is."""
    message = rospy.wait_for_message(f"/{arm}/joint_states", JointState, timeout=SERVICES_S)
    return np.array(message.position[:6])


def torque(arm: str) -> list[int]:
    service = f"/{arm}/get_motor_registers"
    rospy.wait_for_service(service, timeout=SERVICES_S)
    call = rospy.ServiceProxy(service, interbotix_messages.RegisterValues)
    return [int(v) for v in call(cmd_type="group", name="arm", reg="Torque_Enable", value=0).values]


def assert_parked(text: str, *, torque_on: bool = True) -> None:
    assert "the arms are parked; " + ("their torque is on" if torque_on else "their torque is off") in text
    assert_at_rest(torque_on=torque_on)


def assert_at_rest(*, torque_on: bool = True) -> None:
    for arm in ("puppet_left", "puppet_right"):
        assert np.abs(joints(arm) - VX300S.rest).max() < 0.15
        assert torque(arm) == [int(torque_on)] * 6


class Scripted:
    """A network in the place of the checkpoint's: `respond(network)` gives its chunk's rows, or raises, or waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, respond: Any) -> None:
        self.requested = 0
        self.hung = threading.Event()

        def predict(agent: Any, observation: Any) -> Any:
            self.requested += 1
            with agent._measure("network"):
                return respond(self)

        monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", predict)


def still(rows: int = 10) -> Any:
    """A chunk that stays at the start pose."""
    return np.tile(START, (rows, 1))


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets a hung network go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_checkpoint_acts_and_its_rollouts_are_episodes(
    rig: Path, checkpoint: Path, tmp_path: Path, capfd: Any
) -> None:
    deploy(rig, checkpoint, tmp_path, "--temporal_agg", "--num_rollouts", 2, "--seed", 7, "--release")
    text, logged = capfd.readouterr()
    assert_parked(logged, torque_on=False)
    assert "async network" in text
    assert "Asynchronous inference: " in text
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert report["execution"]["inference"] == "async"
    assert report["success"]["trials"] == 2  # a simulated rig is judged by its reward
    assert report["inference"]["inferences"] >= 2
    assert report["latency"]["stages"]["async network"]["count"] == report["inference"]["inferences"]
    assert report["latency"]["stages"]["total"]["count"] == 60
    for i, path in enumerate(list_episodes(tmp_path)):
        with Episode.open(path) as episode:
            assert (episode.length, episode.frames, episode.cameras) == (30, 31, ("cam_high",))
            assert episode.success is False
            assert episode.attrs["sim"]
            assert json.loads(episode.attrs["describe"])["seed"] == 7 + i
            assert {"qpos_left", "qpos_right", "images/cam_high", "deadline", "command"} <= set(episode.stamps)
            assert np.abs(episode.action[0][:6] - START_ARM_POSE).max() < 0.1  # the ramp begins where the arms are


def test_every_difference_of_policy_and_rig_is_listed_before_anything_moves(rig: Path, tmp_path: Path) -> None:
    other = Contract.of(NAMES, NAMES, {"cam_high": (48, 64), "top": (48, 64)}, rate_hz=30.0)
    sent: list[Any] = []
    received = rospy.Subscriber("/puppet_left/commands/joint_group", interbotix_messages.JointGroupCommand, sent.append)
    text = fail(rig, save_checkpoint(tmp_path / "best", other), tmp_path)
    received.unregister()
    assert "does not fit rig 'aloha' in task 'tiny':" in text
    assert "camera 'top' is missing; there are: cam_high" in text
    assert "rate: 30 Hz against 50 Hz" in text
    assert sent == []


def test_a_policy_of_smaller_images_acts_only_where_it_is_told_to_resize(rig: Path, tmp_path: Path, capfd: Any) -> None:
    small = save_checkpoint(tmp_path / "best", Contract.of(NAMES, NAMES, {"cam_high": (24, 32)}, rate_hz=50.0))
    text = fail(rig, small, tmp_path / "refused")
    assert "camera 'cam_high': (24, 32) (height, width) against (48, 64)" in text
    assert text.rstrip().endswith("if images of cam_high were resized for the training: --resize_images")
    deploy(rig, small, tmp_path / "out", "--seed", 7, "--resize_images")
    assert_parked(capfd.readouterr()[1])
    with Episode.open(tmp_path / "out" / "episode_0.hdf5") as episode:
        assert (episode.length, episode.image_size("cam_high")) == (30, (48, 64))


def test_a_network_that_hangs_holds_the_arms_and_ends_the_rollout_by_name(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, release: threading.Event
) -> None:
    def respond(script: Scripted) -> Any:
        if script.requested > 1:
            release.wait()
        return still(4)

    Scripted(monkeypatch, respond)
    text = fail(rig, checkpoint, tmp_path, "--hold_s", 0.2)
    assert "held still for 10 steps (0.2 s): the policy has no chunk yet for the observation of step" in text
    assert_parked(capfd.readouterr().err)
    with Episode.open(list_episodes(tmp_path)[0]) as episode:
        assert episode.length == 4 + 10
        np.testing.assert_array_equal(episode.action[3:], [episode.action[3]] * 11)
        assert episode.attrs["reason"].startswith("SafetyError: step 14: held still")


def test_a_network_that_gives_nan_ends_the_rollout_by_name(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    rows = still(40)
    rows[6:, 9] = np.nan
    Scripted(monkeypatch, lambda script: rows)
    text = fail(rig, checkpoint, tmp_path)
    assert "the action is not finite: right_elbow = nan (held still for 5 steps before)" in text
    assert_parked(capfd.readouterr().err)
    with Episode.open(list_episodes(tmp_path)[0]) as episode:
        assert episode.length == 6 + 5
        assert np.all(np.isfinite(episode.action))


def test_sigterm_keeps_the_episode_and_parks(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    def respond(script: Scripted) -> Any:
        if script.requested == 3:
            signal.raise_signal(signal.SIGTERM)
        return still(4)

    Scripted(monkeypatch, respond)
    assert fail(rig, checkpoint, tmp_path) == "143"
    assert_parked(capfd.readouterr().err)
    with Episode.open(list_episodes(tmp_path)[0]) as episode:
        assert episode.attrs["reason"] == "KeyboardInterrupt: SIGTERM"


def test_a_camera_that_stops_ends_the_rollout_by_name_and_the_arms_still_park(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    apply = rospy.ServiceProxy("/sim_rig/apply_faults", Trigger)

    def respond(script: Scripted) -> Any:
        if script.requested == 2:
            rospy.set_param("/sim_rig_faults", {"cam_high": {"stop": True}})
            apply()
        return still(4)

    Scripted(monkeypatch, respond)
    try:
        text = fail(rig, checkpoint, tmp_path, "--episode_len", 500)
    finally:
        rospy.delete_param("/sim_rig_faults")
        apply()
    assert "images/cam_high" in text
    assert_parked(capfd.readouterr().err)
    with Episode.open(list_episodes(tmp_path)[0]) as episode:
        assert episode.attrs["reason"].startswith("StreamError: ")


@pytest.mark.parametrize(
    ("kind", "topic", "words"),
    [
        ("group", "/puppet_right/commands/joint_group", "another node commands the followers: /intruder on "),
        ("states", "/puppet_left/joint_states", "two nodes publish /puppet_left/joint_states: /intruder and /sim_arms"),
    ],
)
def test_a_second_publisher_ends_the_rollout_by_name_and_nothing_is_sent_any_more(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any, capfd: Any, session_ros: Ros,
    kind: str, topic: str, words: str,
) -> None:  # fmt: skip
    with CompetingPublisher(session_ros, "intruder", kind, topic) as other:

        def respond(script: Scripted) -> Any:
            if script.requested == 2:
                other.send()
            return still(4)

        Scripted(monkeypatch, respond)
        text = fail(rig, checkpoint, tmp_path, "--episode_len", 500)
    assert words in text
    assert f"the arms were not parked: {words}" in capfd.readouterr().err
    with Episode.open(list_episodes(tmp_path)[0]) as episode:
        assert episode.length < 4 + 1.5 * 50
        assert episode.attrs["reason"].startswith(f"SafetyError: {words}")


def test_with_the_emergency_stop_pressed_nothing_is_sent_any_more_not_even_to_park(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    button = rospy.Publisher("/aloha_kit/estop", Bool, queue_size=1, latch=True)

    def respond(script: Scripted) -> Any:
        if script.requested == 2:
            button.publish(Bool(data=True))
        return still(4)

    Scripted(monkeypatch, respond)
    try:
        text = fail(rig, checkpoint, tmp_path, "--episode_len", 500)
        assert "the emergency stop was pressed (by /aloha_kit_tests" in text
        out = capfd.readouterr().err
        assert "warning: the arms were not parked: the emergency stop was pressed" in out
        assert "their torque is on" in out
        np.testing.assert_allclose(joints("puppet_left"), START_ARM_POSE, atol=0.1)
        again = fail(rig, checkpoint, tmp_path / "again")
        assert "the emergency stop was pressed" in again
    finally:
        button.publish(Bool(data=False))
        button.unregister()


def test_on_a_real_rig_the_operator_labels_what_was_a_success(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.setattr(SimulationClient, "max_reward", 0.0)  # as where nothing measures it
    voice = rospy.Publisher("/aloha_kit/deploy/command", String, queue_size=5)
    states: list[str] = []

    def respond(script: Scripted) -> Any:
        if states.count("acting") == 2:
            voice.publish(String(data="quit"))  # while the second rollout runs
        return still(10)

    def state(message: Any) -> None:
        states.append(message.data)
        if message.data == "judging":
            voice.publish(String(data="success"))

    Scripted(monkeypatch, respond)
    received = rospy.Subscriber("/aloha_kit/deploy/state", String, state)
    try:
        deploy(rig, checkpoint, tmp_path, "--num_rollouts", 9, "--episode_len", 100, "--log_level", "warning")
    finally:
        received.unregister()
        voice.unregister()
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert [r["success"] for r in report["rollouts"]] == [True, None]
    assert report["rollouts"][1]["reason"] == "the operator's command was quit"
    assert 1 <= report["rollouts"][1]["steps"] < 100
    assert report["success"]["trials"] == 1
    with Episode.open(tmp_path / "episode_0.hdf5") as first, Episode.open(tmp_path / "episode_1.hdf5") as second:
        assert (first.success, second.success) == (True, None)
    shown = capfd.readouterr()
    assert "episode_0.hdf5: success? y / n / Enter for neither" in shown.err
    assert_at_rest()  # which is logged as information, and only warnings are to be shown


class Still:
    """A network on another machine that stays at the start pose, until the test makes it hang."""

    def __init__(self, release: threading.Event) -> None:
        self.requested, self.hang_at, self._release = 0, 10**9, release

    def reset(self) -> None: ...

    def predict_chunk(self, observation: Any) -> Any:
        assert observation["images"]["cam_high"].shape == (48, 64, 3)
        self.requested += 1
        if self.requested >= self.hang_at:
            self._release.wait()
        return still(8)


def test_when_a_remote_policy_is_lost_the_arms_hold_and_park(
    rig: Path, tmp_path: Path, capfd: Any, release: threading.Event
) -> None:
    source = Still(release)
    source.hang_at = 5
    with PolicyServer(ServedPolicy(source, CONTRACT, 8), "127.0.0.1", 0, "secret").running() as server:
        where = f"127.0.0.1:{server.port}"
        with pytest.raises(
            SystemExit, match=rf"held still for 30 steps \(0.6 s\).*no answer from {where} within 0.2 s"
        ):
            main(["--remote", where, "--token", "secret", "--task", str(rig), "--hold_s", "0.6", "--timeout_s", "0.2",
                  "--output", str(tmp_path), "--episode_len", "500"])  # fmt: skip
        release.set()
    assert_parked(capfd.readouterr().err)
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.length >= 8 + 30
        np.testing.assert_array_equal(episode.action[-30:], [episode.action[-31]] * 30)


def test_ctrl_c_in_roslaunch_ends_the_node_with_the_arms_parked(
    rig: Path, tmp_path: Path, session_ros: Ros, release: threading.Event
) -> None:
    with PolicyServer(ServedPolicy(Still(release), CONTRACT, 8), "127.0.0.1", 0, "secret").running() as server:
        given = {"task": rig, "remote": f"127.0.0.1:{server.port}", "output": tmp_path, "flags": "--episode_len 5000"}
        launched = session_ros.start(
            "roslaunch", "-p", str(session_ros.port), "aloha_kit", "deploy.launch",
            *(f"{name}:={value}" for name, value in given.items()), ALOHA_KIT_TOKEN="secret",
        )  # fmt: skip
        launched.wait_for("type y (success)", timeout=120)
        states: list[str] = []
        received = rospy.Subscriber("/aloha_kit/deploy/state", String, lambda message: states.append(message.data))
        while "acting" not in states or not list(tmp_path.glob("*.partial")):
            assert launched.running, launched.text()
            rospy.sleep(0.05)
        rospy.sleep(0.2)
        received.unregister()
        launched.signal(signal.SIGINT)
        launched.wait(60)
    assert "interrupted" in launched.text()
    assert_parked(launched.text())
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.length >= 1
        assert episode.attrs["reason"].startswith("KeyboardInterrupt")


def test_an_episode_is_replayed_on_the_arms_with_its_tracking_error(
    rig: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    def respond(script: Scripted) -> Any:
        wave = np.tile(START, (60, 1))
        wave[:, 0] += 0.2 * (1 - np.cos(np.arange(60) * 2 * np.pi / 60))
        return wave

    Scripted(monkeypatch, respond)
    deploy(rig, checkpoint, tmp_path, "--episode_len", 60, "--seed", 3)
    capfd.readouterr()
    replay([str(tmp_path / "episode_0.hdf5"), "--execute", "--task", str(rig), "--no_video", "--no_plots", "--no_rrd"])
    text, logged = capfd.readouterr()
    assert "executed 60 actions; tracking error against the recorded qpos:" in text
    assert "(agree)" in text  # no reward then, no reward now, the same objects
    assert_parked(logged)
    report = json.loads((tmp_path / "replay" / "episode_0_execute.json").read_text())
    assert report["same_scene"] is True
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        moved = float(np.ptp(episode.qpos[:, 0]))
    assert moved > 0.1
    assert report["tracking"]["left_waist"]["rms"] < moved / 3  # it moved again, and alike
    assert report["tracking"]["right_waist"]["worst"] < 0.05


def arguments(file: str, **given: str) -> list[str]:
    """The command line that a launch file gives its node."""
    words = [f"{name}:={value}" for name, value in given.items()]
    loaded = roslaunch.config.load_config_default([(str(ROOT / "launch" / file), words)], None)
    (node,) = [each for each in loaded.nodes if each.type != "base_watchdog_node"]
    assert (ROOT / "deploy" / node.type).stat().st_mode & 0o111
    return shlex.split(node.args)


def test_launch_files_give_flags_that_exist(session_ros: Ros) -> None:
    args = tyro.cli(DeployArgs, args=arguments("deploy.launch", ckpt="runs/x"), use_underscores=True)
    assert (args.ckpt, args.remote, args.task) == (Path("runs/x"), None, "aloha_transfer_cube")
    assert (args.temporal_agg, args.num_rollouts, args.release) == (True, 10, False)
    given = {"remote": "gpu:8000", "temporal_agg": "false", "release": "true", "flags": "--judge_s 0 --seed 7"}
    args = tyro.cli(DeployArgs, args=arguments("deploy.launch", **given), use_underscores=True)
    assert (args.ckpt, args.remote, args.temporal_agg, args.release) == (None, "gpu:8000", False, True)
    assert (args.judge_s, args.seed) == (0, 7)
    words = arguments("replay.launch", episode="data/episode_3.hdf5", release="true")
    again = tyro.cli(ReplayArgs, args=["--execute", *words], use_underscores=True)
    assert (again.path, again.execute, again.task) == (Path("data/episode_3.hdf5"), True, "aloha_transfer_cube")
    assert (again.video, again.plots, again.rrd, again.release) == (False, False, False, True)

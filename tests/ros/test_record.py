"""Recording as real processes: what an operator can say, what can break, and that nothing is lost."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roslaunch.config
import rosnode
import rospy
import yaml
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from aloha_kit.config import TaskConfig, to_mapping
from aloha_kit.core import START_ARM_POSE, VX300S, WX250S
from aloha_kit.episode import Episode, list_episodes, list_partials
from aloha_kit.episode.validate import validate
from aloha_kit.record.args import parse, RecordArgs, SessionArgs
from aloha_kit.record.dataset_folder import FAILED
from tests.ros.competing_publisher import CompetingPublisher
from tests.ros.fake_drivers import FakeCamera, FakeInterbotix
from tests.ros.master import Process, ROOT, Ros
from tests.ros.rig_client import kill_node
from tests.ros.small_rig import TELEOPERATED, write_task
from tests.waiting import until

RIG = replace(TELEOPERATED, name="bench")
TIMEOUT_S = 90.0


class Bench:
    """Drivers of RIG in this process, an operator beside them, recorders as processes."""

    def __init__(self, ros: Ros, folder: Path, stack: contextlib.ExitStack) -> None:
        self.ros, self.folder, self.data = ros, folder, folder / "data"
        self.followers = [stack.enter_context(FakeInterbotix(f"puppet_{side}")) for side in ("left", "right")]
        self.leaders = [stack.enter_context(FakeInterbotix(f"master_{side}", WX250S)) for side in ("left", "right")]
        self.camera = stack.enter_context(FakeCamera("/usb_cam_high/image_raw/compressed"))
        for driver in (*self.followers, *self.leaders):
            driver.motors[:6] = START_ARM_POSE
        (folder / "rig.yaml").write_text(yaml.safe_dump(to_mapping(RIG)))
        self.task = TaskConfig("reach", "Reach.", rig=str(folder / "rig.yaml"), episode_len=5000, rate_hz=25,
                               cameras=("cam_high",), dataset_dir=str(self.data))  # fmt: skip
        (folder / "task.yaml").write_text(yaml.safe_dump(to_mapping(self.task)))
        self.states: list[str] = []
        self._stack = stack
        subscriber = rospy.Subscriber("/aloha_kit/record/state", String, lambda m: self.states.append(m.data))
        stack.callback(subscriber.unregister)
        self._command = rospy.Publisher("/aloha_kit/record/command", String, queue_size=5)
        self._estop = rospy.Publisher("/aloha_kit/estop", Bool, queue_size=1, latch=True)
        self._estop.publish(Bool(False))  # a recorder waits for a button's state when it starts
        stack.callback(self._command.unregister)
        stack.callback(self._estop.unregister)

    def record(self, *flags: str, prefix: tuple[str, ...] = ()) -> Process:
        command = [*prefix, "python" if not prefix else sys.executable, "-m", "tests.ros.quick", "aloha_kit.record"]
        self.states.clear()
        process = self.ros.start(*command, "--task", str(self.folder / "task.yaml"), "--countdown", "0", *flags)
        self._stack.callback(process.kill)  # one that a failed test leaves would refuse the next one
        return process

    def command(self, word: str) -> str:
        """By service."""
        rospy.wait_for_service(f"/aloha_kit/record/{word}", 30)
        return str(rospy.ServiceProxy(f"/aloha_kit/record/{word}", Trigger)().message)

    def publish(self, word: str) -> None:
        """By topic."""
        until(lambda: self._command.get_num_connections() > 0, "somebody listens to the command topic")
        self._command.publish(String(word))

    def press(self, pressed: bool) -> None:
        self._estop.publish(Bool(pressed))

    def wait_for(self, state: str, process: Process, count: int = 1) -> None:
        """Until `state` was published `count` times."""

        def reached() -> bool:
            assert process.running, process.text()
            return self.states.count(state) >= count

        until(reached, f"'{state}' {count} times, received {self.states}", TIMEOUT_S)

    def close_grippers(self) -> None:
        for leader in self.leaders:
            with leader.lock:
                assert not leader.torque["gripper"], "the operator can move them"
                leader.motors[6] = WX250S.gripper.closed

    def steps(self) -> int:
        """Images of the episode that is being recorded, to be sure that there are some."""
        return sum(path.stat().st_size for path in self.data.glob("*.partial"))

    def wait_for_steps(self) -> None:
        before = self.steps()
        until(lambda: self.steps() > before + 20_000, "more was written", TIMEOUT_S)


@pytest.fixture
def bench(session_ros: Ros, tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        yield Bench(session_ros, tmp_path, stack)


def sound(file: Path) -> list[str]:
    """What is wrong with an episode; the fakes hold their arms still, which is not."""
    return [f"{f.check}: {f.found}" for f in validate(file).findings if f.level == "error" and f.check != "constant"]


def ending(file: Path) -> tuple[bool | None, str, bool]:
    with Episode.open(file) as episode:
        assert episode.length > 0
        return episode.success, str(episode.attrs["reason"]), bool(episode.attrs["error"])


def test_an_operator_records_by_gripper_service_topic_and_gesture(bench: Bench) -> None:
    process = bench.record("--episodes", "2")
    bench.wait_for("waiting", process)
    states = list(bench.states)
    another = bench.ros.start("python", "record/record_node", "--task", str(bench.folder / "task.yaml"))
    assert another.wait() == 1
    assert "another session answers under /aloha_kit/record already" in another.text()
    assert bench.states == states
    bench.close_grippers()
    bench.wait_for("recording", process)
    assert not any(any(leader.torque.values()) for leader in bench.leaders), "the leaders are the operator's"
    left = bench.leaders[0]
    with left.lock:
        left.motors[1] = 1.9  # the follower's shoulder ends at 1.2566
    until(lambda: bool(abs(bench.followers[0].motors[1] - 1.2366) < 1e-4), "the follower is at its limit", TIMEOUT_S)
    assert bench.command("keep") == "keep, received while recording"
    bench.wait_for("waiting", process, 2)
    assert all(leader.torque["waist"] for leader in bench.leaders), "locked between episodes"
    bench.publish("start")
    bench.wait_for("recording", process, 2)
    ticks = dict.fromkeys(bench.leaders, 0)

    def squeeze(leader: FakeInterbotix) -> Callable[[JointState], None]:
        """Twice for 0.2 s in 3 s, over and over, should a busy machine miss one."""

        def change(message: JointState) -> None:
            ticks[leader] += 1
            phase = ticks[leader] % 300
            closed = 100 <= phase < 120 or 150 <= phase < 170
            position = list(message.position)
            position[6] = WX250S.gripper.closed if closed else WX250S.gripper.open
            message.position = position

        return change

    for leader in bench.leaders:
        leader.broken = squeeze(leader)
    bench.wait_for("ended", process)
    for leader in bench.leaders:
        leader.broken = lambda message: None
    assert process.wait() == 0
    first, second = list_episodes(bench.data)
    assert ending(first) == (True, "ended by the operator: keep", False)
    assert ending(second) == (True, "ended by the operator: keep", False)
    assert (sound(first), sound(second)) == ([], [])
    with Episode.open(first) as episode:
        limit = np.float32(VX300S.upper[1] - 0.02)
        assert episode.action[:, 1].max() == limit  # the command that was sent, not the leader's
        assert max(float(command[1]) for command in bench.followers[0].groups) == limit
        about = episode.describe
        assert about["guard"]["limited_by"]["range"].keys() == {"left_shoulder"}
        assert about["guard"]["limited"] >= about["guard"]["limited_by"]["range"]["left_shoulder"] > 0
        assert set(episode.stamps) >= {"qpos_left", "qpos_right", "leader_left", "images/cam_high", "deadline"}
        assert not episode.attrs["sim"]
    with Episode.open(second) as episode:
        assert episode.attrs["cut"] > 0
        opened = WX250S.gripper.normalise(WX250S.gripper.open)
        assert episode.action[-1, [6, 13]].min() > float(opened) - 0.2  # not a row of the squeezing is left
    shown = process.text()
    assert "this session: 2 saved" in shown
    assert "waiting: close both leader grippers to begin (episode 2 of 2)" in shown
    assert "Traceback" not in shown


def test_a_session_in_chinese_stores_and_publishes_english(bench: Bench) -> None:
    process = bench.record("--episodes", "9", "--auto", "--lang", "zh")
    bench.wait_for("recording", process)
    bench.wait_for_steps()
    bench.press(True)
    bench.wait_for("paused", process)
    bench.command("quit")
    assert process.wait() == 1
    shown = process.text()
    assert "等待：合上两个主臂夹爪即可开始（第 1 条轨迹，共 9 条）" in shown
    assert "录制中：episode_0" in shown
    assert "\n不再发送指令。松开急停按钮，然后复位（reset）并继续（resume），或退出（quit）" in shown
    assert re.search(r"error: 急停被按下（/aloha_kit_tests\S*）：不再发送运动指令", shown)
    assert set(bench.states) <= {"starting", "waiting", "countdown", "recording", "saving", "paused", "ended"}
    (file,) = (bench.data / "failed").glob("*.hdf5")
    assert ending(file)[1].startswith("SafetyError: the emergency stop was pressed (by /aloha_kit_tests")


def test_faults_pause_until_the_operator_resumes_and_sigterm_ends_in_order(bench: Bench) -> None:
    process = bench.record("--episodes", "9", "--auto")
    bench.wait_for("recording", process)
    bench.wait_for_steps()
    bench.press(True)
    bench.wait_for("paused", process)
    sent = [len(follower.groups) for follower in bench.followers]
    assert bench.command("reset").startswith("no reset: the emergency stop is still pressed by /aloha_kit_tests")
    bench.command("resume")
    bench.wait_for("paused", process, 2)
    bench.press(False)
    bench.command("resume")  # let go, but not reset
    bench.wait_for("paused", process, 3)
    assert [len(follower.groups) for follower in bench.followers] == sent, "nothing moves before a reset"
    assert bench.command("reset") == "reset, received while paused"
    bench.command("resume")
    bench.wait_for("recording", process, 2)
    bench.wait_for_steps()
    bench.camera.running = False
    bench.wait_for("paused", process, 4)
    bench.camera.running = True
    bench.command("resume")
    bench.wait_for("recording", process, 3)
    bench.wait_for_steps()
    process.signal(signal.SIGTERM)
    assert process.wait() == 143
    assert all(leader.torque["waist"] for leader in bench.leaders)
    assert all(follower.torque["waist"] for follower in bench.followers)
    assert list_episodes(bench.data) == []
    stopped, blind, ended = [ending(file) for file in list_episodes(bench.data / FAILED)]
    assert (stopped[0], stopped[2]) == (False, True)
    assert re.fullmatch(
        r"SafetyError: the emergency stop was pressed \(by /\S+\): no further motion was commanded", stopped[1]
    )
    assert (blind[0], blind[2]) == (False, True)
    assert blind[1].startswith("StreamError: ")
    assert "images/cam_high" in blind[1]
    assert ended == (False, "KeyboardInterrupt: SIGTERM", True)
    assert "the same command continues from here" in process.text()


def test_a_node_that_ros_shuts_down_ends_by_name_with_its_rows(bench: Bench) -> None:
    """rosnode kill, or record.launch started twice: nobody could say resume to it."""
    process = bench.record("--auto")
    bench.wait_for("recording", process)
    bench.wait_for_steps()
    (who,) = [name for name in rosnode.get_node_names() if name.startswith("/aloha_teleop")]
    kill_node(who)
    assert process.wait() == 1
    assert f"error: the node {who} was shut down: by rosnode kill, or by another node" in process.text()
    assert "Traceback" not in process.text()
    assert list_partials(bench.data) == []
    assert "was shut down" in ending(list_episodes(bench.data / FAILED)[0])[1]


def test_a_second_publisher_of_states_or_commands_ends_the_episode_by_name(bench: Bench) -> None:
    process = bench.record("--episodes", "9", "--auto")
    others = [
        ("states", "/puppet_left/joint_states"),
        ("group", "/master_right/commands/joint_group"),
    ]
    for number, (kind, topic) in enumerate(others, start=1):
        with CompetingPublisher(bench.ros, "intruder", kind, topic) as other:
            bench.wait_for("recording", process, number)
            bench.wait_for_steps()
            other.send()
            bench.wait_for("paused", process, number)
            sent = [len(follower.groups) for follower in bench.followers]
            bench.command("resume")  # it still sends
            bench.wait_for("paused", process, number + 1)
            assert [len(follower.groups) for follower in bench.followers][:1] == sent[:1], "nothing moves meanwhile"
            bench.states.remove("paused")
        bench.command("resume")
    bench.wait_for("recording", process, 1 + len(others))
    bench.command("quit")
    process.wait()
    reasons = [ending(file)[1] for file in list_episodes(bench.data / FAILED)][: len(others)]
    for (kind, topic), reason in zip(others, reasons, strict=True):
        if kind == "states":
            assert reason.startswith(f"SafetyError: two nodes publish {topic}: /aloha_kit_tests")
            assert " and /intruder. Stop one of them" in reason
        else:
            assert reason.startswith(f"SafetyError: another node commands the leaders: /intruder on {topic}. Stop")
    assert "Traceback" not in process.text()


def test_killed_is_reported_and_recovered_at_the_next_start_and_a_full_disk_loses_nothing(bench: Bench) -> None:
    process = bench.record("--auto")
    bench.wait_for("recording", process)
    bench.wait_for_steps()
    process.kill()
    assert [file.name for file in list_partials(bench.data)] == ["episode_0.hdf5.partial"]
    # a process may write files of so many bytes: a disk that is full after two seconds
    process = bench.record("--auto", prefix=("prlimit", "--fsize=100000"))
    process.wait_for(f"1 interrupted recording: `python -m aloha_kit.episode recover {bench.data}`, or start with")
    bench.wait_for("paused", process)
    assert "episode_1.hdf5 failed: [Errno 27] File too large." in process.text()
    bench.command("quit")
    assert process.wait() == 1
    assert f"2 interrupted recordings: `python -m aloha_kit.episode recover {bench.data}`" in process.text()
    process = bench.record("--auto", "--recover")
    bench.wait_for("recording", process)
    bench.wait_for_steps()
    bench.command("success")
    bench.wait_for("waiting", process, 2)
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert "episode_0.hdf5.partial: interrupted, " in process.text()
    killed, full, good = list_episodes(bench.data)
    for file in (killed, full):
        success, reason, error = ending(file)
        assert (success, error) == (False, True)
        assert reason.startswith("interrupted: recovered ")
    assert ending(good) == (True, "ended by the operator: success", False)
    assert sound(full) == []
    assert list_partials(bench.data) == []


def simulated_task(folder: Path, **changes: Any) -> Path:
    """ALOHA with one small camera."""
    task = write_task(folder, "aloha", cameras=["cam_high"])
    if changes:
        loaded = yaml.safe_load(task.read_text())
        task.write_text(yaml.safe_dump({**loaded, **changes}))
    return task


def test_a_person_records_on_the_simulated_rig_and_nothing_is_lost_when_ros_or_the_rig_is_killed(
    own_ros: Ros, tmp_path: Path
) -> None:
    task = simulated_task(tmp_path)
    arms = own_ros.start("python", "record/sim_arms_node", "--task", str(task))
    arms.wait_for("is up", 120)
    cameras = own_ros.start("python", "record/sim_cameras_node", "--task", str(task))
    cameras.wait_for("cameras of", 120)
    recorder = own_ros.launch("record.launch", task=task, episodes=2, countdown=1, rate=25, episode_len=200)
    recorder.wait_for("saved /", 120)  # the person closed the grippers, did the task, and it was judged
    (good,) = list_episodes(tmp_path / "data")
    assert ending(good) == (True, "complete", False)
    assert sound(good) == []
    with Episode.open(good) as episode:
        assert (episode.length, episode.attrs["sim"], episode.describe["seed"]) == (200, True, 0)
        assert episode.reward is not None
        assert episode.reward[-1] == 4.0
        assert episode.describe["timing"]["fps"] == pytest.approx(25, rel=0.1)
    until(lambda: recorder.text().count("recording: ") == 2, "the second episode", TIMEOUT_S)
    until(lambda: bool(list_partials(tmp_path / "data")), "it is being written", TIMEOUT_S)
    arms.kill()
    recorder.wait_for("paused: ", TIMEOUT_S)
    own_ros.core.kill()
    recorder.signal(signal.SIGINT)  # roslaunch hands it to its node
    recorder.wait(TIMEOUT_S)
    (cut,) = list_episodes(tmp_path / "data" / FAILED)
    success, reason, error = ending(cut)
    assert (success, error) == (False, True)
    assert reason.startswith("StreamError: ")
    assert "1 of 2 episodes in" in recorder.text()
    assert list_partials(tmp_path / "data") == []


def launched(**given: str) -> list[Any]:
    """The nodes of record.launch."""
    words = [f"{name}:={value}" for name, value in given.items()]
    return list(roslaunch.config.load_config_default([(str(ROOT / "launch" / "record.launch"), words)], None).nodes)


def test_the_launch_file_gives_flags_that_exist_from_the_folder_it_was_called_in(
    session_ros: Ros, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PWD", "/home/lab/a folder")
    (node,) = launched()
    assert (ROOT / "record" / node.type).stat().st_mode & 0o111
    assert (node.required, node.output) == (True, "screen")
    assert shlex.split(node.launch_prefix) == ["env", "-C", "/home/lab/a folder"]
    assert parse(shlex.split(node.args)) == RecordArgs(task="aloha_transfer_cube")
    (node,) = launched(
        rig="mobile_aloha", dataset_dir="data/x", episodes="3", cameras="cam_high cam_low", rate="30", episode_len="7",
        countdown="0", images="raw", keyboard="false", cues="bell", recover="true", image_size="48 64",
        flags="--auto --seed 4",
    )  # fmt: skip
    assert parse(shlex.split(node.args)) == RecordArgs(
        task="aloha_transfer_cube", rig="mobile_aloha", dataset_dir="data/x", num_episodes=3, episode_len=7, seed=4,
        cameras=("cam_high", "cam_low"), images="raw", recover=True, image_size=(48, 64),
        session=SessionArgs(rate_hz=30.0, countdown=0, keyboard=False, cues="bell", auto=True),
    )  # fmt: skip
    simulated = {node.type: node.args for node in launched(sim="true", rig="mobile_aloha")}
    assert set(simulated) == {"record_node", "sim_arms_node", "sim_cameras_node"}
    assert all("--rig mobile_aloha" in args for args in simulated.values())

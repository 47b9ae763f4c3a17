"""The emergency stop's topic: any true latches, a reset is explicit, and a configured source has to be alive."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rosgraph
import rospy
from std_msgs.msg import Bool

from aloha_kit.config.rig import EStopConfig
from aloha_kit.core import SafetyError
from aloha_kit.loop import Latch
from aloha_kit.ros import estop as estop_module
from aloha_kit.ros.estop import EStop
from aloha_kit.ros.node import publishers, RosError, running_publishers
from tests.ros.master import Process, Ros
from tests.waiting import until

TOPIC = "/aloha_kit/estop"
PUBLISHER = """
import sys, time, rospy
from std_msgs.msg import Bool
rospy.init_node(sys.argv[1], disable_signals=True)
button = rospy.Publisher(sys.argv[2], Bool, queue_size=10, latch=True)
hz, end = float(sys.argv[4]), time.monotonic() + 60
button.publish(Bool(sys.argv[3] == "true"))
while time.monotonic() < end:
    time.sleep(1 / hz if hz else 0.1)
    if hz:
        button.publish(Bool(sys.argv[3] == "true"))
"""


@pytest.fixture
def node(session_ros: Ros) -> Iterator[Callable[..., Process]]:
    """A publisher in a process of its own: name, value, rate (0: once, latched)."""
    started: list[Process] = []
    topics: dict[str, str] = {}

    def start(name: str, value: str, hz: float = 0.0, topic: str = TOPIC, kind: str = "Bool") -> Process:
        program = PUBLISHER.replace("Bool", kind)
        started.append(session_ros.start("python", "-c", program, name, topic, value, str(hz)))
        topics[name] = topic
        return started[-1]

    yield start
    for process in started:
        process.kill()
    for name, topic in topics.items():  # a later test's process may get the port that is left registered
        master = rosgraph.Master(f"/{name}")
        with contextlib.suppress(rosgraph.MasterException):
            master.unregisterPublisher(topic, master.lookupNode(f"/{name}"))


@pytest.fixture
def button(session_ros: Ros) -> Iterator[Any]:
    publisher = rospy.Publisher(TOPIC, Bool, queue_size=10, latch=True)
    yield publisher
    publisher.unregister()


@pytest.fixture
def estop(session_ros: Ros) -> Iterator[EStop]:
    with contextlib.closing(EStop()) as stop:
        yield stop


def press(button: Any, held_s: float = 0.0) -> None:
    until(lambda: button.get_num_connections() > 0, "somebody listens to the button")
    button.publish(Bool(True))
    time.sleep(held_s)
    button.publish(Bool(False))


def test_no_command_leaves_once_the_press_has_returned() -> None:
    latch, sent, refused = Latch(), [0], threading.Barrier(5)

    def send() -> None:
        with contextlib.suppress(SafetyError):
            while True:
                with latch.sending():
                    time.sleep(0.005)  # checked, and not sent yet
                    sent[0] += 1
        refused.wait(10)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    latch.press("the emergency stop was pressed")
    at_return = sent[0]
    refused.wait(10)
    assert at_return > 0
    assert sent[0] == at_return
    for thread in threads:
        thread.join()
    latch.reset()
    with latch.sending():
        pass


def test_a_press_during_a_reset_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    latch = Latch()
    latch.press("first")

    def slow() -> str:
        latch.press("second")  # and let go again, so that nobody presses when the answer is given
        return ""

    monkeypatch.setattr(latch, "refusal", slow)
    with pytest.raises(SafetyError, match="no reset: the emergency stop was pressed again meanwhile"):
        latch.reset()
    assert latch() == "first"


@pytest.mark.parametrize("held_s", [0.0, 0.001, 0.04])
def test_the_shortest_press_latches_until_it_is_reset(estop: EStop, button: Any, held_s: float) -> None:
    press(button, held_s)
    until(lambda: bool(estop()), "it is latched")
    until(lambda: not estop.refusal(), "the false has arrived")
    assert estop().startswith("the emergency stop was pressed (by /aloha_kit_tests")
    with pytest.raises(SafetyError, match="no further motion was commanded"):
        estop.require_released()
    estop.reset()
    assert not estop()
    estop.require_released()


def test_publishers_do_not_overrule_one_another(estop: EStop, button: Any, node: Callable[..., Process]) -> None:
    """One presses and stays pressed; another one publishes false all the time."""
    other = node("foot_switch", "true")
    until(lambda: bool(estop()), "it is latched")
    press(button)
    button.publish(Bool(False))
    time.sleep(0.2)
    assert estop() == "the emergency stop was pressed (by /foot_switch)"
    with pytest.raises(SafetyError, match="no reset: the emergency stop is still pressed by /foot_switch; release it"):
        estop.reset()
    other.kill()  # a node that is dead presses no longer, though it is still registered at the master
    until(lambda: not estop.refusal(), "its port refuses")
    estop.reset()
    assert not estop()


def test_what_was_pressed_before_is_known_at_once(
    button: Any, node: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estop_module, "FIRST_S", 10.0)  # a busy machine's
    button.publish(Bool(False))
    node("pedal", "true")
    until(lambda: "/pedal" in publishers(TOPIC), "it is there")
    with contextlib.closing(EStop()) as stop:
        assert stop() == "the emergency stop was pressed (by /pedal)"


def test_a_source_that_falls_silent_counts_as_pressed(node: Callable[..., Process]) -> None:
    topic = "/cell/estop"
    source = node("cell_plc", "false", 20.0, topic)
    with contextlib.closing(EStop(EStopConfig(topic, timeout_s=0.5))) as stop:
        time.sleep(1.5)
        assert not stop()
        source.kill()
        until(lambda: bool(stop()), "its silence is noticed")
        assert stop() == "the emergency stop's source /cell_plc is silent for 0.5 s, which counts as pressed"
        with pytest.raises(
            SafetyError, match=r"no reset: the emergency stop has no source, nothing publishes on /cell"
        ):
            stop.reset()
        node("cell_plc_again", "false", 20.0, topic)
        until(lambda: not stop.refusal(), "another one is there")
        stop.reset()
        time.sleep(1.0)
        assert not stop()


def test_a_source_that_is_stopped_is_silent_and_refuses_a_reset(node: Callable[..., Process]) -> None:
    topic = "/cell/estop"
    source = node("stuck_plc", "false", 20.0, topic)
    with contextlib.closing(EStop(EStopConfig(topic, timeout_s=0.2))) as stop:
        source.signal(signal.SIGSTOP)
        until(lambda: bool(stop()), "its silence is noticed")
        with pytest.raises(SafetyError, match="no reset: the emergency stop's source /stuck_plc is silent"):
            stop.reset()
        source.signal(signal.SIGCONT)
        until(lambda: not stop.refusal(), "it publishes again")
        assert stop()
        stop.reset()


def test_a_source_that_never_appears_is_refused_by_name(session_ros: Ros, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estop_module, "SOURCE_S", 0.3)
    with pytest.raises(RosError, match=r"the emergency stop's source is silent: nothing on /cell/none for 0\.3 s"):
        EStop(EStopConfig("/cell/none"))


@pytest.mark.parametrize("why", ["another type", "stopped"])
def test_a_button_that_cannot_be_received_is_refused_by_name(
    session_ros: Ros, node: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(estop_module, "FIRST_S", 0.5)
    name, kind = f"deaf_button_{why.split()[0]}", "Int8" if why == "another type" else "Bool"
    process = node(name, "true", kind=kind)
    until(lambda: f"/{name}" in running_publishers(TOPIC), "the button is there")
    if why == "stopped":
        time.sleep(0.3)
        process.signal(signal.SIGSTOP)
    with pytest.raises(RosError, match=rf"emergency stop of /{name} on {TOPIC} cannot .* found type std_msgs/{kind}"):
        EStop()
    process.kill()
    with contextlib.closing(EStop()) as estop:  # a registration that is left is no button
        assert estop() == ""

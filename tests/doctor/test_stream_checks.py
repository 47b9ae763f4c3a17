"""Topics that are missing, wrong, slow, or stamped by nobody or by another clock."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aloha_kit.config import SyncConfig
from aloha_kit.core.findings import Finding
from aloha_kit.doctor.stream_checks import check_topic
from aloha_kit.ros.rig_measurements import Publisher, TopicMeasurement
from tests.doctor.made import topic

NONE = np.zeros(0, np.int64)
SILENT = {"stamps_ns": NONE, "arrivals_ns": NONE, "sizes": NONE, "prints": NONE}


def judge(seen: TopicMeasurement) -> list[Finding]:
    return check_topic(seen, SyncConfig(), control_hz=50.0)


def bad(seen: TopicMeasurement) -> list[tuple[str, str, str]]:
    return [(f.level, f.check, f.found) for f in judge(seen) if f.level != "ok"]


def test_a_healthy_stream_is_three_times_ok() -> None:
    assert [(f.level, f.check) for f in judge(topic())] == [("ok", "topic"), ("ok", "rate"), ("ok", "stamps")]
    assert "10.0 ms before arrival" in judge(topic())[2].found


def test_nobody_publishes_and_what_there_is_instead_is_named() -> None:
    seen = topic(publishers=(), instead=("/usb/image_raw (sensor_msgs/Image)",), **SILENT)
    [finding] = judge(seen)
    assert finding.level == "error"
    assert finding.found == (
        "nobody publishes /usb/images/cam_high. Published instead: /usb/image_raw (sensor_msgs/Image)"
    )
    assert finding.expected == "sensor_msgs/CompressedImage at 30 Hz"


def test_another_type_is_an_error_with_both_named() -> None:
    [finding] = judge(topic(found_type="sensor_msgs/Image"))
    assert finding.found == "/usb/images/cam_high is a sensor_msgs/Image (by /driver)"
    assert finding.expected == "sensor_msgs/CompressedImage"
    assert "/compressed" in finding.remedy


def test_silence_of_a_dead_node_is_distinguished_from_silence_of_a_living_one() -> None:
    [alive] = judge(topic(**SILENT))
    [dead] = judge(topic(publishers=(Publisher("/driver", "robot-pc", reachable=False),), **SILENT))
    assert alive.found == dead.found == "/usb/images/cam_high is silent (announced by /driver)"
    assert "start it again" in alive.remedy
    assert "/driver does not answer at robot-pc" in dead.remedy


def test_two_living_publishers_are_an_error_a_dead_second_is_not() -> None:
    two = (Publisher("/a"), Publisher("/b"))
    assert bad(topic(publishers=two)) == [("error", "topic", "2 nodes publish /usb/images/cam_high: /a, /b")]
    assert bad(topic(publishers=(two[0], Publisher("/b", reachable=False)))) == []


@pytest.mark.parametrize(("hz", "level"), [(30.0, []), (28.0, []), (24.0, ["warning"]), (15.0, ["error"])])
def test_the_rate_is_graded_against_the_configured_one(hz: float, level: list[str]) -> None:
    seen = dataclasses.replace(topic(rate_hz=hz), rate_hz=30.0)
    assert [f.level for f in judge(seen) if f.check == "rate" and f.level != "ok"] == level
    assert [f.found for f in judge(seen) if f.check == "rate"] == [f"{hz:.1f} Hz"]


def test_a_slow_stream_that_is_faster_than_the_control_rate_is_no_error() -> None:
    seen = dataclasses.replace(topic("qpos_left", rate_hz=100.0), rate_hz=200.0)
    assert [f.level for f in judge(seen) if f.check == "rate"] == ["warning"]


def test_a_rate_above_the_configured_one_is_a_warning_about_the_configuration() -> None:
    [finding] = [f for f in judge(dataclasses.replace(topic(rate_hz=60.0), rate_hz=30.0)) if f.check == "rate"]
    assert (finding.level, finding.found, finding.expected) == ("warning", "60.0 Hz", "30 Hz")


def test_a_single_latched_message_is_no_stream() -> None:
    seen = topic(seconds=1 / 30)
    assert ("error", "rate", "a single message came") in bad(seen)


def test_zero_stamps_are_a_warning_and_end_the_questions_about_stamps() -> None:
    stamps = np.zeros_like(topic().stamps_ns)
    assert bad(topic(stamps_ns=stamps)) == [("warning", "stamps", "every stamp is zero")]
    some = topic().stamps_ns.copy()
    some[::2] = 0
    assert bad(topic(stamps_ns=some)) == [("warning", "stamps", "75 of 150 stamps are zero")]


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [
        (0.05, []),
        (0.15, [("warning", "stamps", "0.160 s behind this machine's clock")]),
        (3.0, [("warning", "stamps", "3.010 s behind this machine's clock")]),
        (-3.0, [("warning", "stamps", "2.990 s ahead of this machine's clock")]),
    ],
)
def test_another_machines_clock_shows_as_an_offset(offset_s: float, expected: list[tuple[str, str, str]]) -> None:
    seen = topic(publishers=(Publisher("/driver", "camera-pc", same_machine=False),))
    late = dataclasses.replace(seen, arrivals_ns=seen.arrivals_ns + int(offset_s * 1e9))
    assert bad(late) == expected
    if expected:
        assert "set the clock of camera-pc" in judge(late)[2].remedy


def test_one_stamp_for_ever_is_frozen_some_repeats_are_a_warning() -> None:
    stamps = topic().stamps_ns
    frozen = topic(stamps_ns=np.full_like(stamps, stamps[-1]))
    assert ("error", "stamps", "frozen: 150 messages with one stamp") in bad(frozen)
    twice = stamps.copy()
    twice[1::10] = twice[0::10]
    assert ("warning", "stamps", "15 of 150 messages repeat a stamp") in bad(topic(stamps_ns=twice))


def test_stamps_that_go_back_are_an_error() -> None:
    stamps = topic().stamps_ns.copy()
    stamps[70:] -= 200_000_000
    assert ("error", "stamps", "1 stamp earlier than the one before") in bad(topic(stamps_ns=stamps))


@pytest.mark.parametrize(
    ("rate_hz", "wait_ms", "level"),
    [
        (30.0, 20.0, []),
        (30.0, 50.0, ["warning"]),
        (30.0, 400.0, ["error"]),
        (200.0, 10.0, []),
        (200.0, 30.0, ["warning"]),
    ],
)
def test_uneven_stamps_are_judged_by_the_bounds_of_the_soft_sync(
    rate_hz: float, wait_ms: float, level: list[str]
) -> None:
    seen = topic(rate_hz=rate_hz, seconds=10.0)
    every_fifth = np.cumsum(np.arange(len(seen.stamps_ns)) % 5 == 0) * int(wait_ms * 1e6)
    stamps, arrivals = seen.stamps_ns + every_fifth, seen.arrivals_ns + every_fifth
    findings = [f for f in judge(dataclasses.replace(seen, stamps_ns=stamps, arrivals_ns=arrivals)) if "ms" in f.found]
    assert [f.level for f in findings if f.level != "ok"] == level
    assert all(f.expected == f"{1000 / rate_hz:.0f} ms" for f in findings if f.level != "ok")

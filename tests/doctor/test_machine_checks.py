"""Buses, networks, clocks and disks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aloha_kit.config import CameraConfig
from aloha_kit.core.findings import About, Finding
from aloha_kit.doctor import machine_checks
from aloha_kit.doctor.doctor_report import DoctorReport
from aloha_kit.doctor.probe import probe_disk, probe_usb
from aloha_kit.ros.rig_measurements import DiskMeasurement, Publisher, UsbCamera
from tests.doctor.made import network, topic


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.level, f.found) for f in findings if f.level != "ok"]


def usb(name: str, bytes_per_s: float, bus: str = "bus 1", mbit_s: float = 480) -> UsbCamera:
    return UsbCamera(name, f"/dev/{name}", bus, mbit_s, bytes_per_s, "yuyv")


def test_two_raw_cameras_fit_on_a_usb_2_bus_and_three_do_not() -> None:
    stream = 640 * 480 * 2 * 30.0
    two = [usb("a", stream), usb("b", stream)]
    assert bad(machine_checks.check_usb(two)) == []
    [(level, found)] = bad(machine_checks.check_usb([*two, usb("c", stream)]))
    assert level == "error"
    assert found == "55.3 MB/s in use: a 18.4 (yuyv), b 18.4 (yuyv), c 18.4 (yuyv)"
    assert bad(machine_checks.check_usb([*two, usb("c", stream, "bus 2")])) == []


def test_one_camera_cannot_ask_for_more_than_usb_2_gives_one() -> None:
    fast = 640 * 480 * 2 * 60.0
    assert ("error", "36.9 MB/s of yuyv from one USB 2 camera") in bad(machine_checks.check_usb([usb("a", fast)]))
    assert bad(machine_checks.check_usb([usb("a", fast, mbit_s=5000)])) == []


def pretend(root: Path, video: str, bus: str, speed: str, *, udev: str = "") -> None:
    """A sysfs and a /dev as a PC has them: usb1/1-4/1-4:1.0 holds the video device."""
    device = root / "devices" / "pci" / bus / "1-4" / "1-4:1.0"
    device.mkdir(parents=True)
    (root / "devices" / "pci" / bus / "speed").write_text(f"{speed}\n")
    (root / "sys" / video).mkdir(parents=True)
    (root / "sys" / video / "device").symlink_to(device)
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / video).touch()
    if udev:
        (root / "dev" / udev).symlink_to(root / "dev" / video)


def test_cameras_are_found_on_their_buses(tmp_path: Path) -> None:
    pretend(tmp_path, "video0", "usb1", "480", udev="CAM_HIGH")
    pretend(tmp_path, "video4", "usb2", "5000")
    cameras = {name: CameraConfig(480, 640, topic="/t") for name in ("cam_high", "cam_low", "cam_left_wrist")}
    params = {"cam_low": {"video_device": "/dev/video4", "pixel_format": "mjpeg", "framerate": 60}}
    high, low = probe_usb(cameras, params, sys=tmp_path / "sys", dev=tmp_path / "dev")
    assert (high.camera, high.bus, high.bus_mbit_s, high.format) == ("cam_high", "bus 1", 480, "yuyv")
    assert high.bytes_per_s == 640 * 480 * 2 * 30
    assert (low.camera, low.bus, low.bus_mbit_s) == ("cam_low", "bus 2", 5000)
    assert low.bytes_per_s == pytest.approx(0.4 * 640 * 480 * 60)


def test_topics_are_limited_only_where_a_network_lies_between() -> None:
    raw = [topic(f"images/{i}", rate_hz=50, sizes=np.full(250, 921_600)) for i in range(4)]
    assert [(f.level, f.subject) for f in machine_checks.check_bandwidth(raw)] == [("ok", "topics")]
    away = (Publisher("/driver", "camera-pc", same_machine=False),)
    remote = [topic(f"images/{i}", rate_hz=50, sizes=np.full(250, 921_600), publishers=away) for i in range(4)]
    assert bad(machine_checks.check_bandwidth(remote)) == [("error", "184.3 MB/s from other machines")]


def test_raw_images_count_as_the_jpeg_they_become() -> None:
    jpeg, raw = topic(), topic(expected_type="sensor_msgs/Image", sizes=np.full(150, 1_000_000))
    assert machine_checks.recorded_bytes_s([jpeg]) == pytest.approx(100_000 * 30, rel=0.01)
    assert machine_checks.recorded_bytes_s([raw]) == pytest.approx(1_000_000 * 30 * machine_checks.JPEG_SHARE, rel=0.01)
    depth = topic("images_depth/cam", expected_type="sensor_msgs/Image", sizes=np.full(150, 600_000))
    assert machine_checks.recorded_bytes_s([depth]) == pytest.approx(600_000 * 30, rel=0.01)


@pytest.mark.parametrize(("mb_s", "level"), [(100, []), (30, ["warning"]), (20, ["error"])])
def test_the_disk_is_judged_against_the_streams(mb_s: float, level: list[str]) -> None:
    found = bad(machine_checks.check_disk(DiskMeasurement("data", mb_s * 1e6, int(1e12)), 23e6))
    assert [grade for grade, _ in found] == level
    assert all(words == f"{mb_s} MB/s reach the disk, the streams are 23.0 MB/s" for _, words in found)


@pytest.mark.parametrize(("minutes", "level"), [(90, []), (59, ["warning"]), (9, ["error"])])
def test_space_is_reported_in_minutes_of_recording(minutes: int, level: list[str]) -> None:
    found = bad(machine_checks.check_disk(DiskMeasurement("data", 1e9, int(minutes * 60 * 23e6)), 23e6))
    assert [grade for grade, _ in found] == level
    assert all(words.endswith(f"free: {minutes} minutes of recording") for _, words in found)


def test_without_streams_the_disk_is_only_described() -> None:
    [finding] = machine_checks.check_disk(DiskMeasurement("data", 100e6, int(5e9)), 0.0)
    assert (finding.level, finding.found) == ("ok", "100 MB/s reach the disk, 5.0 GB free")


def test_the_disk_is_written_to_and_left_clean(tmp_path: Path) -> None:
    seen = probe_disk(tmp_path / "not" / "yet", seconds=0.05, most=8 * 1024 * 1024)
    assert seen.error == ""
    assert seen.write_bytes_s > 0
    assert seen.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_to_is_an_error() -> None:
    seen = probe_disk(Path("/proc/aloha_kit"))
    assert seen.error.startswith("cannot write there: ")
    assert bad(machine_checks.check_disk(seen, 1.0)) == [("error", seen.error)]


def test_one_machine_needs_no_addresses() -> None:
    assert [f.level for f in machine_checks.check_network(network(), [topic()], simulated=False)] == ["ok"]


def test_a_loopback_address_is_an_error_once_others_take_part() -> None:
    others = [topic(publishers=(Publisher("/driver", "camera-pc", same_machine=False),))]
    [finding] = machine_checks.check_network(network(), others, simulated=False)
    assert finding.level == "error"
    assert finding.found == "other machines take part, but this one calls itself 127.0.1.1"
    assert bad(machine_checks.check_network(network(ros_ip="10.0.0.5"), others, simulated=False)) == []
    assert bad(machine_checks.check_network(network(master_is_here=False), [], simulated=False)) != []


def test_an_address_of_nobody_is_an_error() -> None:
    [finding] = machine_checks.check_network(network(ros_ip="10.9.9.9"), [], simulated=False)
    assert (finding.level, finding.found) == ("error", "ROS_IP=10.9.9.9 is no address of this machine")
    assert finding.expected == "one of 127.0.0.1, 10.0.0.5"


def test_two_addresses_are_one_too_many() -> None:
    seen = network(ros_ip="10.0.0.5", ros_hostname="robot")
    assert bad(machine_checks.check_network(seen, [], simulated=False)) == [
        ("warning", "ROS_HOSTNAME=robot and ROS_IP=10.0.0.5")
    ]


@pytest.mark.parametrize(
    ("published", "simulated", "expected"),
    [
        (False, True, [("error", "true, but nobody publishes /clock: time stands still")]),
        (True, False, [("warning", "true on a real rig")]),
        (True, True, []),
    ],
)
def test_simulated_time_is_for_simulated_rigs(
    published: bool, simulated: bool, expected: list[tuple[str, str]]
) -> None:
    seen = network(use_sim_time=True, clock_published=published)
    assert bad(machine_checks.check_network(seen, [], simulated=simulated)) == expected


def test_a_clock_that_was_set_during_the_check_is_reported() -> None:
    assert bad(machine_checks.check_network(network(clock_step_s=-0.25), [], simulated=False)) == [
        ("warning", "the wall clock moved by -0.250 s during the check")
    ]


def test_the_verdict_forgives_warnings_and_puts_errors_last() -> None:
    about = About("rate", "images/cam_high")
    fine, worn, broken = (
        about.ok("30.0 Hz"),
        about.warning("26 Hz", "30 Hz", "look"),
        about.error("9 Hz", "30 Hz", "act"),
    )
    go, no_go = DoctorReport("t", "aloha", True, (worn, fine)), DoctorReport("t", "aloha", False, (broken, worn, fine))
    assert (go.go, no_go.go) == (True, False)
    assert go.text().endswith("GO: rig 'aloha' (simulated) for task 't': 0 errors, 1 warning")
    lines = no_go.text().splitlines()
    assert [line.split()[0] for line in lines if " Hz" in line and "expected" not in line] == ["ok", "WARNING", "ERROR"]
    assert lines[-1] == "NO-GO: rig 'aloha' for task 't': 1 error, 1 warning"
    assert [line.strip() for line in lines[-4:-2]] == ["expected: 30 Hz", "to do: act"]
    assert no_go.to_mapping()["verdict"] == "NO-GO"
    assert no_go.to_mapping()["findings"][0] == {
        "level": "error", "check": "rate", "subject": "images/cam_high",
        "found": "9 Hz", "expected": "30 Hz", "remedy": "act",
    }  # fmt: skip

"""Checks of what carries the data: USB buses, the network between machines, clocks, the disk."""

from __future__ import annotations

from collections.abc import Sequence

from aloha_kit.core.findings import About, Finding, problems
from aloha_kit.core.lang import tr
from aloha_kit.ros.rig_measurements import DiskMeasurement, NetworkMeasurement, TopicMeasurement, UsbCamera

USABLE = 0.8
"""Share of a USB bus that periodic transfers may take (USB 2.0 specification, 5.6.4: 80 % of a microframe)."""
USB2_STREAM = 24.576e6
"""Largest bandwidth of one USB 2 camera, bytes/s: three packets of 1024 bytes a microframe."""
USB_LOAD = (0.85, 1.0)
"""Share of what is usable: warning, error."""
GIGABIT = 110e6
"""Bytes/s that a gigabit network carries in practice."""
NETWORK_LOAD = (0.5, 0.9)
"""Share of it: warning, error."""
JPEG_SHARE = 0.13
"""Size of a JPEG of quality 95 against the raw image (0.12 of 0.92 MB measured on a busy scene)."""
DISK_LOAD = (0.5, 1.0)
"""Share of the disk's speed that the streams may take: warning, error."""
SPACE_MINUTES = (60.0, 10.0)
"""Minutes of recording that the disk should hold: below the first a warning, below the second an error."""
CLOCK_STEP_S = 0.01
"""How far the wall clock may move against the monotonic one during the check."""


def check_usb(cameras: Sequence[UsbCamera]) -> list[Finding]:
    """Compare the bandwidth of the cameras on each bus with the bus's capacity."""
    findings = []
    for bus in sorted({camera.bus for camera in cameras}):
        on_it = [camera for camera in cameras if camera.bus == bus]
        capacity, used = on_it[0].bus_mbit_s * 1e6 / 8 * USABLE, sum(camera.bytes_per_s for camera in on_it)
        named = ", ".join(f"{camera.camera} {camera.bytes_per_s / 1e6:.1f} ({camera.format})" for camera in on_it)
        expected = tr("under {limit:.0f} MB/s ({bus:g} Mbit/s)", limit=capacity / 1e6, bus=on_it[0].bus_mbit_s)
        remedy = tr("plug a camera into a port of another bus (`lsusb -t` lists them), or set its format to MJPEG")
        found = tr("{used:.1f} MB/s in use: {cameras}", used=used / 1e6, cameras=named)
        findings.append(About("usb", bus).graded(used / capacity, USB_LOAD, found, expected, remedy))
    for camera in cameras:
        if camera.bus_mbit_s <= 480 and camera.bytes_per_s > USB2_STREAM:
            found = tr(
                "{rate:.1f} MB/s of {form} from one USB 2 camera", rate=camera.bytes_per_s / 1e6, form=camera.format
            )
            expected = tr("at most {limit:.1f} MB/s", limit=USB2_STREAM / 1e6)
            findings.append(About("usb", camera.camera).error(found, expected, tr("a lower rate or size, or MJPEG")))
    return findings


def check_bandwidth(topics: Sequence[TopicMeasurement]) -> list[Finding]:
    """Data rate of the topics; a limit only where a network lies between."""
    total = sum(topic.bytes_per_s for topic in topics)
    away = sum(topic.bytes_per_s for topic in topics if any(not p.same_machine for p in topic.publishers))
    if not away:
        return [About("bandwidth", "topics").ok(tr("{rate:.1f} MB/s, all from this machine", rate=total / 1e6))]
    found, expected = (
        tr("{rate:.1f} MB/s from other machines", rate=away / 1e6),
        tr("gigabit Ethernet carries {limit:.0f} MB/s", limit=GIGABIT / 1e6),
    )
    remedy = tr("subscribe to /compressed topics, or run the cameras' drivers on this machine")
    return [About("bandwidth", "network").graded(away / GIGABIT, NETWORK_LOAD, found, expected, remedy)]


def recorded_bytes_s(topics: Sequence[TopicMeasurement]) -> float:
    """Bytes/s that recording these topics writes: JPEG as it comes, raw colour as the JPEG it becomes."""
    return sum(topic.bytes_per_s * (JPEG_SHARE if _becomes_jpeg(topic) else 1.0) for topic in topics)


def _becomes_jpeg(topic: TopicMeasurement) -> bool:
    return topic.stream.startswith("images/") and topic.expected_type == "sensor_msgs/Image"


def check_disk(disk: DiskMeasurement, needed: float) -> list[Finding]:
    """Speed of writes that reach the disk, and space in minutes, for `needed` bytes/s."""
    about = About("disk", disk.folder)
    if disk.error:
        return [
            about.error(disk.error, tr("a folder that can be written to"), tr("mount the disk, or give --dataset_dir"))
        ]
    speed, free = (
        tr("{rate:.0f} MB/s reach the disk", rate=disk.write_bytes_s / 1e6),
        tr("{size:.1f} GB free", size=disk.free_bytes / 1e9),
    )
    if needed <= 0:  # no stream was received, which is reported elsewhere
        return [about.ok(f"{speed}, {free}")]
    minutes = disk.free_bytes / needed / 60
    remedy = tr("record to an SSD, choose /compressed topics, or fewer or smaller cameras")
    expected = tr("at least {rate:.1f} MB/s", rate=needed / DISK_LOAD[0] / 1e6)
    least = tr("{wanted:g} minutes, and never under {least:g}", wanted=SPACE_MINUTES[0], least=SPACE_MINUTES[1])
    # fewer minutes are worse, so both sides change sign
    scarce = (-SPACE_MINUTES[0], -SPACE_MINUTES[1])
    found = tr("{speed}, the streams are {rate:.1f} MB/s", speed=speed, rate=needed / 1e6)
    space = tr("{free}: {minutes:.0f} minutes of recording", free=free, minutes=minutes)
    return [
        about.graded(needed / max(disk.write_bytes_s, 1.0), DISK_LOAD, found, expected, remedy),
        about.graded(-minutes, scarce, space, least, tr("move finished episodes elsewhere")),
    ]


def check_network(network: NetworkMeasurement, topics: Sequence[TopicMeasurement], *, simulated: bool) -> list[Finding]:
    """Check this machine's address in ROS, and the source of the time."""
    away = not network.master_is_here or any(not p.same_machine for t in topics for p in t.publishers)
    step = About("clock", tr("this machine")).graded(
        abs(network.clock_step_s),
        (CLOCK_STEP_S, float("inf")),
        tr("the wall clock moved by {seconds:+.3f} s during the check", seconds=network.clock_step_s),
        tr("a steady clock"),
        tr("let it settle before recording (chrony slews, ntpdate steps)"),
    )
    bad = problems(*_addresses(network, away), *_simulated_time(network, simulated), step)
    return bad or [About("network", "ros").ok(tr("master at {uri}", uri=network.master_uri))]


def _addresses(network: NetworkMeasurement, away: bool) -> list[Finding]:
    about, findings = About("network", "ros"), []
    name, address, own = network.ros_hostname, network.ros_ip, ", ".join(network.own_addresses)
    if name and address:
        found = tr("ROS_HOSTNAME={name} and ROS_IP={address}", name=name, address=address)
        findings.append(about.warning(found, tr("one of them"), tr("unset ROS_IP: ROS_HOSTNAME wins")))
    if address and address not in network.own_addresses:
        found = tr("ROS_IP={address} is no address of this machine", address=address)
        findings.append(
            about.error(found, tr("one of {own}", own=own), tr("correct ROS_IP: no node can reach this one"))
        )
    reached_by = name or address or network.hostname_address
    if not reached_by:
        remedy = tr("set ROS_IP, or enter the name in /etc/hosts")
        found = tr("this machine's name does not resolve")
        findings.append((about.error if away else about.warning)(found, tr("an address"), remedy))
    elif away and (reached_by.startswith("127.") or reached_by == "localhost"):
        found = tr("other machines take part, but this one calls itself {reached_by}", reached_by=reached_by)
        remedy = tr("set ROS_IP to this machine's address on the rig's network ({own})", own=own)
        findings.append(about.error(found, tr("an address that they reach"), remedy))
    return findings


def _simulated_time(network: NetworkMeasurement, simulated: bool) -> list[Finding]:
    about = About("clock", "/use_sim_time")
    if network.use_sim_time and not network.clock_published:
        remedy = tr("rosparam set /use_sim_time false, and restart the drivers")
        return [about.error(tr("true, but nobody publishes /clock: time stands still"), tr("false"), remedy)]
    if network.use_sim_time and not simulated:
        remedy = tr("rosparam set /use_sim_time false, unless a bag is being played")
        return [about.warning(tr("true on a real rig"), tr("false"), remedy)]
    return []

"""Checks of topics: present, of the right type, published by one running node, on time, with sound stamps."""

from __future__ import annotations

import numpy as np

from aloha_kit.config import SyncConfig
from aloha_kit.core.findings import About, Finding, problems
from aloha_kit.core.lang import tr, tr_plural
from aloha_kit.ros.rig_measurements import TopicMeasurement

SLOW = (0.10, 0.30)
"""Fraction of the configured rate that is missing: warning, error. A stream that is still faster than the
task's control rate loses nothing that would be recorded, so it is only worth a warning."""
FAST = 1.25
"""Times the configured rate from which the configuration is probably wrong."""


def check_topic(topic: TopicMeasurement, sync: SyncConfig, control_hz: float) -> list[Finding]:
    """All findings about one topic; a missing or silent one ends the questions.

    Args:
        control_hz: the task's rate.
    """
    if missing := _missing(topic):
        return missing
    return [_publishers(topic), _rate(topic, control_hz), *_stamps(topic, sync)]


def _missing(topic: TopicMeasurement) -> list[Finding]:
    about = About("topic", topic.stream)
    names = ", ".join(publisher.node for publisher in topic.publishers)
    if not topic.publishers:
        expected = tr("{type} at {rate_hz:g} Hz", type=topic.expected_type, rate_hz=topic.rate_hz)
        found = tr("nobody publishes {topic}", topic=topic.topic)
        if topic.instead:
            others = ", ".join(topic.instead)
            found = tr("nobody publishes {topic}. Published instead: {others}", topic=topic.topic, others=others)
        return [
            about.error(
                found,
                expected,
                tr("start its driver, or correct the rig's topic"),
            )
        ]
    if topic.found_type != topic.expected_type:
        remedy = tr("correct the rig's topic: a driver of another kind has this name")
        if "Image" in topic.expected_type:
            remedy = tr(
                "correct the rig's topic: one that ends in /compressed is a CompressedImage, any other an Image"
            )
        return [
            about.error(
                tr("{topic} is a {type} (by {names})", topic=topic.topic, type=topic.found_type, names=names),
                topic.expected_type,
                remedy,
            )
        ]
    if not len(topic.arrivals_ns):
        remedy = tr("look at its log and its cable, then start it again")
        if dead := next((publisher for publisher in topic.publishers if not publisher.reachable), None):
            remedy = tr(
                "{node} does not answer at {host}: it died (`rosnode cleanup`), or has a wrong ROS_IP",
                node=dead.node,
                host=dead.host,
            )
        return [
            about.error(
                tr("{topic} is silent (announced by {names})", topic=topic.topic, names=names),
                f"{topic.rate_hz:g} Hz",
                remedy,
            )
        ]
    return []


def _publishers(topic: TopicMeasurement) -> Finding:
    about, names = About("topic", topic.stream), ", ".join(publisher.node for publisher in topic.publishers)
    alive = sum(publisher.reachable for publisher in topic.publishers)
    if alive > 1:
        remedy = tr("end all but one: their messages would be mixed in the data")
        return about.error(
            tr("{alive} nodes publish {topic}: {names}", alive=alive, topic=topic.topic, names=names), tr("one"), remedy
        )
    return about.ok(
        tr("{topic}, {type} by {names}", topic=topic.topic, type=topic.expected_type.split("/")[-1], names=names)
    )


def _rate(topic: TopicMeasurement, control_hz: float) -> Finding:
    about, expected = About("rate", topic.stream), f"{topic.rate_hz:g} Hz"
    if len(topic.arrivals_ns) < 2:
        return about.error(
            tr("a single message came"), expected, tr("look at the driver's log; a latched topic is no stream")
        )
    hz = (len(topic.arrivals_ns) - 1) / max((topic.arrivals_ns[-1] - topic.arrivals_ns[0]) / 1e9, 1e-9)
    if hz > FAST * topic.rate_hz:
        return about.warning(f"{hz:.1f} Hz", expected, tr("set rate_hz of the rig to what the driver gives"))
    remedy = tr("check the driver's settings and this machine's load")
    if "images" in topic.stream:
        remedy = tr(
            "give it more light (long exposures slow it) or a USB bus of its own, or set rate_hz to what it gives"
        )
    limits = SLOW if hz < control_hz else (SLOW[0], np.inf)
    return about.graded(1 - hz / topic.rate_hz, limits, f"{hz:.1f} Hz", expected, remedy)


def _stamps(topic: TopicMeasurement, sync: SyncConfig) -> list[Finding]:
    about = About("stamps", topic.stream)
    if unset := int(np.count_nonzero(topic.stamps_ns == 0)):
        found = tr("{unset} of {total} stamps are zero", unset=unset, total=len(topic.stamps_ns))
        if unset == len(topic.stamps_ns):
            found = tr("every stamp is zero")
        remedy = tr(
            "configure the driver to stamp; until then the time of arrival is used, and the episode records that"
        )
        return [about.warning(found, tr("the capture time"), remedy)]
    lag = float(np.median(topic.arrivals_ns - topic.stamps_ns)) / 1e9
    bad = problems(*_order(about, topic), _offset(about, topic, lag, sync), _evenness(about, topic, sync))
    return bad or [about.ok(tr("in order and even, {lag:.1f} ms before arrival", lag=lag * 1e3))]


def _order(about: About, topic: TopicMeasurement) -> list[Finding]:
    steps, findings = np.diff(topic.stamps_ns), []
    repeated, backwards = int(np.count_nonzero(steps == 0)), int(np.count_nonzero(steps < 0))
    expected = tr("a new stamp a message")
    if len(steps) and repeated == len(steps):
        found = tr("frozen: {total} messages with one stamp", total=len(steps) + 1)
        findings.append(about.error(found, expected, tr("restart the driver; it repeats its last message")))
    elif repeated:
        found = tr("{repeated} of {total} messages repeat a stamp", repeated=repeated, total=len(steps) + 1)
        findings.append(about.warning(found, expected, tr("lower the driver's rate to the device's")))
    if backwards:
        remedy = tr("two sources on one topic, or a clock that was set: keep its machine's clock from jumping")
        findings.append(
            about.error(
                tr_plural("{n} stamp earlier than the one before", "{n} stamps earlier than the one before", backwards),
                tr("order"),
                remedy,
            )
        )
    return findings


def _offset(about: About, topic: TopicMeasurement, lag: float, sync: SyncConfig) -> Finding:
    """No error: the soft sync estimates the offset and takes it out, to a few milliseconds."""
    remedy = tr("the driver buffers, or stamps wrongly: shorter queues, stamps at capture")
    if hosts := sorted({publisher.host for publisher in topic.publishers if not publisher.same_machine}):
        remedy = tr(
            "set the clock of {hosts} by this machine's (chrony); until then the offset is estimated",
            hosts=", ".join(hosts),
        )
    found = tr("{seconds:.3f} s ahead of this machine's clock", seconds=abs(lag))
    if lag > 0:
        found = tr("{seconds:.3f} s behind this machine's clock", seconds=lag)
    expected = tr("within {seconds:g} s", seconds=sync.clock_offset_s)
    return about.graded(abs(lag), (sync.clock_offset_s, np.inf), found, expected, remedy)


def _evenness(about: About, topic: TopicMeasurement, sync: SyncConfig) -> Finding:
    """Deviation of intervals from the typical one, against the bounds of skew and of silence in the soft sync."""
    steps = np.diff(np.sort(topic.stamps_ns))
    steps = steps[steps > 0] / 1e9
    if len(steps) < 5:
        return about.ok(tr("too few to judge"))
    limits = (
        max(sync.max_skew_periods / topic.rate_hz, sync.max_skew_s),
        max(sync.max_age_periods / topic.rate_hz, sync.max_age_s),
    )
    uneven = float(np.percentile(np.abs(steps - np.median(steps)), 95))
    low, high = 1e3 * np.percentile(steps, (5, 95))
    remedy = tr("ease this machine's load")
    if "images" in topic.stream:
        remedy = tr("ease this machine's load, or give the camera a USB bus of its own")
    return about.graded(
        uneven,
        limits,
        tr("intervals of {low:.0f} to {high:.0f} ms", low=low, high=high),
        f"{1e3 / topic.rate_hz:.0f} ms",
        remedy,
    )

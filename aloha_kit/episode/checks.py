"""Checks of an episode's vectors and stamps, each a generator of findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core.arm_models import BASE, by_arm
from aloha_kit.core.features import ROLES, SENSORS
from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import Message
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.episode.bounds import Bounds, finding, graded
from aloha_kit.episode.gripper_checks import check_grippers
from aloha_kit.storage.contract_file import UNKNOWN
from aloha_kit.storage.layouts import COBOT_MAGIC, OURS
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.robotwin import ROBOTWIN
from aloha_kit.storage.rows import NO_STAMP
from aloha_kit.storage.vectors import longest_run, names_of, tables, wrong_rows

Table = npt.NDArray[Any]

UNUSED = tuple(vector for role in ROLES.values() if role.read == "listed" for vector in role.vectors)
"""Streams that a policy reads only where its configuration lists them."""


def check_ending(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that no error ended the episode: it would not show the whole task."""
    if episode.attrs.get("error"):
        yield finding(
            "warning",
            "ending",
            Message("ended early: {reason}", reason=episode.attrs.get("reason") or Message("an error")),
        )


def check_shapes(episode: RecordedEpisode, bounds: Bounds) -> Iterator[Finding]:
    """Check that streams have equal numbers of rows and the contract's widths."""
    if episode.length == 0:
        yield finding("error", "shapes", Message("no steps"))
    for message in wrong_rows(episode):
        yield finding("error", "shapes", message)
    contract = episode.contract
    if contract.units.get("joints") == UNKNOWN and episode.assumption:
        yield finding("warning", "contract", episode.assumption)
    if episode.qpos.shape[1] != len(contract.state_names):
        yield finding(
            "error",
            "shapes",
            Message(
                "qpos has {entries} entries, the contract {count}",
                entries=episode.qpos.shape[1],
                count=len(contract.state_names),
            ),
        )
    present = tables(episode)
    for feature in contract.sensors:
        if feature.name in present and present[feature.name].shape[1:] != feature.shape:
            found = Message(
                "{feature} has {entries} entries, the contract {count}",
                feature=feature.name,
                entries=present[feature.name].shape[1],
                count=feature.shape[0],
            )
            yield finding("error", "shapes", found)
        elif feature.name.startswith(SENSORS) and feature.name not in present:
            yield finding(
                "error", "shapes", Message("{feature} is missing, which the contract has", feature=feature.name)
            )
    if not episode.cameras:  # a recorded contract without cameras is intended, an assumed one may be a mistake
        yield finding("warning" if episode.assumption else "info", "images", Message("no cameras"))


def check_notes(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Report conversions, assumptions, and attributes that contradict the data, as information: the data are used."""
    for note in (note for note in episode.notes if note != episode.jpeg_order_note):
        yield finding("info", "format", note)


def check_finite(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check for NaN and infinity; only a warning in streams that training does not read (velocity, effort)."""
    for name, table in tables(episode).items():
        bad = np.argwhere(~np.isfinite(table))
        if len(bad):
            row, column = bad[0]
            found = Message(
                "{count} values of {name} are not finite, first: row {row}, {entry}",
                count=len(bad),
                name=name,
                row=row,
                entry=names_of(episode, name)[column],
            )
            if name in UNUSED:
                yield finding(
                    "warning", "finite", Message("{found}; training does not use {name}", found=found, name=name)
                )
            else:
                yield finding("error", "finite", found)


def check_constant(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check for streams, and whole arms, that never change."""
    for name, table in tables(episode).items():
        if len(table) < 2 or name in ("base_action", "base_vel") or not np.isfinite(table).all():
            continue  # a base may stand still
        moving = np.ptp(table, axis=0) > 0
        if not moving.any():
            vital = name in ("action", "qpos")
            yield from graded(1 + vital, (1, 2), "constant", Message("{name} never changes", name=name))
            continue
        if name in ("action", "qpos"):
            names = names_of(episode, name)
            for arm, columns in by_arm(names).items():
                if arm != BASE and not moving[columns].any():
                    yield finding(
                        "warning", "constant", Message("{name} of arm '{arm}' never changes", name=name, arm=arm)
                    )


def check_action(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check for actions that are measured joints: a policy would be trained to stand still, or without control lag."""
    if episode.layout == ROBOTWIN:
        return  # defined by the layout (and noted): the commanded joints are its state
    action, qpos = episode.action, episode.qpos
    if action.shape[1] != qpos.shape[1] or len(action) < 2 or len(qpos) < len(action):
        return
    moving = np.ptp(action, axis=0) > 0
    if not moving.any():
        return
    for shift, row in ((0, Message("same")), (1, Message("next"))):
        pairs = min(len(action), len(qpos) - shift)
        equal = np.isclose(action[:pairs, moving], qpos[shift : shift + pairs, moving], rtol=0, atol=1e-6)
        if equal.mean() > 0.99:
            message = Message(
                "the action equals qpos of the {row} row: measured joints were recorded as commands", row=row
            )
            yield from graded(2 - shift, (1, 2), "action", message)
            return


def check_gripper(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that normalised grippers stay near [0, 1]."""
    contract = episode.contract
    if episode.layout == COBOT_MAGIC or not contract.units.get("gripper", "").startswith("0"):
        return
    for name in ("qpos", "action"):
        for column, joint in enumerate(names_of(episode, name)):
            if not joint.endswith("gripper"):
                continue
            low, high = float(tables(episode)[name][:, column].min()), float(tables(episode)[name][:, column].max())
            message = Message(
                "{joint} of {name} spans {low:.2f} to {high:.2f}; normalised, 0 is closed and 1 is open",
                joint=joint,
                name=name,
                low=low,
                high=high,
            )
            yield from graded(max(-low, high - 1), bounds.gripper, "gripper", message)


def check_gripper_pairs(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that each gripper's state belongs to its command."""
    yield from check_grippers([(episode.qpos, episode.action)], episode.contract)


def check_jumps(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check for joints that move further in one row than an arm can, where their unit is known to be radians."""
    units = episode.contract.units
    if units.get("joints") != "rad":
        return
    for name, limits in (("qpos", bounds.state_jump), ("action", (bounds.action_jump, np.inf))):
        table, names = tables(episode)[name], names_of(episode, name)
        joints = [
            i
            for i, joint in enumerate(names)
            if units.get(joint, "rad") == "rad" and not joint.endswith("gripper") and not joint.startswith("base")
        ]
        if len(table) < 2 or not joints:
            continue
        steps = np.abs(np.diff(table[:, joints].astype(np.float64), axis=0))
        if not np.isfinite(steps).all():
            continue  # reported by the finite check
        row, column = np.unravel_index(int(steps.argmax()), steps.shape)
        worst = float(steps[row, column])
        message = Message(
            "{joint} of {name} jumps {worst:.2f} rad from row {row} to {next_row}",
            joint=names[joints[column]],
            name=name,
            worst=worst,
            row=row,
            next_row=row + 1,
        )
        yield from graded(worst, limits, "jump", message)


def check_stamps(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that stamps increase and no stream stands still."""
    stamps = episode.stamps
    if not stamps:
        if episode.layout == OURS:
            yield finding("error", "stamps", Message("no stamps"))
        return
    for name, values in stamps.items():
        known = values[values != NO_STAMP]
        if len(known) < len(values) - (name == "deadline"):
            yield finding(
                "warning",
                "stamps",
                Message("{name} has no stamp in {count} rows", name=name, count=len(values) - len(known)),
            )
        steps = np.diff(known)
        if (steps < 0).any():
            row = int(np.argmax(steps < 0))
            yield finding(
                "error",
                "stamps",
                Message(
                    "{name} runs backwards by {ms:.1f} ms at row {row}", name=name, ms=-steps[row] / 1e6, row=row + 1
                ),
            )
        elif name in ("deadline", "command") and (steps == 0).any():
            yield finding(
                "error", "stamps", Message("{name} repeats at row {row}", name=name, row=int(np.argmax(steps == 0)) + 1)
            )
        elif name not in ("deadline", "command"):
            longest, row = longest_run(steps == 0)
            seconds = longest / episode.rate_hz
            message = Message(
                "stream {name} stood still for {seconds:.2f} s from row {row}", name=name, seconds=seconds, row=row
            )
            yield from graded(seconds, bounds.frozen_s, "stamps", message)


def check_skew(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that streams of one row were captured together, except the leaders': their action is one step earlier."""
    streams = {
        name: stamps
        for name, stamps in episode.stamps.items()
        if name not in ("deadline", "command") and not name.startswith("leader_") and len(stamps) == episode.frames
    }
    if len(streams) < 2:
        return
    matrix = np.stack(list(streams.values()))
    matrix = matrix[:, (matrix != NO_STAMP).all(axis=0)]
    if not matrix.size:
        return
    offset = (matrix - matrix[0]).astype(np.float64)  # the difference first: stamps need all 64 bits
    offset -= np.median(offset, axis=0)
    for name, values in zip(streams, offset, strict=True):
        skew = float(np.percentile(np.abs(values), 99)) / 1e6
        period = 1e3 / episode.rate_hz
        message = Message(
            "stream {name} is {skew:.1f} ms from the others (99th percentile; a period is {period:.1f} ms)",
            name=name,
            skew=skew,
            period=period,
        )
        yield from graded(skew / period, bounds.skew_periods, "skew", message)


def check_rate(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that steps have the nominal rate, without gaps."""
    stamps = episode.stamps
    # Stamps of measured joints show the actual rate; deadlines are only the intended one.
    whole = (stamps[n] for n in ("qpos", "deadline", *stamps) if n in stamps and (stamps[n] != NO_STAMP).all())
    times = next(whole, None)
    nominal = episode.rate_hz
    if times is None or len(times) < 3 or times[-1] <= times[0]:
        return
    steps = np.diff(times) / 1e9
    rate = (len(times) - 1) / float(steps.sum())
    yield from graded(
        abs(rate / nominal - 1),
        bounds.rate,
        "rate",
        Message("{rate:.1f} Hz on average, {nominal:g} Hz nominal", rate=rate, nominal=nominal),
    )
    row = int(steps.argmax())
    message = Message(
        "{ms:.0f} ms between rows {row} and {next_row}, {nominal:.0f} ms nominal",
        ms=steps[row] * 1e3,
        row=row,
        next_row=row + 1,
        nominal=1e3 / nominal,
    )
    yield from graded(float(steps[row]) * nominal, bounds.gap_periods, "gap", message)

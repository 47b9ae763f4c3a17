"""Checks that each gripper's measured state belongs to its command: unit, direction, and place in the vectors.

State and command of a gripper are not equal: ALOHA normalises them on scales that differ by up to 0.09, and a gripper
stops at the object that it holds. The checks therefore compare the correlation over time and the order of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract
from aloha_kit.core.arm_models import BASE, by_arm
from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import joined, Message
from aloha_kit.episode.bounds import finding

Table = npt.NDArray[Any]

LAGS = range(21)  # steps by which a state may follow its command
STRIDE = 10  # steps over which motions are compared: at an object the state stops, but its motions still fit
ROWS = 20_000  # at most, of whole episodes, evenly chosen
FOLLOWS, APART = 0.8, 0.3  # correlations above which a state follows a command, and below which it does not
NEAR = range(11)  # lags for matching states to commands; more would fit any two slow motions
MISPLACED = ((0.95, 0.7), (0.85, 0.6))  # of values, of motions: correlation with another's command, its own one's below
EXCHANGED, UNEXPLAINED = 0.85, 0.05  # correlation with each other's command; variance that their own leave, together
ON_TIME, SHIFTED = (-0.1, 0.4), (-0.2, 0.5)  # s of lag that a gripper has; before and after which it has none
SHIFTS = (-1.0, 2.0)  # s of lag that are tried
STILL = 2e-3  # a smaller spread counts as no motion
METRES = (-0.02, 0.15)  # no gripper of these arms opens wider
OPENING = (-0.6, 1.3)  # 0 to 1, and what squeezing and ALOHA's two scales add


def check_grippers(pairs: Iterable[tuple[Table, Table]], contract: Contract) -> Iterator[Finding]:
    """Findings about the grippers of some episodes.

    Args:
        pairs: (T, S) state and (T, A) action of each episode; row i of the state was observed when action i was chosen.
        contract: names and units.
    """
    chosen = _some([pair for pair in pairs if len(pair[0]) > 2])
    if not chosen or not all(np.isfinite(table).all() for pair in chosen for table in pair):
        return
    state, action = (np.concatenate([pair[k] for pair in chosen]).astype(np.float64) for k in (0, 1))
    states, actions = contract.state_names, contract.action_names
    shared = [(states.index(name), a) for a, name in enumerate(actions) if name in states and not _base(name)]
    if not shared or state.shape[1] != len(states):
        return
    columns = [s for s, _ in shared]
    commands = [a for _, a in shared if a < action.shape[1]]
    if len(commands) < len(columns):
        return
    names = [states[s] for s in columns]
    compared = [(s[:, columns], a[:, commands]) for s, a in chosen]
    moved = [(s[STRIDE:] - s[:-STRIDE], a[STRIDE:] - a[:-STRIDE]) for s, a in compared if len(s) > 2 * STRIDE]
    both = [each for each in (compared, moved) if each]
    near, whole = ([_correlations(each, lags) for each in both] for lags in (NEAR, LAGS))
    misplaced = list(_misplaced(names, [best for best, _ in near], [best for best, _ in whole]))
    yield from misplaced
    if misplaced:
        return  # the checks below would compare entries that do not belong together
    looked = _Looked(
        names,
        [i for i, name in enumerate(names) if is_gripper(name, names)],
        state[:, columns],
        action[:, commands],
        np.max([best for best, _ in whole], axis=0),
        np.max([best for best, _ in near], axis=0),
        np.min([worst for _, worst in near], axis=0),
    )
    yield from _places(looked)
    yield from _pairs(looked, normalised=contract.units.get("gripper", "").startswith("0 closed"))
    yield from _shifted(looked, both, contract.rate_hz)


@dataclass(frozen=True, eq=False)
class _Looked:
    """The entries that state and action share, and their correlations (D, D): state by command.

    `best` is the highest over all lags, `near_best` and `near_worst` highest and lowest over near ones.
    """

    names: Sequence[str]
    grippers: Sequence[int]
    state: Table
    action: Table
    best: Table
    near_best: Table
    near_worst: Table


def is_gripper(name: str, names: Sequence[str]) -> bool:
    """Whether an entry is a gripper by its name; Cobot Magic calls its grippers `left_joint6`."""
    return "gripper" in name or (name.endswith("_joint6") and f"{name[:-1]}7" not in names)


def _pairs(looked: _Looked, *, normalised: bool) -> Iterator[Finding]:
    """Direction and unit of each gripper that moves."""
    small = all(_within(t[:, g], METRES) for g in looked.grippers for t in (looked.state, looked.action))
    for g in looked.grippers:
        measured, command, best = looked.state[:, g], looked.action[:, g], float(looked.best[g, g])
        if np.ptp(command) < 0.01 or max(np.ptp(command), np.ptp(measured)) < (0.01 if small else 0.1):
            continue  # a gripper that is not used
        name, spans = (
            looked.names[g],
            Message("state {state}, command {command}", state=_span(measured), command=_span(command)),
        )
        if np.ptp(measured) < 1e-4:
            yield finding(
                "warning",
                "gripper",
                Message("{name}: the command moves, the state never does ({spans})", name=name, spans=spans),
            )
            continue
        if (turned := _turned(looked, g)) is not None:
            yield turned
            continue
        ratio, spans = (
            float(np.ptp(measured) / np.ptp(command)),
            Message("{spans}, correlation {best:.2f}", spans=spans, best=best),
        )
        if best >= FOLLOWS and (units := _units(measured, command, ratio)):
            yield finding(
                "error" if normalised else "warning",
                "gripper",
                Message("{name}: {units} ({spans})", name=name, units=units, spans=spans),
            )
        elif best < APART and min(1.0, ratio) * np.ptp(command) > (0.01 if small else 0.3):
            yield finding(
                "warning",
                "gripper",
                Message("{name}: the state does not follow its command ({spans})", name=name, spans=spans),
            )
        elif small and normalised and best >= FOLLOWS and np.ptp(command) > 0.02:
            message = Message(
                "{name}: normalised is 0 closed to 1 open, these look like metres ({spans})", name=name, spans=spans
            )
            yield finding("warning", "gripper", message)


def _turned(looked: _Looked, g: int) -> Finding | None:
    """A gripper that follows another one's command, or its own in the other direction."""
    name, best, own = looked.names[g], looked.best, float(looked.best[g, g])
    for other in looked.grippers:
        if best[g, other] >= FOLLOWS and max(own, best[other, other]) < APART:
            found = Message("correlation {best:.2f}, with its own {own:.2f}", best=best[g, other], own=own)
            return finding(
                "error",
                "gripper",
                Message(
                    "{name}: the state follows the command of {other} ({found})",
                    name=name,
                    other=looked.names[other],
                    found=found,
                ),
            )
    worst = float(looked.near_worst[g, g])
    if worst > -FOLLOWS or looked.near_best[g, g] >= APART:
        return None
    spans = Message(
        "state {state}, command {command}, correlation {worst:.2f}",
        state=_span(looked.state[:, g]),
        command=_span(looked.action[:, g]),
        worst=worst,
    )
    # a gripper that opens and closes all the time may also lag by half a turn
    level: Literal["warning", "error"] = "error" if own < APART else "warning"
    return finding(
        level,
        "gripper",
        Message("{name}: the state runs against its command ({spans}): inverted?", name=name, spans=spans),
    )


def _units(measured: Table, command: Table, ratio: float) -> str:
    """Difference in units between a state that follows its command and the command; empty without one."""
    if _within(command, OPENING) and measured.min() >= METRES[0] and np.ptp(opening := np.maximum(command, 0.0)) > 0:
        command = opening  # a command beyond closed moves nothing
        ratio = float(np.ptp(measured) / np.ptp(command))
    kinds = [
        Message("metres")
        if _within(t, METRES)
        else Message("an opening from 0 to 1")
        if _within(t, OPENING)
        else Message("another unit")
        for t in (measured, command)
    ]
    apart = ratio < 0.2 or ratio > 5 or ("another unit" in kinds and not 0.7 < ratio < 1.4)
    if kinds[0] != kinds[1] and apart:
        return Message("state and command differ in unit: {state} against {command}", state=kinds[0], command=kinds[1])
    return Message("state and command differ in scale") if ratio < 0.05 or ratio > 20 else ""


def _misplaced(names: Sequence[str], by: Sequence[Table], on_time: Sequence[Table]) -> Iterator[Finding]:
    """Entries whose state follows another entry's command, and that one's state not its own: the order differs.

    `by` are the correlations of values and of motions over near lags, `on_time` those over all lags.
    """
    found = _exchanged(by, on_time)
    for best, (high, low) in zip(by, MISPLACED, strict=False):
        own = np.diag(best)
        for i in np.flatnonzero(own < low).tolist():
            others = np.where(own < low, best[i], -1.0)
            j = int(others.argmax())
            if j != i and others[j] >= high and others[j] - own[i] > 0.25:
                found.setdefault(i, (j, float(others[j]), float(own[i])))
    if len(found) < 2:
        return  # an exchange takes two
    order = sorted(found, key=lambda i: not any(is_gripper(names[k], names) for k in (i, found[i][0])))
    listed = joined(
        [
            Message(
                "state {state} follows command {command} (correlation {other:.2f}, its own {own:.2f})",
                state=names[i],
                command=names[j],
                other=other,
                own=own,
            )
            for i, (j, other, own) in ((i, found[i]) for i in order[:4])
        ],
        ", ",
    )
    more = Message(" and {count} more", count=len(order) - 4) if len(order) > 4 else ""
    yield finding(
        "error", "gripper", Message("the order of state and action differs: {listed}{more}", listed=listed, more=more)
    )


def _exchanged(by: Sequence[Table], on_time: Sequence[Table]) -> dict[int, tuple[int, float, float]]:
    """Entries of which two follow each other's command much better than their own, for all that these are alike.

    By entry: the other one, and the correlations with its command and with the own one. Both are given the lag at
    which they fit best, the own command any that a gripper may have.
    """
    pairs: list[dict[tuple[int, int], tuple[float, float]]] = []
    for other, own in zip(by, on_time, strict=True):
        left = 1 - np.maximum(np.diag(own), 0) ** 2
        crossed = np.minimum(other, other.T) >= EXCHANGED
        apart = (1 - other**2) + (1 - other.T**2) < 0.4 * np.add.outer(left, left)
        found = np.argwhere(crossed & apart & (np.add.outer(left, left) > UNEXPLAINED))
        pairs.append({(i, j): (float(other[i, j]), float(own[i, i])) for i, j in found.tolist() if i != j})
    return {i: (j, *pairs[0][i, j]) for i, j in pairs[0] if all((i, j) in each for each in pairs)} if pairs else {}


def _shifted(looked: _Looked, both: Sequence[Sequence[tuple[Table, Table]]], rate_hz: float) -> Iterator[Finding]:
    """Grippers whose values and motions (`both`) fit their command's at a lag that no gripper has, and no other."""
    longest = max(len(state) for state, _ in both[-1]) // 3
    lags = np.array([lag for lag in range(*(round(s * rate_hz) for s in SHIFTS)) if abs(lag) <= longest])
    on_time = (lags >= ON_TIME[0] * rate_hz) & (lags <= ON_TIME[1] * rate_hz)
    for g in looked.grippers:
        if np.ptp(looked.state[:, g]) < 0.01:
            continue
        curves = [np.array([_fit(pairs, g, lag) for lag in lags.tolist()]) for pairs in both]
        seconds = np.array([lags[curve.argmax()] for curve in curves]) / rate_hz
        if not (seconds > SHIFTED[1]).all() and not (seconds < SHIFTED[0]).all():
            continue
        motions = curves[-1]
        best, near, lag = float(motions.max()), float(motions[on_time].max()), int(lags[motions.argmax()])
        if best >= FOLLOWS and (best - near > 0.25 or 1 - best**2 < 0.3 * (1 - max(near, 0.0) ** 2)):
            how = Message("follows its command {lag} steps ({seconds:.2f} s) late", lag=lag, seconds=lag / rate_hz)
            if lag < 0:
                how = Message("is {lag} steps ({seconds:.2f} s) ahead of its command", lag=-lag, seconds=-lag / rate_hz)
            message = Message(
                "{name}: the state {how} (correlation {best:.2f}, in time at most {near:.2f})",
                name=looked.names[g],
                how=how,
                best=best,
                near=near,
            )
            yield finding(
                "warning", "gripper", Message("{message}: are state and action of different times?", message=message)
            )


def _fit(pairs: Sequence[tuple[Table, Table]], column: int, lag: int) -> float:
    """Correlation of a state with its command that many steps before; after it where the lag is negative."""
    one = [(state[:, [column]], action[:, [column]]) for state, action in pairs]
    return float(_correlations([pair[::-1] for pair in one] if lag < 0 else one, [abs(lag)])[0].item())


def _places(looked: _Looked) -> Iterator[Finding]:
    """Arms whose gripper entry does not look like an opening, while another of their entries does."""
    names, grippers, state, action = looked.names, looked.grippers, looked.state, looked.action
    for columns in by_arm(names).values():
        for g in (c for c in columns if c in grippers):
            beyond = min(float(np.mean((t[:, g] < -0.15) | (t[:, g] > 1.15))) for t in (state, action))
            if beyond < 0.2 or max(np.abs(t[:, g]).max() for t in (state, action)) > 3.2:
                continue  # within 0 and 1 most of the time; or in another unit
            alike = [c for c in columns if c not in grippers and _opens(state[:, c]) and _opens(action[:, c])]
            if alike:
                message = Message(
                    "{name} spans {span}, like a joint, and {other} {others_span}, like a gripper: is the gripper at "
                    "another place of the vector?",
                    name=names[g],
                    span=_span(state[:, g]),
                    other=names[alike[0]],
                    others_span=_span(state[:, alike[0]]),
                )
                yield finding("warning", "gripper", message)


def _opens(values: Table) -> bool:
    """Whether a column's values look like a gripper opening: from closed to open, never beyond."""
    return bool(values.min() >= -0.1 and values.max() <= 1.15 and np.ptp(values) >= 0.4)


def _correlations(pairs: Sequence[tuple[Table, Table]], lags: Iterable[int] = LAGS) -> tuple[Table, Table]:
    """(D, D) highest and lowest correlation of each state with each command over the lags; 0 where one is constant."""
    found = []
    for lag in lags:
        late = [(s[lag:], a[: len(a) - lag]) for s, a in pairs if len(s) > lag + 2]
        if not late:
            break
        state, action = (np.concatenate([pair[k] for pair in late]).astype(np.float64) for k in (0, 1))
        for table in (state, action):
            still = np.ptp(table, axis=0) < STILL
            table -= table.mean(axis=0)
            table /= np.maximum(np.linalg.norm(table, axis=0), 1e-9)
            table[:, still] = 0.0
        found.append(state.T @ action)
    stacked = np.stack(found)
    return stacked.max(axis=0), stacked.min(axis=0)


def _some(pairs: Sequence[tuple[Table, Table]]) -> list[tuple[Table, Table]]:
    """At most `ROWS` rows in whole episodes, evenly chosen; state and action of equal length."""
    if not pairs:
        return []
    count = max(1, min(len(pairs), ROWS * len(pairs) // max(1, sum(len(s) for s, _ in pairs))))
    picked = np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))
    return [(pairs[i][0][: len(pairs[i][1])], pairs[i][1][: len(pairs[i][0])]) for i in picked.tolist()]


def _within(values: Table, bounds: tuple[float, float]) -> bool:
    return bool(values.min() >= bounds[0] and values.max() <= bounds[1])


def _span(values: Table) -> str:
    return Message("{low:.3g} to {high:.3g}", low=values.min(), high=values.max())


def _base(name: str) -> bool:
    return name.startswith(BASE)

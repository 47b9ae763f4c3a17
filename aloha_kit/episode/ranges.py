"""Measured ranges of a folder's vectors, the units that they suggest, and where they contradict a unit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, EpisodeError, plural
from aloha_kit.core.arm_models import BASE
from aloha_kit.core.lang import marked, Message, pad, shown, tr
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.selection import select

_LOG = logging.getLogger(__name__)

OPENING = "0 closed, 1 open"
FULL_TURN = 7.0  # rad: beyond what a joint of these arms turns
METRES = 0.15  # the widest gripper's stroke is less
Span: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Measured:
    """Measured ranges of a folder of episodes.

    Attributes:
        assumed: the contract that the files' layout suggests.
        state, action: (2, D) smallest and largest value of each entry; the action's with a base's at the end.
        steps: actions of the longest episode.
    """

    files: tuple[Path, ...]
    layout: str
    assumed: Contract
    state: Span
    action: Span
    steps: int
    total: int
    instruction: str

    @property
    def base(self) -> int:
        """Number of the action's entries that are a base's."""
        return sum(name.startswith(BASE) for name in self.assumed.action_names)

    def text(self) -> str:
        """Measured ranges as text, one line per entry."""
        cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in self.assumed.cameras.items())
        lines = [
            tr(
                "{episodes}, {steps}, layout {layout}; cameras: {cameras}",
                episodes=plural(len(self.files), "episode"),
                steps=plural(self.total, "step"),
                layout=self.layout,
                cameras=cameras or tr("(none)"),
            ),
            f"{pad(tr('entry'), 7)}{pad(tr('state'), 22)}{pad(tr('action'), 22)}{tr('looks like')}",
        ]
        for i in range(max(self.state.shape[1], self.action.shape[1])):
            columns = [table[:, i] for table in (self.state, self.action) if i < table.shape[1]]
            spans = [
                tr("{low:.3g} to {high:.3g}", low=table[0, i], high=table[1, i]) if i < table.shape[1] else "-"
                for table in (self.state, self.action)
            ]
            base = i >= self.action.shape[1] - self.base
            guess = marked("a base's velocity") if base else looks_like(float(np.min(columns)), float(np.max(columns)))
            lines.append(f"{i:<7}{pad(spans[0], 22)}{pad(spans[1], 22)}{tr(guess)}".rstrip())
        return "\n".join(lines)


def measure(folder: Path) -> Measured:
    """Measure every episode of a folder.

    Raises:
        EpisodeError: no episodes, a damaged one, or all contain their own contract.
        ContractError: they differ in the number of entries.
    """
    selection = select(folder)
    if text := selection.text():
        _LOG.info("%s", shown(text))
    if not selection.files:
        raise EpisodeError("no episodes in '{folder}'; expected episode_<i>.hdf5 files", folder=folder)
    found = _measured(_undescribed(selection.files))
    if found is None:
        held = Message(
            "the {files} in '{folder}' record themselves what they hold",
            files=plural(len(selection.files), "file"),
            folder=folder,
        )
        raise EpisodeError("nothing to describe: {held}", held=held)
    return found


def measure_source(source: EpisodeSource) -> Measured:
    """Measure every episode of a data set of any format. Errors as `measure`."""

    def episodes() -> Iterator[tuple[Path, RecordedEpisode, Contract]]:
        for number in range(len(source)):
            with closing(source.episode(number)) as episode:
                yield Path(episode.name), episode, episode.contract

    found = _measured(episodes())
    assert found is not None, "a source has at least one episode"
    return found


def _undescribed(files: Iterable[Path]) -> Iterator[tuple[Path, Episode, Contract]]:
    """The files that do not contain their own contract, each with the one that its layout suggests."""
    for path in files:
        with Episode.open(path) as episode:
            if "contract" not in episode.attrs:
                yield path, episode, episode.assumed


def _measured(episodes: Iterable[tuple[Path, RecordedEpisode, Contract]]) -> Measured | None:
    """Ranges over open episodes; None without any."""
    spans: list[tuple[Span, Span]] = []
    lengths: list[int] = []
    files: list[Path] = []
    about: tuple[str, Contract, str] | None = None
    for path, episode, assumed in episodes:
        action, base = episode.action, episode.base_action
        whole = action if base is None else np.concatenate([action, base], axis=1)
        if not len(whole) or not len(episode.qpos):
            raise EpisodeError("{path} holds no steps; move it away", path=path)
        span = _span(episode.qpos), _span(whole)
        widths = [[each.shape[1] for each in pair] for pair in (span, *spans[:1])]
        if widths[0] != widths[-1]:
            raise ContractError(
                "{path} has {state} entries of state and {action} of action, {name} has {others_state} and "
                "{others_action}: put them into folders of their own",
                path=path,
                state=widths[0][0],
                action=widths[0][1],
                name=files[0].name,
                others_state=widths[-1][0],
                others_action=widths[-1][1],
            )
        spans.append(span)
        lengths.append(len(whole))
        files.append(path)
        about = about or (episode.layout, assumed, str(episode.attrs.get("instruction") or ""))
        ours, theirs = about[1].cameras, assumed.cameras
        if lacking := [name for name, size in ours.items() if theirs.get(name) != size]:
            raise ContractError(
                "{path} lacks camera {lacking} as {name} has it; it has: {names}: put them into folders of their own",
                path=path,
                lacking=", ".join(lacking),
                name=files[0].name,
                names=", ".join(f"{name} {size[0]}x{size[1]}" for name, size in theirs.items()) or Message("(none)"),
            )
    if about is None:
        return None
    state, action = (_span(np.concatenate([pair[k] for pair in spans])) for k in (0, 1))
    layout, assumed, instruction = about
    return Measured(tuple(files), layout, assumed, state, action, max(lengths), sum(lengths), instruction)


def _span(table: Span) -> Span:
    """(2, D): the smallest and the largest value of each entry, without NaN."""
    return np.stack([np.nanmin(table, axis=0), np.nanmax(table, axis=0)])


def looks_like(low: float, high: float) -> str:
    """Unit that a range suggests, with a question mark; empty where it suggests none."""
    if max(-low, high) > FULL_TURN:
        return marked("degrees?")
    if high - low < 1e-4:
        return marked("never moves")
    if low >= -0.02 and high < METRES:
        return marked("a gripper in metres?")
    return marked("an opening (0 to 1), or radians?") if low >= -0.1 and high <= 1.1 else marked("radians?")


def doubts(contract: Contract, measured: Measured) -> dict[str, str]:
    """Contradictions of a contract's units with the measured ranges, {"joints" or "gripper": description}."""
    found: dict[str, str] = {}
    grippers: list[tuple[str, float, float]] = []
    joints: list[tuple[str, float, float]] = []
    for names, table in ((contract.state_names, measured.state), (contract.action_names, measured.action)):
        for i, name in enumerate(names):
            if not name.startswith(BASE):
                (grippers if "gripper" in name else joints).append((name, float(table[0, i]), float(table[1, i])))
    if grippers:
        name, low, high = max(grippers, key=lambda g: max(-g[1], g[2] - 1))
        widest = max(high - low for _, low, high in grippers)
        if contract.units["gripper"] == OPENING and (low < -0.5 or high > 1.5 or 1e-3 < widest < METRES):
            found["gripper"] = Message(
                "{name} spans {low:.3g} to {high:.3g}, its unit is to be '{opening}'",
                name=name,
                low=low,
                high=high,
                opening=OPENING,
            )
        if contract.units["gripper"] == "m" and max(-low, high) > 2 * METRES:
            found["gripper"] = Message(
                "{name} spans {low:.3g} to {high:.3g}, its unit is to be metres", name=name, low=low, high=high
            )
    if joints:
        name, low, high = max(joints, key=lambda j: max(-j[1], j[2]))
        if contract.units["joints"] == "rad" and max(-low, high) > FULL_TURN:
            found["joints"] = Message(
                "{name} spans {low:.3g} to {high:.3g}, its unit is to be radians", name=name, low=low, high=high
            )
        if contract.units["joints"] == "deg" and max(-low, high) < np.pi:
            found["joints"] = Message(
                "{name} spans {low:.3g} to {high:.3g}, the widest of all: its unit is to be degrees",
                name=name,
                low=low,
                high=high,
            )
    return found

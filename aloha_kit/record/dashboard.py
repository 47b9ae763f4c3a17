"""The status line: what an episode's meter, its writer and the guard say, shown while it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

import dm_env

from aloha_kit.config import TaskConfig
from aloha_kit.core import Action, plural
from aloha_kit.loop import Outcome, SafetyGuard
from aloha_kit.record.conversation import Conversation
from aloha_kit.record.screen import Screen
from aloha_kit.record.status import DiskRoom, lines, Meter
from aloha_kit.record.take import Take

if TYPE_CHECKING:
    from aloha_kit.ros.soft_sync import StreamHealth


class Dashboard:
    """An observer; comes after the take and the meter, which it reads."""

    def __init__(
        self, talk: Conversation, take: Take, meter: Meter, guard: SafetyGuard, room: DiskRoom, task: TaskConfig
    ) -> None:
        self._talk, self._take, self._meter, self._guard = talk, take, meter, guard
        self._room, self._task = room, task

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._talk.tell("recording", self._take.name)
        self._talk.screen.restart()

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        screen = self._talk.screen
        if not screen.due():
            return
        figures = self._meter.figures()
        self._room.learn(self._take.size(), figures.steps / self._task.rate_hz)
        screen.status(
            *lines(
                figures,
                steps=self._task.episode_len,
                rate_hz=self._task.rate_hz,
                stalls=self._take.stalls,
                limited=self._guard.report()["limited"],
                minutes=self._room.minutes(),
            )
        )

    def on_end(self, outcome: Outcome) -> None:
        """The session tells how it ended."""

    def summary(self) -> str:
        """The whole episode in a few words."""
        figures, limited = self._meter.figures(), self._guard.report()["limited"]
        return (
            f"{figures.steps} steps at {figures.mean_fps:.1f} fps, worst skew {figures.skew:.0f} ms, "
            f"late {figures.late}, dropped {figures.dropped}, stalls {self._take.stalls}, limited {limited}"
        )

    def notes(self) -> dict[str, Any]:
        """What the episode should remember: its timing, and what the guard did to the leaders' commands."""
        return {"timing": self._meter.figures().notes(), "guard": self._guard.report()}


def show_streams(screen: Screen, health: Mapping[str, StreamHealth]) -> None:
    """While nothing is recorded: every stream's rate and age on a terminal, and elsewhere only what is wrong."""
    if not screen.due():
        return
    wrong = [stream.problem for stream in health.values() if stream.problem]
    if wrong:
        screen.status("; ".join(wrong))
    elif screen.live:
        slowest = min(health, key=lambda name: health[name].rate_hz)
        oldest = max(health, key=lambda name: health[name].age_s)
        screen.status(
            " | ".join(f"{_short(name)} {s.rate_hz:.0f} Hz {1e3 * s.age_s:.0f} ms" for name, s in health.items()),
            f"{plural(len(health), 'stream')} alive, slowest {_short(slowest)} {health[slowest].rate_hz:.0f} Hz, "
            f"oldest {_short(oldest)} {1e3 * health[oldest].age_s:.0f} ms",
        )


def _short(stream: str) -> str:
    return stream.removeprefix("images/")

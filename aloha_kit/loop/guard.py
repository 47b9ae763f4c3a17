"""Safety guard between a policy and the arms.

The guard is itself a policy, so the action that an episode records is the one that was executed. It
limits what can be limited (range, speed, the way to the first command) and treats the rest as a
fault (a value that is not finite, a stream that has gone quiet): it holds still for a few steps,
then ends the episode with a `SafetyError` that names the entry or the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, HoldStill, Observation, Policy, SafetyError, SafetyLimits
from aloha_kit.core.lang import Message

Array = npt.NDArray[np.float64]

BEYOND = 0.5  # rad or openings outside of its limits at which no arm stands; a wrong zero or a firm grip stays below


class SafetyGuard:
    """Safety guard: a policy around another, whose commands are safe to send.

    Args:
        policy: what is guarded.
        limits: bounds of the commands.
        hold: faulty steps in a row that are bridged by holding still before the episode is ended.
        frozen: steps in a row that a stream's stamp may stay the same (a 30 Hz camera on a 50 Hz
            rig repeats one frame, a dead one all of them).
        stale_s: how much older than the newest stamp a stream may be, in seconds.
        estop: pressed when it returns true, or a text with the reason; `threading.Event().is_set` or a driver's own
            function. A press latches: this guard lets nothing through any more.
        start: (A,) where the first command of an episode starts from: the last one that was sent. Without it, or
            where it returns None, that is the first observed `qpos`, which the environment has to have checked: of
            one reading alone, the guard can check only that an arm can have that pose.

    Attributes:
        command: (A,) the last command given out in this episode, None before the first.
        held: why that command is the one before it again; empty where it is not.
        limited: (entry, rule) of what in it was limited, rules being `range`, `speed` and `ramp`.
    """

    def __init__(
        self,
        policy: Policy,
        limits: SafetyLimits,
        *,
        hold: int = 5,
        frozen: int = 5,
        stale_s: float = 0.25,
        estop: Callable[[], bool | str] | None = None,
        start: Callable[[], npt.ArrayLike | None] = lambda: None,
    ) -> None:
        self.command: Action | None = None
        self.held = ""
        self.limited: tuple[tuple[str, str], ...] = ()
        self.limits = limits
        self._policy, self._hold_steps, self._frozen, self._stale_s = policy, hold, frozen, stale_s
        self._estop, self._stop, self._start = estop or (lambda: False), "", start
        self._limited: dict[str, Counter[str]] = {rule: Counter() for rule in ("range", "speed", "ramp")}
        self._totals: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._start_episode()

    def _start_episode(self) -> None:
        self.command, self.held, self.limited = None, "", ()
        self._ramping = np.ones(len(self.limits.names), bool)
        self._held = 0
        self._step = -1
        self._stamps: dict[str, int] = {}
        self._repeats: Counter[str] = Counter()

    def reset(self) -> None:
        self._start_episode()
        self._policy.reset()

    @property
    def stopped(self) -> bool:
        """Whether the emergency stop was pressed: nothing may be sent, not even on the way to park."""
        if not self._stop and (pressed := self._estop()):
            self._stop = pressed if isinstance(pressed, str) else Message("the emergency stop was pressed")
        return bool(self._stop)

    def require_released(self) -> None:
        """Raise SafetyError with the reason where the emergency stop was pressed; for motions without `act`."""
        if self.stopped:
            raise SafetyError("{reason}: no further motion was commanded", reason=self._stop)

    def act(self, observation: Observation) -> Action:
        """A command within the limits.

        Raises:
            SafetyError: the emergency stop was pressed, or a fault lasted longer than `hold` steps
                (or came before the first command, when there is nothing to hold), or the first reading is of a pose
                that no arm can have.
            StopEpisode: from the policy. Its `HoldStill` is granted however often it is raised.
        """
        self.require_released()
        self._step += 1
        self.held = ""
        fault = self._observation_fault(observation)
        if not fault:
            try:
                wanted = np.asarray(self._policy.act(observation), np.float64)
                fault = self._action_fault(wanted)
            except HoldStill as request:
                wanted = self._still(str(request))
        if fault:
            wanted = self._hold(fault)
        else:
            self._held = 0
        self.command = self._limit(wanted, self._before(observation))
        return self.command

    def report(self) -> dict[str, Any]:
        """Counts since construction, ready for JSON: commands given, how many of them were
        limited or held, entries limited by each rule (`range`, `speed`, `ramp`), and every fault."""
        return {
            "commands": self._totals["commands"],
            "limited": self._totals["limited"],
            "held": self._totals["held"],
            "limited_by": {rule: dict(names.most_common()) for rule, names in self._limited.items()},
            "faults": dict(self._faults),
        }

    def _before(self, observation: Observation) -> Array:
        """(A,) the command that the next one starts from."""
        if self.command is not None:
            return self.command.astype(np.float64)
        sent = self._start()
        if sent is not None:
            return np.asarray(sent, np.float64)
        present = self.limits.present(observation["qpos"])
        beyond = (present < self.limits.lower - BEYOND) | (present > self.limits.upper + BEYOND)
        if beyond.any():
            raise SafetyError(
                "step {step}: the first reading is not a position of an arm: {beyond}; expected a pose within "
                "its limits",
                step=self._step,
                beyond=_name(present, self.limits.names, beyond),
            )
        return present

    def _limit(self, wanted: Array, before: Array) -> Action:
        bounds = self.limits
        inside = np.clip(wanted, bounds.lower, bounds.upper)
        reach = np.where(self._ramping, bounds.ramp, bounds.step)
        short = np.abs(inside - before) > reach
        # An unlimited entry passes bit for bit; a pose found outside its range may only move inwards.
        command = np.where(short, before + np.sign(inside - before) * reach, inside)
        rules = {"range": inside != wanted, "ramp": short & self._ramping, "speed": short & ~self._ramping}
        self.limited = tuple((bounds.names[i], rule) for rule, hit in rules.items() for i in np.flatnonzero(hit))
        for name, rule in self.limited:
            self._limited[rule][name] += 1
        self._totals["commands"] += 1
        self._totals["limited"] += bool(np.any(inside != wanted) or np.any(short))
        self._ramping &= short
        return command.astype(np.float32)

    def _hold(self, fault: str) -> Array:
        self._held += 1
        self._faults[fault] += 1
        if self.command is None or self._held > self._hold_steps:
            if self._held > 1:
                raise SafetyError(
                    "step {step}: {fault} (held still for {held} steps before)",
                    step=self._step,
                    fault=fault,
                    held=self._held - 1,
                )
            raise SafetyError("step {step}: {fault}", step=self._step, fault=fault)
        return self._still(fault)

    def _still(self, reason: str) -> Array:
        """The last command again, a base at rest."""
        self.held = reason
        if self.command is None:
            raise SafetyError(
                "step {step}: nothing to hold before the first command: {reason}", step=self._step, reason=reason
            )
        self._totals["held"] += 1
        velocity = np.array([i is None for i in self.limits.state_index])
        return np.where(velocity, 0.0, self.command)

    def _observation_fault(self, observation: Observation) -> str:
        qpos, stamps = np.asarray(observation["qpos"]), observation.get("stamps")
        last = max((i for i in self.limits.state_index if i is not None), default=-1)
        if qpos.ndim != 1 or len(qpos) <= last:
            return f"observed qpos has shape {qpos.shape}, expected one row of at least {last + 1} values"
        if not np.all(np.isfinite(qpos)):
            named = _name_bad(qpos, self._state_names(len(qpos)))
            return Message("observed qpos is not finite: {entries}", entries=named)
        if not stamps:
            return "the observation has no stamps, so a frozen stream cannot be detected"
        newest = max(stamps.values())
        for stream, stamp in stamps.items():
            # a leader's stamp is of the reading that the last action came from: it stands still while we hold,
            # and a silent leader is an error where it is read
            if stream in {"deadline", "command"} or stream.startswith("leader_"):
                continue
            self._repeats[stream] = self._repeats[stream] + 1 if self._stamps.get(stream) == stamp else 0
            age = (newest - stamp) / 1e9
            if self._repeats[stream] >= self._frozen:
                return Message(
                    "stream '{stream}' is frozen: the same stamp {times} times in a row",
                    stream=stream,
                    times=self._frozen + 1,
                )
            if age > self._stale_s:
                return Message(
                    "stream '{stream}' is stale: more than {seconds:g} s older than the newest stamp",
                    stream=stream,
                    seconds=self._stale_s,
                )
        self._stamps = dict(stamps)
        return ""

    def _action_fault(self, action: Array) -> str:
        if action.shape != (len(self.limits.names),):
            return f"the action has shape {action.shape}, expected ({len(self.limits.names)},)"
        if not np.all(np.isfinite(action)):
            return f"the action is not finite: {_name_bad(action, self.limits.names)}"
        return ""

    def _state_names(self, size: int) -> Sequence[str]:
        by_index = {i: name for name, i in zip(self.limits.names, self.limits.state_index, strict=True)}
        return [by_index.get(i, f"qpos[{i}]") for i in range(size)]


def _name_bad(values: npt.NDArray[Any], names: Iterable[str]) -> str:
    return _name(values, names, ~np.isfinite(values))


def _name(values: npt.NDArray[Any], names: Iterable[str], which: npt.NDArray[np.bool_]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value, one in zip(names, values, which, strict=True) if one)

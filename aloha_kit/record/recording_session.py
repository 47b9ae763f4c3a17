"""Recording session on a rig: an operator moves the leader arms and gives commands."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, TYPE_CHECKING

from aloha_kit.core import Action, AlohaKitError, Environment, EpisodeError, Observation, StopEpisode
from aloha_kit.core.interrupt import signal_of
from aloha_kit.core.lang import marked, shown, tr
from aloha_kit.loop import Observer, run_episode, SafetyGuard
from aloha_kit.loop.capabilities import TeleoperatedRobot
from aloha_kit.record.dataset_folder import DatasetFolder, write_contact_sheet
from aloha_kit.record.episode_attempt import AttemptResult, EpisodeAttempt, RecordingPlan, RESULTS
from aloha_kit.record.gripper_gesture import GripperGesture
from aloha_kit.record.operator_interface import Command, OperatorInterface
from aloha_kit.record.recording_result import reason_of_end, SessionResult
from aloha_kit.record.session_attempts import SessionAttempts
from aloha_kit.record.status_line import DiskSpace, show_streams, StatusLine, TimingMonitor

if TYPE_CHECKING:

    class RecordingRig(Environment, TeleoperatedRobot):
        """Environment with leader arms."""


_ANSWERS: tuple[Command, ...] = ("resume", "start", "quit")  # to a pause
_LEAST_EPISODES = 1.5  # that have to fit on the disk before one is begun

ENDINGS: dict[Command, tuple[AttemptResult, bool | None, str]] = {  # commands that end one: result, success, reason
    "keep": ("saved", True, marked("ended by the operator: keep")),
    "success": ("saved", True, marked("ended by the operator: success")),
    "failure": ("failed", False, marked("ended by the operator: failure")),
    "discard": ("discarded", None, marked("discarded by the operator")),
    "redo": ("discarded", None, marked("discarded by the operator, to be recorded again")),
    "quit": ("failed", False, marked("the operator quit")),
}


class RecordingSession:
    """Recording session of an operator: episode after episode until the folder holds enough good ones.

    Between episodes it runs in the environment's reset, whose start sequence calls `poll` for the operator's commands
    and `status` with its progress; during an episode it is a policy around the guard. A fault (a silent camera, the
    emergency stop, a full disk) ends the episode and pauses: what was recorded is saved in `failed/` with the reason,
    and the arms move again only when the operator resumes.

    Args:
        plan: what is recorded, and where.
        operator: commands in, status out.
        gesture: the gripper gesture among the operator's channels, which needs the leaders' actions.
        timeout_s: how long a fault may last before the session ends; None waits for the operator.
    """

    def __init__(
        self,
        plan: RecordingPlan,
        operator: OperatorInterface,
        *,
        gesture: GripperGesture | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.plan, self.operator = plan, operator
        self.attempts: SessionAttempts  # from `run` on
        self.observers: list[Observer] = []  # of every episode, besides the session's own
        self._gesture, self._timeout_s = gesture, timeout_s
        self._ended_by: Command | None = None
        self._pausing = self._quit = self._restart = False
        self._moved = False
        self._disk = DiskSpace(plan.folder)
        self._metadata: dict[str, Any] = {}  # of the environment
        self._sheet = ""  # message about the contact sheet, once it was written
        self._unfixed = ""  # fault that the operator is to fix

    def run(self, env: RecordingRig) -> SessionResult:
        """Record until there are enough good episodes, the operator quits, or a fault lasts too long.

        Raises:
            EpisodeError: what the folder holds does not go with this rig and task.
        """
        folder, wanted = DatasetFolder(self.plan.folder, self.plan.task.name, env.contract), self.plan.wanted
        interrupted, fault = "", ""
        with contextlib.closing(folder.claims):
            attempts = self.attempts = SessionAttempts(folder, self.plan.seed, self.operator.message)
            self.operator.on_label = self._label
            try:
                while not self._quit and attempts.present < wanted:
                    self._record_one(env)
                    attempts.refresh()
            except KeyboardInterrupt as interrupt:
                interrupted = signal_of(interrupt).name
            except AlohaKitError as error:
                fault = shown(error)
            finally:  # whatever ends it, the arms are parked first, and what was recorded is saved
                try:
                    left = self._leave(env)
                finally:
                    unsaved = attempts.finish()
                self.operator.status("ended", left)
        unfixed = self._unfixed if interrupted else ""
        return SessionResult(
            self.plan.folder, attempts.present, wanted, attempts.results, interrupted, fault or unsaved, unfixed
        )

    def _leave(self, env: RecordingRig) -> str:
        """Park the robot however the session ended; returns how it was left. Ctrl-C stops it on the way."""
        if env.listens_only or not self._moved:
            return tr("no command was sent")
        try:
            if not env.torque_report():  # no motors
                return tr("nothing has to be parked")
            if not env.estop():
                self.operator.status("saving", tr("the arms move to rest"))
            env.park()
        except KeyboardInterrupt:
            torque = env.torque_report()
            return tr("interrupted on the way to rest, nothing more was sent to the arms; {torque}", torque=torque)
        except AlohaKitError as error:
            torque = env.torque_report()
            return tr("the arms were not parked: {error}; {torque}", error=error, torque=torque)
        return tr("the arms are at rest; {torque}", torque=env.torque_report())

    def start(self, env: RecordingRig) -> None:
        """Start sequence of the next episode, run in the environment's reset. Raises as it and `poll` do.

        Raises:
            EpisodeError: the last episode could not be saved, or the next one does not fit on the disk.
        """
        self.attempts.collect()
        seconds, episode_s = self._disk.seconds(), self.plan.task.episode_len / self.plan.task.rate_hz
        if seconds < _LEAST_EPISODES * episode_s:
            raise EpisodeError(
                "the disk of {folder} has room for {seconds:.0f} s of recording, an episode takes up to "
                "{needed:.0f} s: make room",
                folder=self.plan.folder,
                seconds=seconds,
                needed=episode_s,
            )
        if self.plan.task.cameras and not self._sheet:
            self._sheet = write_contact_sheet(self.plan.folder, env.camera_images())
            self.operator.message(self._sheet)
        # now: once the clock runs, a look at the parameter server or a new file on a busy disk costs steps
        self._metadata = env.describe()
        if self.attempts.current is not None:
            self.attempts.current.begin()
        env.run_start_sequence(
            status=self.status, poll=functools.partial(self.poll, env), countdown_s=self.plan.countdown_s
        )

    def status(self, state: str, message: str) -> None:
        """Show the progress of the start sequence."""
        if state == "waiting":
            number = tr("episode {number} of {wanted}", number=self.attempts.present + 1, wanted=self.plan.wanted)
            message = tr("{message} ({number})", message=message, number=number)
        self.operator.status(state, message)

    def poll(self, env: RecordingRig) -> str | None:
        """Obey the operator's commands during the start sequence; returns "start" when the episode may begin.

        Raises:
            StopEpisode: a command ended this attempt before it began.
        """
        # the scripted operator of a simulated rig whose leaders drive the followers gives no command: begin without
        started = self.plan.auto or (env.listens_only and env.simulated)
        commands = ["pause", *self.operator.commands()] if self._pausing else self.operator.commands()
        for command in commands:
            started = started or command == "start"
            if command == "pause":
                started = self._pause(env) == "start"
            else:
                self._between(command, env)
        if self._quit or self._restart:
            raise StopEpisode("ended before it began")
        show_streams(self.operator.display, env.stream_health())
        return "start" if started else None

    def obey(self) -> None:
        """Obey the operator's commands during an episode.

        Raises:
            StopEpisode: a command ended it.
        """
        for command in self.operator.commands():
            if command in ENDINGS:
                self._ended_by, self._quit = command, command == "quit"
                raise StopEpisode(ENDINGS[command][2])
            if command in ("pause", "resume"):
                self._pausing = command == "pause"
                after = tr("pause: after this episode") if self._pausing else tr("no pause after this episode")
                self.operator.message(after)
            if command == "reset":
                self.operator.message(tr("reset: not while an episode runs"))

    def _record_one(self, env: RecordingRig) -> None:
        seed = self.attempts.next_seed()
        self._ended_by, self._restart = None, False
        assert env.leaders is not None
        leaders = env.leaders if self._gesture is None else self._gesture.watch(env.leaders)
        guard = env.guard(leaders, limits=env.limits.recorded(env.listens_only))
        monitor = TimingMonitor(env.contract.rate_hz, env.clock)
        attempt = self.attempts.current = EpisodeAttempt(lambda: self.plan.writer(env, self._metadata, seed))
        count = self.attempts.count(self.plan.wanted)
        line = StatusLine(self.operator, attempt, monitor, guard, self._disk, self.plan.task, count)
        fault: AlohaKitError | None = None
        try:
            env.estop.require_released()
            env.seed(seed)
            self._moved = True
            run_episode(env, _ObeyingPolicy(guard, self), [attempt, monitor, line, *self.observers])
        except StopEpisode:  # in the start sequence, so nothing was recorded
            pass
        except AlohaKitError as error:
            fault = error
        finally:
            env.lock_leaders()  # the operator feels the end, and no leader falls
            self._settle(env, attempt, line, seed)
        try:
            if fault is not None:
                raise fault
            if self.attempts.present >= self.plan.wanted:
                self.attempts.collect()
        except AlohaKitError as error:
            self._wait_for_fix(env, error)

    def _settle(self, env: RecordingRig, attempt: EpisodeAttempt, line: StatusLine, seed: int) -> None:
        outcome = attempt.outcome
        if outcome is None:
            attempt.cancel()
            self.attempts.put_back(seed)
            return
        result, success, _ = ENDINGS.get(self._ended_by, ("saved", None, ""))  # type: ignore[arg-type]
        if outcome.error or (self._ended_by is None and env.succeeded(outcome) is False):
            result = "failed"
        elif outcome.steps == 0:
            result = "discarded"
        if self._ended_by == "redo":
            self.attempts.repeat(seed)
        cut = self._gesture.steps if self._gesture else 0
        self._disk.update(attempt.size(), outcome.steps / env.contract.rate_hz)
        self.attempts.add(attempt)
        attempt.seed = seed
        name = attempt.name if result == "discarded" else f"{attempt.name} {tr(RESULTS[result])}"
        reason = reason_of_end(outcome, result, env.max_reward)
        saving = tr("{name}: {reason}; {timing}", name=name, reason=reason, timing=line.summary())
        self.operator.status("saving", saving)
        attempt.settle(result, success=success, cut=cut, notes=line.notes())

    def _between(self, command: Command, env: RecordingRig) -> None:
        """Obey a command between episodes; discard, redo, success and failure apply to the last one."""
        if command == "quit":
            self._quit = True
        elif command == "reset":
            self.operator.message(_reset(env))
        elif command in ("discard", "redo", "success", "failure") and self.attempts.change_last(command):
            self._restart = env.simulated  # whose objects have to go back to where they were

    def _label(self, name: str, value: str) -> None:
        self.attempts.label(name, value, recording=self.operator.state == "recording")

    def _pause(self, env: RecordingRig) -> Command | None:
        state, message = self.operator.state, self.operator.state_message
        self._pausing = False
        self.operator.status("paused", tr("resume continues, quit ends"))
        answer = self.operator.wait_for(_ANSWERS, env.clock, meanwhile=lambda command: self._between(command, env))
        self._quit = answer == "quit"
        if not self._quit:
            self.operator.status(state, message)
        return answer

    def _wait_for_fix(self, env: RecordingRig, error: AlohaKitError) -> None:
        """Wait until the operator has fixed what is wrong; raises the error again if they do not."""
        env.require_connection()
        for command in self.operator.commands():  # given before the fault was shown: no permission to move after it
            if command not in ("resume", "start", "reset"):
                self._between(command, env)
        if self._quit:
            raise error
        remedy = tr("No command is sent. Resume when this is fixed, or quit")
        if env.estop():
            remedy = tr("No command is sent. Release the emergency stop, then reset and resume, or quit")
        self._unfixed = shown(error)
        self.operator.status("paused", f"{shown(error)}\n{remedy}")
        answer = self.operator.wait_for(
            _ANSWERS, env.clock, meanwhile=lambda c: self._between(c, env), timeout_s=self._timeout_s
        )
        if answer not in ("resume", "start"):
            raise error
        self._unfixed = ""


def _reset(env: RecordingRig) -> str:
    """Reset the emergency stop if it may be reset; returns the message for the operator. Nothing moves meanwhile."""
    if not env.estop():
        return tr("reset: the emergency stop is not pressed")
    try:
        env.estop.reset()
    except AlohaKitError as error:
        return shown(error)
    return tr("the emergency stop is reset; nothing moves before resume, or quit")


class _ObeyingPolicy:
    """Policy of the guarded leaders that obeys the operator's commands at every step."""

    def __init__(self, guard: SafetyGuard, session: RecordingSession) -> None:
        self._guard, self._session = guard, session

    def reset(self) -> None:
        self._guard.reset()

    def act(self, observation: Observation) -> Action:
        self._session.obey()
        return self._guard.act(observation)

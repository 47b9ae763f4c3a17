"""A person records: episode after episode on a rig, until the folder holds enough good ones.

Between episodes the session lives in the environment's reset, whose opening asks `poll` what the
operator wants and tells how far it is; during one it is a policy around the guard. A fault (a camera
that died, the emergency stop, a full disk) ends the episode and pauses: what was recorded is kept in
`failed/` with the reason, and the arms move again only when the operator says so.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TYPE_CHECKING

from aloha_kit.core import Action, AlohaKitError, EpisodeError, Observation, Policy, StopEpisode
from aloha_kit.core.interrupt import signal_of
from aloha_kit.loop import run_episode, SafetyGuard
from aloha_kit.record.conversation import Conversation
from aloha_kit.record.dashboard import Dashboard, show_streams
from aloha_kit.record.folder import DataFolder
from aloha_kit.record.gesture import Squeezes
from aloha_kit.record.operator import Command
from aloha_kit.record.plan import Plan, SessionResult
from aloha_kit.record.status import DiskRoom, Meter
from aloha_kit.record.take import Take, Verdict
from aloha_kit.storage import EpisodeWriter

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv

_ANSWERS: tuple[Command, ...] = ("resume", "start", "quit")  # to a pause
_ROOM = 1.5  # episodes that have to fit on the disk before one is begun

ENDINGS: dict[Command, tuple[Verdict, bool | None, str]] = {  # what ends an episode: verdict, success, reason
    "keep": ("kept", True, "ended by the operator: keep"),
    "success": ("kept", True, "ended by the operator: success"),
    "failure": ("failed", False, "ended by the operator: failure"),
    "discard": ("discarded", None, "discarded by the operator"),
    "redo": ("discarded", None, "discarded by the operator, to be done again"),
    "quit": ("failed", False, "the operator quit"),
}


class Session:
    """See the module.

    Args:
        plan: what and where.
        talk: with the operator.
        guard: what stands between a policy and this rig's arms; one is made an episode.
        squeezes: the gestures among the operator's channels: they have to see the leaders' actions.
        require_rig: raises AlohaKitError when there is no point in waiting for the rig (ROS itself is gone).
        timeout_s: how long a fault may last before the session gives up; None waits for the operator.
    """

    def __init__(
        self,
        plan: Plan,
        talk: Conversation,
        *,
        guard: Callable[[RosEnv, Policy], SafetyGuard],
        squeezes: Squeezes | None = None,
        require_rig: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
    ) -> None:
        self.plan, self.talk = plan, talk
        self.takes: list[Take] = []
        self._make_guard, self._squeezes = guard, squeezes
        self._require_rig, self._timeout_s = require_rig, timeout_s
        self._elsewhere = 0  # good episodes in the folder that this session did not record
        self._new_seeds: Iterator[int] = itertools.count(plan.seed)
        self._again: deque[int] = deque()  # seeds that come before new ones
        self._ended_by: Command | None = None
        self._pausing = self._quit = self._restart = False
        self._moved = False
        self._room = DiskRoom(plan.folder)
        self._take: Take | None = None  # the present attempt
        self._about: dict[str, Any] = {}  # what the environment says of itself
        self._collected = 0  # takes whose saving was waited for

    @property
    def present(self) -> int:
        """Good episodes in the folder, the one that is being saved included."""
        return self._elsewhere + sum(take.verdict == "kept" for take in self.takes)

    def run(self, env: RosEnv) -> SessionResult:
        """Record until there are enough good episodes, the operator quits, or a fault outlasts the patience.

        Raises:
            EpisodeError: what the folder holds does not go with this rig and task.
        """
        folder = DataFolder(self.plan.folder, self.plan.task.name, env.contract)
        with contextlib.closing(folder.claims):
            return self._run(env, folder)

    def _run(self, env: RosEnv, folder: DataFolder) -> SessionResult:
        self._new_seeds = folder.seeds(self.plan.seed)
        self._look(folder)
        interrupted, fault = "", ""
        try:
            while not self._quit and self.present < self.plan.wanted:
                self._attempt(env)
                self._look(folder)
        except KeyboardInterrupt as interrupt:
            interrupted = signal_of(interrupt).name
        except AlohaKitError as error:
            fault = str(error)
        finally:
            left = self._leave(env)
        try:
            self.collect()
        except AlohaKitError as error:
            fault = fault or str(error)
        self.talk.tell("ended", left)
        verdicts = tuple(take.verdict for take in self.takes if take.verdict)
        return SessionResult(self.plan.folder, self.present, self.plan.wanted, verdicts, interrupted, fault)

    def _look(self, folder: DataFolder) -> None:
        """What others have recorded into the folder meanwhile counts too."""
        folder.look()
        ours = {take.writer.path for take in self.takes if take.writer is not None and take.verdict == "kept"}
        self._elsewhere = len(folder.good - ours)

    def _leave(self, env: RosEnv) -> str:
        """However the session ended, the arms come to rest; says how they were left. Ctrl-C stops them on the way."""
        if env.listens_only or not self._moved:
            return "nothing was sent to the arms"
        if not env.estop():
            self.talk.tell("saving", "the arms come to rest")
        try:
            env.park()
        except KeyboardInterrupt:
            return f"interrupted on the way to rest, nothing more was sent to the arms; {env.torque_report()}"
        except AlohaKitError as error:
            return f"the arms were not parked: {error}; {env.torque_report()}"
        return f"the arms are at rest; {env.torque_report()}"

    def ready(self, env: RosEnv) -> None:
        """For the beginning of the opening: the last episode is on the disk, and the next one has room.

        Raises:
            EpisodeError: one of the two is not so.
        """
        self.collect()
        seconds, episode_s = self._room.seconds(), self.plan.task.episode_len / self.plan.task.rate_hz
        if seconds < _ROOM * episode_s:
            raise EpisodeError(
                f"the disk of {self.plan.folder} has room for {seconds:.0f} s of recording, "
                f"an episode takes up to {episode_s:.0f} s: make room"
            )
        # Now: once the clock runs, a look at the parameter server or a new file on a busy disk costs steps.
        self._about = env.describe()
        if self._take is not None:
            self._take.begin()

    def tell(self, state: str, words: str) -> None:
        """For the opening: how far it is."""
        number = f" (episode {self.present + 1} of {self.plan.wanted})" if state == "waiting" else ""
        self.talk.tell(state, words + number)

    def poll(self, env: RosEnv) -> str | None:
        """For the opening: "start" when the operator says so, or nobody needs to.

        Raises:
            StopEpisode: they want something else than this episode.
        """
        # a simulated person at leaders that drive the followers themselves waits for us, and we wait for a real one
        started = self.plan.auto or (env.listens_only and env.simulated)
        commands = ["pause", *self.talk.heard()] if self._pausing else self.talk.heard()
        for command in commands:
            started = started or command == "start"
            if command == "pause":
                started = self._pause(env) == "start"
            else:
                self._between(command, env)
        if self._quit or self._restart:
            raise StopEpisode("not this episode")
        show_streams(self.talk.screen, env.streams.sync.health())
        return "start" if started else None

    def hear(self) -> None:
        """During an episode: obey.

        Raises:
            StopEpisode: it ends here.
        """
        for command in self.talk.heard():
            if command in ENDINGS:
                self._ended_by, self._quit = command, command == "quit"
                raise StopEpisode(ENDINGS[command][2])
            if command in ("pause", "resume"):
                self._pausing = command == "pause"
                self.talk.say("pause: after this episode" if self._pausing else "no pause after this episode")
            if command == "reset":
                self.talk.say("reset: not while an episode runs")

    def collect(self) -> None:
        """Until every take is saved.

        Raises:
            EpisodeError: one could not be; says where its steps are safe.
        """
        while self._collected < len(self.takes):
            take = self.takes[self._collected]
            self._collected += 1
            take.wait()
            if take.file is not None:
                self.talk.say(f"saved {take.file}")

    def _attempt(self, env: RosEnv) -> None:
        seed = self._again.popleft() if self._again else next(self._new_seeds)
        self._ended_by, self._restart = None, False
        assert env.leaders is not None
        leaders = env.leaders if self._squeezes is None else self._squeezes.watch(env.leaders)
        guard, meter = self._make_guard(env, leaders), Meter(env.contract.rate_hz, env.clock)
        take = self._take = Take(lambda: self._writer(env, seed))
        board = Dashboard(self.talk, take, meter, guard, self._room, self.plan.task)
        fault: AlohaKitError | None = None
        try:
            env.estop.require_released()
            env.seed(seed)
            self._moved = True
            run_episode(env, _Attended(guard, self), [take, meter, board])
        except StopEpisode:  # said in the opening, so nothing was recorded
            pass
        except AlohaKitError as error:
            fault = error
        finally:
            env.lock_leaders()  # the episode is over: the person feels it, and nothing falls
            self._settle(env, take, board, seed)
        try:
            if fault is not None:
                raise fault
            if self.present >= self.plan.wanted:
                self.collect()
        except AlohaKitError as error:
            self._mend(env, error)

    def _writer(self, env: RosEnv, seed: int) -> EpisodeWriter:
        plan = self.plan
        known = {**self._about, **({"seed": seed} if env.simulated else {})}
        return EpisodeWriter(
            plan.folder, contract=env.contract, task=plan.task.name, rig=plan.rig.name, sim=env.simulated,
            instruction=plan.task.instruction, images=plan.images, quality=plan.quality, describe=known,
            judge=env.succeeded,
        )  # fmt: skip

    def _settle(self, env: RosEnv, take: Take, board: Dashboard, seed: int) -> None:
        outcome = take.outcome
        if outcome is None:
            take.cancel()
            self._again.append(seed)
            return
        verdict, success, _ = ENDINGS.get(self._ended_by, ("kept", None, ""))  # type: ignore[arg-type]
        if outcome.error or (self._ended_by is None and env.succeeded(outcome) is False):
            verdict = "failed"
        elif outcome.steps == 0:
            verdict = "discarded"
        if self._ended_by == "redo":
            self._again.appendleft(seed)
        cut = self._squeezes.steps if self._squeezes else 0
        self._room.learn(take.size(), outcome.steps / env.contract.rate_hz)
        self.takes.append(take)
        take.seed = seed
        judged = "" if verdict == "discarded" else f" {verdict}"
        self.talk.tell("saving", f"{take.name}{judged}: {outcome.reason}; {board.summary()}")
        take.settle(verdict, success=success, cut=cut, notes=board.notes())

    def _between(self, command: Command, env: RosEnv) -> None:
        """Commands that are no part of an episode; discard, redo, success and failure mean the last one."""
        last = self.takes[-1] if self.takes else None
        if command == "quit":
            self._quit = True
        elif command == "reset":
            self.talk.say(_reset(env))
        elif command in ("discard", "redo"):
            if last is None or last.verdict == "discarded":
                self.talk.say(f"{command}: there is nothing to discard")
                return
            last.throw_away()
            self.talk.say(f"{last.name} discarded")
            if command == "redo":
                self._again.appendleft(last.seed)
                self._restart = env.simulated  # whose objects have to go back to where they were
        elif command in ("success", "failure"):
            judged = last is not None and last.relabel(success=command == "success")
            self.talk.say(f"{last.name}: {command}" if last and judged else f"{command}: there is nothing to judge")

    def _pause(self, env: RosEnv) -> Command | None:
        state, words = self.talk.state, self.talk.words
        self._pausing = False
        self.talk.tell("paused", "resume goes on, quit ends")
        answer = self.talk.wait_for(_ANSWERS, env.clock, meanwhile=lambda command: self._between(command, env))
        self._quit = answer == "quit"
        if not self._quit:
            self.talk.tell(state, words)
        return answer

    def _mend(self, env: RosEnv, error: AlohaKitError) -> None:
        """Wait until the operator has fixed what is wrong; raises the error again if they do not."""
        self._require_rig()
        for command in self.talk.heard():  # said before the fault was told: no leave to move again after it
            if command not in ("resume", "start", "reset"):
                self._between(command, env)
        if self._quit:
            raise error
        remedy = "Release the emergency stop, say reset, then resume" if env.estop() else "Resume when this is fixed"
        self.talk.tell("paused", f"{error}\nNothing is sent to the arms. {remedy}, or quit")
        answer = self.talk.wait_for(
            _ANSWERS, env.clock, meanwhile=lambda c: self._between(c, env), timeout_s=self._timeout_s
        )
        if answer not in ("resume", "start"):
            raise error


def _reset(env: RosEnv) -> str:
    """Reset the emergency stop where it may be; said by somebody while nothing moves."""
    if not env.estop():
        return "reset: the emergency stop is not pressed"
    try:
        env.estop.reset()
    except AlohaKitError as error:
        return str(error)
    return "the emergency stop is reset; nothing moves before resume, or quit, which brings the arms to rest"


class _Attended:
    """The guarded leaders, while somebody listens to the operator."""

    def __init__(self, guard: SafetyGuard, session: Session) -> None:
        self._guard, self._session = guard, session

    def reset(self) -> None:
        self._guard.reset()

    def act(self, observation: Observation) -> Action:
        self._session.hear()
        return self._guard.act(observation)

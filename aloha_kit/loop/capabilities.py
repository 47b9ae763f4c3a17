"""Optional capabilities of environments: protocols, which an environment provides by their methods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Clock, ConfigError, Environment, Policy, SafetyLimits
from aloha_kit.loop.guard import SafetyGuard
from aloha_kit.loop.latch import Latch
from aloha_kit.loop.motions import park


@runtime_checkable
class Demonstrator(Protocol):
    """An environment with an expert that does its task."""

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """The expert; deterministic from the environment's reset, `noise` (0: always the same motion) and `seed`."""
        ...


@runtime_checkable
class ImagesOnRequest(Protocol):
    """An environment that can render an image when it is first read, before the next step."""

    lazy_images: bool


def render_on_request(env: object) -> None:
    """Let an environment that is able to render an image only when it is first read."""
    if isinstance(env, ImagesOnRequest):
        env.lazy_images = True


@runtime_checkable
class StartPoses(Protocol):
    """An environment whose objects can be placed: `starts` is {seed of a reset: (7 · objects,) their poses}."""

    starts: Mapping[int, npt.NDArray[np.float64]]


@runtime_checkable
class TargetBands(Protocol):
    """An environment whose target is drawn from bands of distance, for a curriculum from near to far.

    Attributes:
        band: index in `bands` that the next resets draw the target from; None: all of them, each as often.
    """

    band: int | None

    @property
    def bands(self) -> Sequence[tuple[float, float]]:
        """(nearest, farthest) distance of the target at the reset, m; near to far."""
        ...

    @property
    def target_distance(self) -> float:
        """Distance from what has to reach the target to the target, now, m."""
        ...


@runtime_checkable
class RewardTerms(Protocol):
    """An environment whose reward is a sum of named terms."""

    @property
    def reward_terms(self) -> Mapping[str, float]:
        """{term: its part of the last step's reward}; 0 each at a reset, the same names always."""
        ...


@runtime_checkable
class DeltaActions(Protocol):
    """An environment whose actions are targets that a learning policy moves by a little at each step.

    The first target of an episode starts from `limits.present(qpos)`. Without this capability such a policy chooses an
    action within the limits at each step.
    """

    @property
    def action_delta(self) -> npt.NDArray[np.float64]:
        """(A,) the largest change of each entry in a step, in its unit; at most `limits.step`."""
        ...


class OperatorChannel(Protocol):
    """Channel of a robot's operator: commands come in, the state goes out."""

    def poll(self) -> Sequence[str]:
        """Commands since the last call; returns at once."""
        ...

    def status(self, state: str, message: str) -> None:
        """Show the operator what happens now."""
        ...

    def close(self) -> None:
        """Take no more commands."""
        ...


@runtime_checkable
class LiveRobot(Protocol):
    """An environment with drivers in real time, which parks itself, with an operator beside it.

    Attributes:
        clock: which its drivers run by.
    """

    @property
    def clock(self) -> Clock: ...

    def guarded(self, policy: Policy, *, release: bool = False) -> contextlib.AbstractContextManager[SafetyGuard]:
        """Inside, the guard between `policy` and the robot; on every way out it is parked as its maker means it.

        Args:
            release: switch the arms' torque off once they are parked.
        """
        ...

    def operator(self, commands: Sequence[str], namespace: str) -> OperatorChannel:
        """Channel on which the operator may give one of `commands`."""
        ...


@runtime_checkable
class ParkableRobot(Protocol):
    """An environment whose arms can be parked and released."""

    def prepare(self) -> None:
        """Operating modes, limits and torque of the arms, for `park` without a `reset`."""
        ...

    def hold(self) -> None:
        """Stay: a base stops, arms hold their last command."""
        ...

    def park(self, seconds: float | None = None) -> None:
        """Move the arms to rest on themselves, in two moves of `seconds`."""
        ...

    def release(self) -> None:
        """Switch the torque off; raises SafetyError unless the arms are parked."""
        ...

    def torque_report(self) -> str:
        """State of the motors' torque, as a message; empty where there are no motors."""
        ...


class StreamStatus(Protocol):
    """Rate (Hz) and age (s) of a stream, and its problem; empty where there is none."""

    @property
    def problem(self) -> str: ...

    @property
    def rate_hz(self) -> float: ...

    @property
    def age_s(self) -> float: ...


@runtime_checkable
class TeleoperatedRobot(LiveRobot, ParkableRobot, Protocol):
    """A robot with leader arms, which an operator moves.

    Attributes:
        leaders: policy of the leader arms.
        estop: the emergency stop.
        listens_only: the leaders drive the followers themselves, so that nothing is sent.
        late_ns: how late the last deadline was met.
    """

    late_ns: int

    @property
    def leaders(self) -> Policy | None: ...

    @property
    def estop(self) -> Latch: ...

    @property
    def listens_only(self) -> bool: ...

    def guard(self, policy: Policy, *, limits: SafetyLimits | None = None) -> SafetyGuard:
        """The guard between `policy` and the robot, with its limits unless others are given."""
        ...

    def run_start_sequence(
        self, *, status: Callable[[str, str], None], poll: Callable[[], str | None], countdown_s: float
    ) -> None:
        """Start sequence of an episode, called in `reset` by what `connect` was given as `start_sequence`.

        Args:
            status: called with a state (starting, waiting, countdown) and a message for the operator.
            poll: returns "start" when the operator starts the episode; what it raises ends the sequence.
            countdown_s: seconds before the leaders are released.
        """
        ...

    def lock_leaders(self) -> None:
        """Hold the leaders where they are."""
        ...

    def camera_images(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """{camera: (H, W, 3) RGB} newest images, outside of an episode."""
        ...

    def stream_health(self) -> Mapping[str, StreamStatus]:
        """State of every stream."""
        ...

    def require_connection(self) -> None:
        """Raise AlohaKitError where waiting for the robot is pointless."""
        ...


@contextlib.contextmanager
def guarded(env: Environment, policy: Policy, *, release: bool = False) -> Iterator[SafetyGuard]:
    """The guard between `policy` and `env`, with its limits; it is left at rest if an error ends the body.

    A `LiveRobot` parks itself, on every way out. Raises as its `guarded`.
    """
    if isinstance(env, LiveRobot):
        with env.guarded(policy, release=release) as guard:
            yield guard
        return
    guard = SafetyGuard(policy, env.limits)
    try:
        yield guard
    except BaseException:
        park(env, guard, env.rest_action)
        raise


def require(env: Any, protocol: type, what: str) -> None:
    """Refuse an environment without a capability.

    Raises:
        ConfigError: `env` lacks what `protocol` has; `what` names what needs it.
    """
    if not isinstance(env, protocol):
        raise ConfigError(
            "{what}: environment {type} lacks {lacking}",
            what=what,
            type=type(env).__name__,
            lacking=_lacking(env, protocol),
        )


def _lacking(env: Any, protocol: type) -> str:
    declared = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False) and kind is not Protocol]
    names = sorted({name for kind in declared for name in (*vars(kind), *kind.__annotations__) if name[0] != "_"})
    return ", ".join(f"'{name}'" for name in names if not hasattr(env, name))

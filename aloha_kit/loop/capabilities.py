"""What only some environments can do: small protocols, which an environment has by having their methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Clock, ConfigError, Environment, Policy
from aloha_kit.loop.guard import SafetyGuard
from aloha_kit.loop.motions import park


@runtime_checkable
class Demonstrator(Protocol):
    """An environment with an expert that does its task."""

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """The expert; deterministic from the environment's reset, `noise` (0: always the same motion) and `seed`."""
        ...


@runtime_checkable
class LazyImages(Protocol):
    """An environment that can render an image when it is first looked at, before the next step."""

    lazy_images: bool


@runtime_checkable
class StartPoses(Protocol):
    """An environment whose objects can be placed: `starts` is {seed of a reset: (7 · objects,) their poses}."""

    starts: Mapping[int, npt.NDArray[np.float64]]


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
    """An environment whose drivers run on in their own time, which parks itself, with a person beside it.

    Attributes:
        clock: which its drivers run by.
    """

    @property
    def clock(self) -> Clock: ...

    def guarded(self, policy: Policy, *, release: bool = False) -> contextlib.AbstractContextManager[SafetyGuard]:
        """Inside, the guard between `policy` and the robot; on every way out it is parked as its maker means it.

        Args:
            release: let the arms' torque go once they are parked.
        """
        ...

    def operator(self, commands: Sequence[str], namespace: str) -> OperatorChannel:
        """Where the operator may give one of `commands`."""
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
        ConfigError: `env` lacks what `protocol` has; `what` says what that is needed for.
    """
    if not isinstance(env, protocol):
        raise ConfigError(f"{what}: environment {type(env).__name__} lacks {_lacking(env, protocol)}")


def _lacking(env: Any, protocol: type) -> str:
    names = sorted(name for name in {*vars(protocol), *getattr(protocol, "__annotations__", {})} if name[0] != "_")
    return ", ".join(f"'{name}'" for name in names if not hasattr(env, name))

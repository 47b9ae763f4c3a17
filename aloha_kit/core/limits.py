"""Bounds of the commands that an environment takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract

Array = npt.NDArray[np.float64]
_UNBOUNDED = 1e9


@dataclass(frozen=True, eq=False)
class SafetyLimits:
    """Bounds of every entry of an action, in its own unit (rad, normalised opening, m/s, rad/s).

    `state_index` is the entry of `qpos` that a command moves; None marks a velocity command (a
    mobile base), which starts at 0 and is brought back to 0 when the guard holds.
    """

    names: tuple[str, ...]
    lower: Array
    upper: Array
    step: Array  # the largest change of a command in one step
    ramp: Array  # the same on the way from the first observed pose to the policy's command
    state_index: tuple[int | None, ...]

    @classmethod
    def of(
        cls,
        contract: Contract,
        lower: npt.ArrayLike,
        upper: npt.ArrayLike,
        speed: npt.ArrayLike,
        *,
        ramp: float = 1 / 3,
    ) -> SafetyLimits:
        """Limits of an environment whose actions are named in `contract`.

        An action entry whose name is also in the state is a target for it; any other is a velocity.

        Args:
            lower, upper: (A,) or one number, in the entries' units.
            speed: (A,) or one number: the largest change of a command in a second.
            ramp: fraction of the speed that holds until the policy's command has been met once.
        """
        names, states = contract.action_names, contract.state_names
        index = tuple(states.index(name) if name in states else None for name in names)
        # Bounds are rounded to what an action can hold, so that "at the limit" is exactly representable.
        low, high, fastest = (
            np.broadcast_to(np.asarray(values, np.float32).astype(np.float64), len(names)).copy()
            for values in (lower, upper, speed)
        )
        step = fastest / contract.rate_hz
        moves = np.array([i is not None for i in index])  # a base starts from rest: nothing to ramp to
        return cls(names, low, high, step, np.where(moves, ramp, 1.0) * step, index)

    def present(self, qpos: npt.ArrayLike) -> Array:
        """(A,) the command that holds everything at `qpos`."""
        state = np.asarray(qpos, np.float64)
        return np.array([0.0 if i is None else state[i] for i in self.state_index])

    def recorded(self, listens_only: bool) -> SafetyLimits:
        """Limits of an operator's demonstration: unbounded for what the recorder does not send.

        An operator pushes a base by hand, and some leaders drive their followers themselves (`listens_only`): their
        values are recorded as they are.
        """
        free = np.array([index is None or listens_only for index in self.state_index])
        return replace(
            self,
            lower=np.where(free, -_UNBOUNDED, self.lower),
            upper=np.where(free, _UNBOUNDED, self.upper),
            step=np.where(free, _UNBOUNDED, self.step),
            ramp=np.where(free, _UNBOUNDED, self.ramp),
        )

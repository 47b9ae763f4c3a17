"""How an episode on a rig begins: the last one is saved, the leaders are at the start, the operator says go."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from aloha_kit.record.session import Session

if TYPE_CHECKING:
    from aloha_kit.ros.environment import RosEnv

_POLL_NS = 20_000_000


class Ceremony:
    """The `opening` of a `RosEnv` whose episodes `session` records.

    The opening itself is the rig's (`ros.opening`): start pose, both leader grippers closed, countdown,
    torque off. Where the leaders drive the followers themselves there is nothing to move and no torque
    to feel; there the operator's command takes the gesture's place.

    Args:
        countdown_s: between the gesture and go.
    """

    def __init__(self, session: Session, *, countdown_s: float) -> None:
        self._session, self._countdown_s = session, countdown_s

    def __call__(self, env: RosEnv) -> None:
        """Raises what the session's `ready` and `poll` and the opening raise; the leaders are locked then."""
        from aloha_kit.ros.opening import Opening

        session = self._session
        session.ready(env)
        poll = functools.partial(session.poll, env)
        if env.listens_only:
            session.tell("waiting", "say start when the leaders are where the episode begins")
            while poll() != "start":
                env.clock.sleep_until(env.clock.now_ns() + _POLL_NS)
        Opening(tell=session.tell, poll=poll, countdown_s=self._countdown_s)(env)

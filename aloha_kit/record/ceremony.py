"""How an episode on a rig begins: the last one is saved, the leaders are at the start, the operator says go."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from aloha_kit.record.session import Session

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv


class Ceremony:
    """The `opening` of a `RosEnv` whose episodes `session` records.

    The opening itself is the rig's (`ros.start_sequence`): start pose, both leader grippers closed, countdown,
    torque off.

    Args:
        countdown_s: between the gesture and go.
    """

    def __init__(self, session: Session, *, countdown_s: float) -> None:
        self._session, self._countdown_s = session, countdown_s

    def __call__(self, env: RosEnv) -> None:
        """Raises what the session's `ready` and `poll` and the opening raise; the leaders are locked then."""
        from aloha_kit.ros.start_sequence import StartSequence

        session = self._session
        session.ready(env)
        poll = functools.partial(session.poll, env)
        StartSequence(status=session.tell, poll=poll, countdown_s=self._countdown_s)(env)

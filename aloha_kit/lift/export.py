"""Export of Lift's episodes to robomimic's layout with the simulator's states, which its playback needs."""

from __future__ import annotations

from aloha_kit.core import EpisodeError
from aloha_kit.core.robomimic import SimulatorRecord
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats.robomimic_export import RobomimicExporter
from aloha_kit.lift.lift_env import Lift


class LiftExporter(RobomimicExporter):
    """`RobomimicExporter` with `states` and `model_file`: the simulator repeats each episode from its seed."""

    _lift: Lift | None = None  # made in the process that writes

    def simulator_record(self, episode: RecordedEpisode) -> SimulatorRecord:
        """As `Lift.simulate_again`.

        Raises:
            EpisodeError: an episode of another task, or one that does not come out again.
        """
        if episode.describe.get("scene") != "Lift":
            raise EpisodeError(
                "{where} is no episode of Lift, so its simulator states cannot be computed", where=episode.where
            )
        if self._lift is None:
            self._lift = Lift(rate_hz=episode.rate_hz)
        return self._lift.simulate_again(episode)

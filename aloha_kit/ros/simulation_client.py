"""Client of a simulated rig: its reward, and the reset of its objects, beside the drivers' topics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import rospy
from std_msgs.msg import Float32
from std_srvs.srv import Trigger

from aloha_kit.core import ARM_MODELS, ArmModel, did_you_mean
from aloha_kit.ros.node import RosError
from aloha_kit.ros.readings import TIMEOUT_S

PARAM = "/sim_rig"
STARTING = "/sim_rig_starting"
"""Parameter that sim_rig.launch sets, and its node deletes when the rig is up."""

STARTING_S = 60.0
"""Timeout of the first joint state of a simulated rig that was launched together with this program."""

_TIMEOUT_S = 10.0


def simulated_rig() -> dict[str, Any] | None:
    """Description of the simulated rig on this master (rig, task, task_config, scene, arm_model, max_reward, operator);
    None where the rig is real."""
    found = rospy.get_param(PARAM, None)
    return dict(found) if isinstance(found, Mapping) else None


def first_state_timeout() -> float:
    """Timeout (s) of the first joint state: longer while a simulated rig starts."""
    return STARTING_S if rospy.get_param(STARTING, False) else TIMEOUT_S


class SimulationClient:
    """Client of the simulated rig that runs on this master; `about` is `simulated_rig()`."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = dict(about)
        self.reward = 0.0  # of the instant, newest received
        self.seed: int | None = None  # of the present objects, once they were reset from here
        self._subscriber = rospy.Subscriber("/sim_rig/reward", Float32, self._rewarded, queue_size=1)
        self._reset = rospy.ServiceProxy("/sim_rig/reset", Trigger)

    @property
    def max_reward(self) -> float:
        return float(self.about.get("max_reward", 0.0))

    @property
    def arm_model(self) -> ArmModel | None:
        """Arm model of the scene's followers.

        Raises:
            RosError: it names an unknown arm.
        """
        name = self.about.get("arm_model")
        if name is not None and name not in ARM_MODELS:
            raise RosError(
                "the simulated rig has arms '{name}'. {known}", name=name, known=did_you_mean(str(name), ARM_MODELS)
            )
        return ARM_MODELS[name] if name else None

    def reset(self, seed: int | None) -> int:
        """Reset the objects with `seed` or the next seed; returns the seed used.

        Raises:
            RosError: the simulation does not answer, or refuses; gives the reason.
        """
        if seed is not None:
            rospy.set_param("/sim_rig_seed", int(seed))
        try:
            self._reset.wait_for_service(_TIMEOUT_S)
            answer = self._reset()
        except (rospy.ServiceException, rospy.ROSException) as error:
            raise RosError("the simulated rig does not answer /sim_rig/reset: {error}", error=error) from error
        if not answer.success:
            raise RosError("the simulated rig could not be reset: {message}", message=answer.message)
        self.seed = int(json.loads(answer.message)["seed"])
        return self.seed

    def close(self) -> None:
        self._subscriber.unregister()
        self._reset.close()

    def _rewarded(self, message: Any) -> None:
        self.reward = float(message.data)

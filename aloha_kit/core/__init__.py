"""Definitions that every other package shares: policies, observations, contracts, time and errors.

Needs numpy and dm_env only, so it loads on a robot PC and on a training box alike.
"""

from aloha_kit.core.aloha import aloha_limits, aloha_start
from aloha_kit.core.arm_models import (
    ARM_MODELS,
    ArmModel,
    GripperRange,
    joint_names,
    PIPER,
    START_ARM_POSE,
    VX300S,
    WX250S,
)
from aloha_kit.core.clock import Clock, Rate, VirtualClock, WallClock
from aloha_kit.core.contract import Contract
from aloha_kit.core.environment import Environment, Outcome, time_step
from aloha_kit.core.errors import (
    AlohaKitError,
    ConfigError,
    ContractError,
    did_you_mean,
    EpisodeError,
    HoldStill,
    plural,
    ReadingError,
    SafetyError,
    StopEpisode,
    StreamError,
    UsageError,
)
from aloha_kit.core.features import Feature, Observation, Stamps, Subset
from aloha_kit.core.limits import SafetyLimits
from aloha_kit.core.motion import command_step, CommandLimiter
from aloha_kit.core.policy import Action, ChunkSource, Policy
from aloha_kit.core.simulated_environment import SimulatedEnvironment

__all__ = [
    "ARM_MODELS",
    "PIPER",
    "START_ARM_POSE",
    "VX300S",
    "WX250S",
    "Action",
    "AlohaKitError",
    "ArmModel",
    "ChunkSource",
    "Clock",
    "CommandLimiter",
    "ConfigError",
    "Contract",
    "ContractError",
    "Environment",
    "EpisodeError",
    "Feature",
    "GripperRange",
    "HoldStill",
    "Observation",
    "Outcome",
    "Policy",
    "Rate",
    "SafetyError",
    "SafetyLimits",
    "SimulatedEnvironment",
    "Stamps",
    "StopEpisode",
    "ReadingError",
    "StreamError",
    "Subset",
    "UsageError",
    "VirtualClock",
    "WallClock",
    "aloha_limits",
    "aloha_start",
    "command_step",
    "plural",
    "joint_names",
    "did_you_mean",
    "time_step",
]

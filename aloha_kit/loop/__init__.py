"""The one loop: recording, deployment, replay and evaluation all run through `run_episode`."""

from aloha_kit.core.environment import Outcome
from aloha_kit.core.interrupt import interrupts_put_off, sigterm_interrupts
from aloha_kit.core.limits import SafetyLimits
from aloha_kit.loop.capabilities import guarded
from aloha_kit.loop.episode_loop import Observer, run_episode
from aloha_kit.loop.guard import SafetyGuard
from aloha_kit.loop.latch import Latch
from aloha_kit.loop.latency import LatencyReport
from aloha_kit.loop.motions import GoTo, park, Replay
from aloha_kit.loop.rollouts import RolloutRecorder, RolloutResult, success_rate, summarise, wilson_interval

__all__ = [
    "GoTo",
    "Latch",
    "LatencyReport",
    "Observer",
    "Outcome",
    "Replay",
    "RolloutRecorder",
    "RolloutResult",
    "SafetyGuard",
    "SafetyLimits",
    "guarded",
    "interrupts_put_off",
    "park",
    "run_episode",
    "sigterm_interrupts",
    "success_rate",
    "summarise",
    "wilson_interval",
]

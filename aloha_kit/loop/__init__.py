"""The one loop: recording, deployment, replay and evaluation all run through `run_episode`."""

from aloha_kit.core.environment import Outcome
from aloha_kit.core.interrupt import sigterm_interrupts
from aloha_kit.core.limits import SafetyLimits
from aloha_kit.loop.capabilities import guarded
from aloha_kit.loop.children import interrupts_put_off
from aloha_kit.loop.episode_loop import Observer, run_episode
from aloha_kit.loop.guard import SafetyGuard
from aloha_kit.loop.latch import Latch
from aloha_kit.loop.latency import LatencyReport
from aloha_kit.loop.park import GoTo, park
from aloha_kit.loop.replay import Replay
from aloha_kit.loop.statistics import wilson_interval

__all__ = [
    "GoTo",
    "Latch",
    "LatencyReport",
    "Observer",
    "Outcome",
    "Replay",
    "SafetyGuard",
    "SafetyLimits",
    "guarded",
    "interrupts_put_off",
    "park",
    "run_episode",
    "sigterm_interrupts",
    "wilson_interval",
]

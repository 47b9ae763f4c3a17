"""The one loop: recording, deployment, replay and evaluation all run through `run_episode`."""

from aloha_kit.loop.episode_loop import Observer, Outcome, run_episode

__all__ = ["Observer", "Outcome", "run_episode"]

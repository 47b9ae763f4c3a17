"""The episode on disk: written as it happens, whole at every instant, read without conversion."""

from aloha_kit.startup import quick_interrupts

with quick_interrupts():  # `python -m aloha_kit.episode` imports this before its own first line
    from aloha_kit.episode.codec import JpegOrder
    from aloha_kit.episode.reader import Episode
    from aloha_kit.episode.schema import list_episodes, list_partials
    from aloha_kit.episode.writer import EpisodeWriter

__all__ = ["Episode", "EpisodeWriter", "JpegOrder", "list_episodes", "list_partials"]

"""The episode on disk: written as it happens, whole at every instant, read without conversion.

In two layers. The file format: writer, journal and recovery, reader and the layouts that it knows. Above it what looks
at episodes and changes them: checks and verdicts, copies and labels, descriptions of other tools' data, the command
line. The format imports nothing of the upper layer (`tests/test_architecture.py`).
"""

from aloha_kit.startup import quick_interrupts

with quick_interrupts():  # `python -m aloha_kit.episode` imports this before its own first line
    from aloha_kit.episode.codec import JpegOrder
    from aloha_kit.episode.reader import Episode
    from aloha_kit.episode.schema import list_episodes, list_partials
    from aloha_kit.episode.writer import EpisodeWriter

__all__ = ["Episode", "EpisodeWriter", "JpegOrder", "list_episodes", "list_partials"]

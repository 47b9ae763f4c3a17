"""Checks and editing of recorded episodes: validation, statistics, curation, descriptions of old data.

Reading, writing, copying and labelling of files is in `aloha_kit.storage`; its public names can be imported from here
too.
"""

from aloha_kit.startup import quick_interrupts

with quick_interrupts():  # `python -m aloha_kit.episode` imports this before its own first line
    from aloha_kit.storage import Episode, EpisodeWriter, JpegOrder, list_episodes, list_partials

__all__ = ["Episode", "EpisodeWriter", "JpegOrder", "list_episodes", "list_partials"]

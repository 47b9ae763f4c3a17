"""Episodes on disk: written as they happen, whole at every instant, read without conversion.

Writer, journal and recovery; reader and the layouts of other tools that it reads; names of files, and which are used.
Checks and editing are in `aloha_kit.episode`, which this package does not import.
"""

from aloha_kit.storage.codec import JpegOrder
from aloha_kit.storage.paths import list_episodes, list_partials
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.writer import EpisodeWriter

__all__ = ["Episode", "EpisodeWriter", "JpegOrder", "list_episodes", "list_partials"]

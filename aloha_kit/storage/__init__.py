"""Episode files: crash-safe recording through a journal, recovery, and reading without conversion.

Contains the writer, the journal and its recovery, the reader and the layouts of other tools that it reads, and the
selection of the files that are used, and copies and labels of files.
Checks are in `aloha_kit.episode`, which this package does not import.
"""

from aloha_kit.storage.codec import JpegOrder
from aloha_kit.storage.paths import list_episodes, list_partials
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.writer import EpisodeWriter

__all__ = ["Episode", "EpisodeWriter", "JpegOrder", "list_episodes", "list_partials"]

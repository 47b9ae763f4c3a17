"""Labels of committed episodes, written afterwards by people or programs."""

from __future__ import annotations

import shutil
from pathlib import Path

from aloha_kit.core import EpisodeError
from aloha_kit.core.files import put
from aloha_kit.storage import checksums, hdf5, transaction
from aloha_kit.storage.reader import Episode


def label(path: Path, *, success: bool) -> None:
    """Write a person's verdict into a committed episode, which is whole at every instant: a copy takes its place.

    Raises:
        EpisodeError: no such episode, damaged, or no room for the copy.
    """
    with Episode.open(path):
        pass
    checksums.require_sound(path)  # or the new ones would vouch for the damage
    temporary = transaction.temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)  # one left by a kill may be a second name of the episode itself
        shutil.copyfile(path, temporary)
        with hdf5.writing(temporary, "r+") as file:
            file.attrs["success"] = success
            checksums.reserve(file)
        checksums.seal(temporary)
        put(temporary, path)
    except OSError as error:
        raise EpisodeError(f"{path} could not be labelled, it is as it was: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)

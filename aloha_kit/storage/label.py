"""Labels of committed episodes: success, note, grade and instruction, written afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeAlias

from aloha_kit.core import EpisodeError
from aloha_kit.core.files import put
from aloha_kit.storage import checksums, hdf5, transaction
from aloha_kit.storage.reader import Episode

LABELS = ("success", "note", "grade", "instruction")
GRADES = range(1, 6)
"""From 1, the worst, to 5, the best."""
_LONGEST = 4000  # characters of a note or an instruction: an HDF5 attribute holds less than 64 kB

Value: TypeAlias = bool | int | str | None


def label(path: Path, **labels: Value) -> None:
    """Write labels into a committed episode by atomically replacing it with a labelled copy.

    Args:
        labels: `success` (bool), `note` (str), `grade` (in `GRADES`) or `instruction` (str); None removes one, and
            those that are not given stay.

    Raises:
        EpisodeError: an unknown label or value; no such episode, a damaged one, or no disk space for the copy.
    """
    for name, value in labels.items():
        require_valid(name, value)
    with Episode.open(path):
        pass
    checksums.require_sound(path)  # else the new checksums would cover damaged data
    temporary = transaction.temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)  # one left by a kill may be a second name of the episode itself
        shutil.copyfile(path, temporary)
        with hdf5.writing(temporary, "r+") as file:
            for name, value in labels.items():
                if value is not None:
                    hdf5.set_attribute(file, name, value)
                elif name in file.attrs:
                    del file.attrs[name]
            checksums.reserve(file)
        checksums.seal(temporary)
        put(temporary, path)
    except OSError as error:
        raise EpisodeError(f"{path} could not be labelled, it is as it was: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_valid(name: str, value: Value) -> None:
    """Raise EpisodeError for an unknown label or value."""
    if name not in LABELS:
        raise EpisodeError(f"an episode has no label '{name}'; there are: {', '.join(LABELS)}")
    if name == "grade" and value is not None and (isinstance(value, bool) or value not in GRADES):
        raise EpisodeError(f"grade must be {GRADES[0]} to {GRADES[-1]}, given {value}")
    if name == "success" and value not in (True, False, None):
        raise EpisodeError(f"success must be true or false, given {value!r}")
    if name in ("note", "instruction") and value is not None and len(str(value)) > _LONGEST:
        raise EpisodeError(f"{name} has {len(str(value))} characters, at most {_LONGEST} fit")

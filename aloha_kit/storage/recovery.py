"""Recovery of interrupted recordings: episodes with every step that reached the journal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aloha_kit.core import EpisodeError, plural
from aloha_kit.core.errors import command
from aloha_kit.core.files import free_path, special_file, sync_folder
from aloha_kit.core.lang import Message, tr_plural
from aloha_kit.storage import checksums, transaction
from aloha_kit.storage.journal import Contents, require_header, scan
from aloha_kit.storage.journal_to_hdf5 import finish
from aloha_kit.storage.paths import KEPT, list_partials, PARTIAL, partial_path, without_path
from aloha_kit.storage.reader import Episode


@dataclass(frozen=True)
class Recovery:
    """Result of the recovery of one journal."""

    journal: Path
    outcome: Literal["recovered", "finished", "empty", "busy", "failed"]
    message: str
    steps: int = 0
    lost_bytes: int = 0  # after the last whole row: at most the rows that were being written
    episode: Path | None = None


def recover_all(source: str | Path) -> list[Recovery]:
    """Recover every journal of a folder, or one journal.

    Raises:
        EpisodeError: neither a folder nor a journal.
    """
    source = Path(source)
    if source.is_file() and source.name.endswith(PARTIAL):
        return [recover(source)]
    if source.is_file():
        raise EpisodeError(
            "'{source}' is not a journal; those are called episode_<i>.hdf5{partial}", source=source, partial=PARTIAL
        )
    return [recover(journal) for journal in list_partials(source)]


def hint(folder: Path) -> str:
    """Advice about the journals of a folder that no live process writes; empty where there are none."""
    left = sum(not _busy(journal) for journal in list_partials(folder))
    if not left:
        return ""
    how = command("episode", "recover", folder)
    return tr_plural("{n} interrupted recording: `{how}`", "{n} interrupted recordings: `{how}`", left, how=how)


def recover(journal: Path) -> Recovery:
    """Convert one journal to an episode and remove it; one with unusable data is renamed to `….kept`.

    - "recovered": committed, under its own index unless another episode has taken that meanwhile.
    - "finished": the episode had been committed already; only the journal was left over.
    - "empty": no step was recorded; the journal is removed.
    - "busy": a live process is writing it; nothing is changed.
    - "failed": not readable, or a write failed; the journal is left as it is.
    """
    try:
        fd = _open(journal, os.O_RDWR)
    except (EpisodeError, OSError) as error:
        return Recovery(journal, "failed", without_path(error, journal))
    try:
        if not transaction.lock(fd) or not transaction.is_at(fd, journal):
            return Recovery(journal, "busy", Message("being written by a live process; left alone"))
        return _recover(journal, fd)
    except (EpisodeError, OSError) as error:
        return Recovery(journal, "failed", without_path(error, journal))
    finally:
        os.close(fd)


def inspect(journal: Path) -> tuple[Contents | None, bool]:
    """Contents of a journal, and whether a live process is writing it; changes nothing.

    Raises:
        EpisodeError: not a journal, or its header is damaged.
    """
    fd = _open(journal, os.O_RDONLY)
    try:
        busy = not transaction.lock(fd)
        contents = scan(fd, journal)
        if contents is not None:
            require_header(contents, journal)
        return contents, busy
    finally:
        os.close(fd)


def _open(journal: Path, flags: int) -> int:
    if special := special_file(journal):
        raise EpisodeError("{journal}: is {special}", journal=journal, special=special)
    return os.open(journal, flags | os.O_CLOEXEC)


def _busy(journal: Path) -> bool:
    try:
        fd = _open(journal, os.O_RDONLY)
    except (EpisodeError, OSError):
        return False
    try:
        return not transaction.lock(fd)
    except OSError:  # no locks on this file system
        return False
    finally:
        os.close(fd)


def _recover(journal: Path, fd: int) -> Recovery:
    contents = scan(fd, journal)
    if contents is None or (len(contents.rows) < 2 and contents.torn):
        transaction.remove(journal)
        return Recovery(journal, "empty", Message("no step was recorded; journal removed"))
    require_header(contents, journal)
    steps, lost = max(0, len(contents.rows) - 1), contents.total_bytes - contents.good_bytes
    if not steps:
        return Recovery(
            journal,
            "failed",
            Message("{problem}, before its first step; left as it is", problem=contents.problem),
            0,
            lost,
        )
    path = journal.with_name(journal.name.removesuffix(PARTIAL))
    reserved = None
    if path.exists():
        transaction.temporary_path(path).unlink(missing_ok=True)
        if _same_episode(path, contents):
            place = _put_away(journal, contents)
            return Recovery(
                journal, "finished", Message("was committed already; journal {place}", place=place), steps, lost, path
            )
        path, reservation = transaction.reserve(journal.parent, None)
        os.close(reservation)
        reserved = partial_path(path)
    try:
        finish(fd, contents, path, journal)
    finally:
        if reserved is not None:
            transaction.remove(reserved)
    place = _put_away(journal, contents)
    verdict = Message("whole") if contents.end else Message("interrupted")
    tail: str = ""
    if lost and contents.torn:
        tail = Message("; {lost} bytes of an unfinished step dropped ({problem})", lost=lost, problem=contents.problem)
    elif lost:
        tail = Message(
            "; {lost} bytes behind them cannot be used ({problem}): journal {place}",
            lost=lost,
            problem=contents.problem,
            place=place,
        )
    elif contents.cut:
        tail = Message(
            "; the last {steps} left out, as its end records: journal {place}",
            steps=plural(contents.cut, "step"),
            place=place,
        )
    return Recovery(
        journal,
        "recovered",
        Message("{verdict}, {steps}{tail}", verdict=verdict, steps=plural(steps, "step"), tail=tail),
        steps,
        lost,
        path,
    )


def _put_away(journal: Path, contents: Contents) -> str:
    """Remove a journal whose rows are all in an episode now, or rename one that holds more; returns a description."""
    if contents.torn and not contents.cut:
        transaction.remove(journal)
        return Message("removed")
    place = free_path(journal.with_name(journal.name.removesuffix(PARTIAL) + KEPT))
    os.rename(journal, place)
    sync_folder(journal.parent)
    return Message("kept as {place}", place=place.name)


def _same_episode(path: Path, contents: Contents) -> bool:
    """Whether a committed file belongs to this journal and is undamaged."""
    try:
        with Episode.open(path) as episode:
            same = episode.attrs.get("id") == contents.header["id"] and episode.length == len(contents.rows) - 1
        return bool(same and checksums.damage(path) == [])
    except EpisodeError:
        return False

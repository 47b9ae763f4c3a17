"""A verdict on every file of a folder: fit to train on, doubtful, or not usable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from aloha_kit.core import AlohaKitError, Contract, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.episode import checks, checksums
from aloha_kit.episode.codec import JpegOrder
from aloha_kit.episode.duplicates import duplicates, motion_key
from aloha_kit.episode.findings import Bounds, Finding, Verdict
from aloha_kit.episode.hdf5 import DAMAGE
from aloha_kit.episode.pictures import check_images
from aloha_kit.episode.reader import Episode
from aloha_kit.episode.recover import inspect
from aloha_kit.episode.schema import PARTIAL, without_path

_FIRST = (checks.check_notes, checks.check_shapes, checks.check_finite)  # what the others rely on
_REST = (
    checks.check_ending,
    checks.check_constant,
    checks.check_action,
    checks.check_gripper,
    checks.check_gripper_pairs,
    checks.check_jumps,
    checks.check_stamps,
    checks.check_skew,
    checks.check_rate,
    check_images,
)


def validate(
    path: Path,
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    contract: Contract | None = None,
    *,
    deep: bool = False,
    jpeg_order: JpegOrder | None = None,
) -> Verdict:
    """Check one file, with `deep` every byte of it; whatever is wrong becomes a finding, never an exception.

    `contract` and `jpeg_order` as in `Episode.open`.
    """
    if path.name.endswith(PARTIAL):
        return _journal(path)
    try:
        with Episode.open(path, contract, jpeg_order=jpeg_order) as episode:
            sums = _checksums(path) if deep else ()
            findings = (*sums, *_findings(episode, bounds))
            return Verdict(path, episode.length, findings, motion_key(episode.action, episode.qpos))
    except AlohaKitError as error:
        return Verdict(path, 0, (Finding("error", "file", without_path(error, path)),))
    except DAMAGE as error:
        return Verdict(path, 0, (Finding("error", "file", f"is damaged: {reason(error)}"),))


def with_duplicates(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on the files of a data set, where a file that repeats the motion of one before is named."""
    found = list(verdicts)
    for i, first in duplicates([verdict.motion for verdict in verdicts]).items():
        message = f"the same actions and joints as {verdicts[first].path.name}: one demonstration twice"
        found[i] = replace(found[i], findings=(*found[i].findings, Finding("warning", "duplicate", message)))
    return found


def _findings(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    serious = False
    for check in _FIRST:
        for finding in check(episode, bounds):
            serious |= finding.level == "error"
            yield finding
    if serious:
        return  # the other checks would only repeat it in odder words
    for check in _REST:
        yield from check(episode, bounds)


def _checksums(path: Path) -> tuple[Finding]:
    found = checksums.damage(path)
    if found is None:
        return (Finding("ok", "checksums", "no checksums: recorded by another program, or before they were kept"),)
    if found:
        message = f"{'; '.join(found)}: damaged, or changed by another program, since it was written"
        return (Finding("error", "checksums", message),)
    return (Finding("ok", "checksums", "every byte is as it was written"),)


def _journal(path: Path) -> Verdict:
    try:
        contents, busy = inspect(path)
    except (EpisodeError, OSError) as error:
        return Verdict(path, 0, (Finding("error", "journal", without_path(error, path)),))
    steps = max(0, len(contents.rows) - 1) if contents else 0
    if busy:
        return Verdict(path, steps, (Finding("warning", "journal", f"being recorded; {steps} steps so far"),))
    message = f"recording was interrupted; {steps} steps can be recovered (subcommand recover)"
    return Verdict(path, steps, (Finding("error", "journal", message),))

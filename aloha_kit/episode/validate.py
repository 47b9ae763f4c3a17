"""Validation of episode files: usable for training, doubtful, or not usable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.core import AlohaKitError, Contract, EpisodeError, plural
from aloha_kit.core.errors import reason
from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import joined, Message
from aloha_kit.episode import checks
from aloha_kit.episode.bounds import Bounds, finding
from aloha_kit.episode.image_checks import check_images
from aloha_kit.storage import checksums
from aloha_kit.storage.codec import JpegOrder
from aloha_kit.storage.hdf5 import DAMAGE
from aloha_kit.storage.paths import PARTIAL, without_path
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.recovery import inspect

_FIRST = (checks.check_notes, checks.check_shapes, checks.check_finite)  # the other checks rely on them
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


@dataclass(frozen=True)
class ValidationResult:
    """Findings of all checks on one file."""

    path: Path
    steps: int
    findings: tuple[Finding, ...]
    motion: str = ""  # see `motion_key`; empty where it could not be read

    @property
    def level(self) -> Literal["ok", "warning", "error"]:
        """The worst level of the findings; information counts as ok."""
        levels = {found.level for found in self.findings}
        return "error" if "error" in levels else "warning" if "warning" in levels else "ok"

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON."""
        return {
            "path": str(self.path),
            "steps": self.steps,
            "verdict": self.level,
            "findings": [{"level": f.level, "check": f.check, "message": f.found} for f in self.findings],
        }


def validate(
    path: Path,
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    contract: Contract | None = None,
    *,
    deep: bool = False,
    jpeg_order: JpegOrder | None = None,
) -> ValidationResult:
    """Check one file, with `deep` every byte of it; every problem becomes a finding, never an exception.

    `contract` and `jpeg_order` as in `Episode.open`.
    """
    if path.name.endswith(PARTIAL):
        return _journal(path)
    try:
        with Episode.open(path, contract, jpeg_order=jpeg_order) as episode:
            sums = _checksums(path) if deep else ()
            findings = (*sums, *_findings(episode, bounds))
            return ValidationResult(path, episode.length, findings, motion_key(episode.action, episode.qpos))
    except AlohaKitError as error:
        return ValidationResult(path, 0, (finding("error", "file", without_path(error, path)),))
    except DAMAGE as error:
        return ValidationResult(
            path, 0, (finding("error", "file", Message("is damaged: {error}", error=reason(error))),)
        )


def with_duplicates(verdicts: Sequence[ValidationResult]) -> list[ValidationResult]:
    """Results of the files of a data set, with a finding for each file that repeats an earlier file's motion."""
    found = list(verdicts)
    for i, first in duplicates([verdict.motion for verdict in verdicts]).items():
        message = Message(
            "the same actions and joints as {path}: one demonstration twice", path=verdicts[first].path.name
        )
        found[i] = replace(found[i], findings=(*found[i].findings, finding("warning", "duplicate", message)))
    return found


def motion_key(action: npt.NDArray[np.float32], qpos: npt.NDArray[np.float32]) -> str:
    """Digest of an episode's motion (the actions and the joints before each), for finding duplicates.

    Images, stamps and attributes do not count, nor does the observation after the last action, which exports drop.

    Args:
        action: (T, A).
        qpos: (T or T + 1, S).
    """
    digest = hashlib.blake2b(f"{action.shape}".encode(), digest_size=16)
    for table in (action, qpos[: len(action)]):
        digest.update(np.ascontiguousarray(table, "<f4").tobytes())
    return digest.hexdigest()


def duplicates(keys: Sequence[str]) -> dict[int, int]:
    """{index of a repeated key: index of the first one}; empty keys are ignored."""
    first: dict[str, int] = {}
    return {i: first[key] for i, key in enumerate(keys) if key and first.setdefault(key, i) != i}


def _findings(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    serious = False
    for check in _FIRST:
        for found in check(episode, bounds):
            serious |= found.level == "error"
            yield found
    if serious:
        return  # the other checks would only repeat this finding
    for check in _REST:
        yield from check(episode, bounds)


def _checksums(path: Path) -> tuple[Finding]:
    found = checksums.damage(path)
    if found is None:
        return (
            finding(
                "ok",
                "checksums",
                Message("no checksums: recorded by another program, or before checksums were written"),
            ),
        )
    if found:
        message = Message("{found}: damaged, or changed by another program, since it was written", found=joined(found))
        return (finding("error", "checksums", message),)
    return (finding("ok", "checksums", Message("every byte is as it was written")),)


def _journal(path: Path) -> ValidationResult:
    try:
        contents, busy = inspect(path)
    except (EpisodeError, OSError) as error:
        return ValidationResult(path, 0, (finding("error", "journal", without_path(error, path)),))
    steps = max(0, len(contents.rows) - 1) if contents else 0
    if busy:
        return ValidationResult(
            path,
            steps,
            (finding("warning", "journal", Message("being recorded; {steps} so far", steps=plural(steps, "step"))),),
        )
    message = Message(
        "recording was interrupted; {steps} can be recovered (subcommand recover)", steps=plural(steps, "step")
    )
    return ValidationResult(path, steps, (finding("error", "journal", message),))

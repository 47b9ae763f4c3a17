"""Diagnosis of rollouts: gather, check, draw, compare, write."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder, write_json
from aloha_kit.core.lang import shown, tr
from aloha_kit.diagnose.args import DiagnoseArgs
from aloha_kit.diagnose.comparison import compare
from aloha_kit.diagnose.diagnosis import diagnose, Diagnosis
from aloha_kit.diagnose.evidence import Evidence, gather
from aloha_kit.formats import open_source

_LOG = logging.getLogger(__name__)


def run(args: DiagnoseArgs) -> None:
    """Diagnose, print and write.

    Raises:
        EpisodeError: no episodes, or a damaged file.
        ConfigError: no checkpoint at `ckpt`, or a folder that cannot be written to.
    """
    one = not args.rollouts.is_dir()
    source = open_source(args.rollouts, kind=args.format)
    if source.unused:
        _LOG.info("%s", shown(source.unused))
    output = make_folder(args.output or (source.place.parent if source.place.is_file() else source.place))
    diagnoses, images = [], []
    for number in range(len(source)):
        evidence = gather(args.rollouts, args.ckpt, kind=args.format, number=number)
        found = diagnose(evidence)
        diagnoses.append(found)
        if one or found.success is False:
            images += _draw(evidence, found, output / f"{evidence.path.stem}.diagnose.png")
        if one or not found.success:
            print(found.text() if one else _line(found))
    comparison = compare(diagnoses)
    if not one:
        print(f"\n{comparison.text()}")
        for what, rollouts in _unknown(diagnoses).items():
            print(tr("not known in {n} of them: {what}", n=rollouts, what=what))
        print("\n" + tr("one of them in full: {command}", command=command("diagnose", source.place / "EPISODE")))
    values = {"rollouts": [found.to_mapping() for found in diagnoses], "comparison": comparison.to_mapping()}
    write_json(output / "diagnose.json", values)
    print("", output / "diagnose.json", *images, sep="\n")


def _unknown(diagnoses: list[Diagnosis]) -> Counter[str]:
    """Checks that could not be made, with the number of rollouts."""
    return Counter(what.replace(Path(d.episode).stem, "episode_N") for d in diagnoses for what in d.unknown)


def _line(found: Diagnosis) -> str:
    """A rollout in a list of them."""
    causes = "; ".join(f"{shown(c.finding.subject)} ({tr(c.finding.check)})" for c in found.causes[:3])
    more = tr(" and {count} more", count=len(found.causes) - 3) if len(found.causes) > 3 else ""
    return f"{found.episode}: {shown(found.outcome)}\n    {causes or tr('nothing found')}{more}"


def _draw(evidence: Evidence, found: Diagnosis, file: Path) -> list[Path]:
    try:
        from aloha_kit.diagnose.figure import draw  # matplotlib
    except ImportError as error:
        _LOG.warning(tr("no {file}: {error}; pip install aloha_kit[view]", file=file.name, error=error))
        return []
    draw(evidence, found, file)
    return [file]

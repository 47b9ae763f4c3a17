"""Diagnosis on one screen: gather, examine, draw, compare, write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from aloha_kit.core import ConfigError
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder, write_json
from aloha_kit.diagnose.args import DiagnoseArgs
from aloha_kit.diagnose.compare import compare
from aloha_kit.diagnose.diagnosis import diagnose, Diagnosis
from aloha_kit.diagnose.evidence import Evidence, gather
from aloha_kit.storage import list_episodes


def run(args: DiagnoseArgs) -> None:
    """Diagnose, print and write.

    Raises:
        EpisodeError: nothing to look at, or a file that is damaged.
        ConfigError: no checkpoint at `ckpt`, or a folder that cannot be written to.
    """
    one = not args.rollouts.is_dir()
    episodes = [args.rollouts] if one else list_episodes(args.rollouts)
    if not episodes:
        raise ConfigError(f"no episode in {args.rollouts}; expected a folder that a deployment wrote")
    output = make_folder(args.output or episodes[0].parent)
    diagnoses, pictures = [], []
    for path in episodes:
        evidence = gather(path, args.ckpt)
        found = diagnose(evidence)
        diagnoses.append(found)
        if one or found.success is False:
            pictures += _draw(evidence, found, output / f"{path.stem}.diagnose.png")
        if one or not found.success:
            print(found.text() if one else _line(found))
    comparison = compare(diagnoses)
    if not one:
        print(f"\n{comparison.text()}")
        for what, rollouts in _unknown(diagnoses).items():
            print(f"not known in {rollouts} of them: {what}")
        print(f"\none of them in full: {command('diagnose', episodes[0].parent / 'EPISODE')}")
    values = {"rollouts": [found.to_mapping() for found in diagnoses], "comparison": comparison.to_mapping()}
    write_json(output / "diagnose.json", values)
    print("", output / "diagnose.json", *pictures, sep="\n")


def _unknown(diagnoses: list[Diagnosis]) -> Counter[str]:
    """What could not be looked into, in how many rollouts."""
    return Counter(what.replace(Path(d.episode).stem, "episode_N") for d in diagnoses for what in d.unknown)


def _line(found: Diagnosis) -> str:
    """A rollout in a list of them."""
    causes = "; ".join(f"{cause.finding.subject} ({cause.finding.check})" for cause in found.causes[:3])
    more = f" and {len(found.causes) - 3} more" if len(found.causes) > 3 else ""
    return f"{found.episode}: {found.outcome}\n    {causes or 'nothing found'}{more}"


def _draw(evidence: Evidence, found: Diagnosis, file: Path) -> list[Path]:
    try:
        from aloha_kit.diagnose.picture import draw  # matplotlib
    except ImportError as error:
        print(f"no {file.name}: {error}; pip install aloha_kit[view]")
        return []
    draw(evidence, found, file)
    return [file]

"""Several sources read as one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from aloha_kit.core import Contract
from aloha_kit.core.lang import joined as joined_text
from aloha_kit.core.source import Array, EpisodeSource, RecordedEpisode, Shard
from aloha_kit.formats.curated import CuratedEpisode


class JoinedSource(EpisodeSource):
    """Several data sets read as one. An episode whose name another one has is named after its data set, too."""

    def __init__(self, sources: Sequence[EpisodeSource]) -> None:
        self._sources = sources
        self.place, self.advice = sources[0].place, sources[0].advice
        self.unused = joined_text([source.unused for source in sources if source.unused])
        self.window_bytes = min((each for source in sources if (each := source.window_bytes) is not None), default=None)
        self.edits = {file: edits for source in sources for file, edits in source.edits.items()}
        self._where = [(part, number) for part, source in enumerate(sources) for number in range(len(source))]
        own = [sources[part].name(number) for part, number in self._where]
        stems, labels = Counter(Path(name).stem for name in own), _labels([source.place for source in sources])
        self._names = [
            f"{labels[part]}_{name}" if stems[Path(name).stem] > 1 else name
            for (part, _), name in zip(self._where, own, strict=True)
        ]
        self.validation = [
            mine
            for mine, name, (part, _) in zip(self._names, own, self._where, strict=True)
            if name in sources[part].validation
        ]

    def __len__(self) -> int:
        return len(self._where)

    def name(self, number: int) -> str:
        return self._names[number]

    def part(self, number: int) -> int:
        return self._where[number][0]

    def shard(self, number: int) -> Shard | None:
        part, within = self._where[number]
        shard = self._sources[part].shard(within)
        return None if shard is None else dataclasses.replace(shard, name=f"{part}/{shard.name}")

    def fetch(self, number: int) -> None:
        part, within = self._where[number]
        self._sources[part].fetch(within)

    def image_grids(self, number: int) -> Mapping[str, Array]:
        part, within = self._where[number]
        return self._sources[part].image_grids(within)

    def open(self, number: int) -> RecordedEpisode:
        part, within = self._where[number]
        episode = self._sources[part].episode(within)
        name = self._names[number]
        return episode if episode.name == name else CuratedEpisode(episode, name=name)

    def identity(self, number: int) -> str:
        part, within = self._where[number]
        return self._sources[part].identity(within)

    def identities(self) -> Collection[str]:
        return [identity for source in self._sources for identity in source.identities()]


def _labels(places: Sequence[Path]) -> list[str]:
    """A name for each data set: its folder's or file's, with its position where two have one name."""
    names = [place.resolve().stem for place in places]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def differences(source: JoinedSource) -> list[str]:
    """Differences of the contracts of joined data sets from the first one's, by their first episodes; a line each."""
    contracts: dict[int, tuple[Contract, str]] = {}
    for number in range(len(source)):
        if source.part(number) not in contracts:
            with closing(source.episode(number)) as episode:
                contracts[source.part(number)] = episode.contract, str(episode.attrs.get("task") or "")
    mine, task = contracts[0]
    lines = []
    for part, (theirs, other) in list(contracts.items())[1:]:
        label = f"data set {part + 1}"
        lines += [f"{label}: {line}" for line in mine.differences(theirs)]
        more = [camera for camera in theirs.cameras if camera not in mine.cameras]
        lines += [f"{label}: has camera {', '.join(more)}, which the first has not"] if more else []
        lines += [f"{label}: task '{other}' against '{task}'"] if other != task else []
    return lines

"""Curation of a data set: edits of its episodes in a file beside them, applied when they are read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aloha_kit.config import from_mapping
from aloha_kit.config.load import read
from aloha_kit.core import ConfigError, did_you_mean, plural
from aloha_kit.core.errors import AlohaKitError
from aloha_kit.core.files import write_text
from aloha_kit.core.lang import joined, Message
from aloha_kit.storage.label import require_valid

CURATION = "curation.yaml"
VERSION = 1
_ABOUT = (
    "# Edits of these episodes, which are as they were recorded; see docs/editing.md of aloha_kit.\n"
    "# Remove a line, or this file, and the edit is undone.\n"
)


@dataclass(frozen=True)
class EpisodeEdit:
    """Edits of one episode.

    Attributes:
        drop: leave the episode out.
        start, stop: the actions [start, stop) that are kept, by their recorded numbers; `stop` None keeps the rest.
        labels: `success`, `grade`, `note` or `instruction` in place of the recorded one; None for none.
    """

    drop: bool = False
    start: int = 0
    stop: int | None = None
    labels: dict[str, bool | int | str | None] = field(default_factory=dict)

    @property
    def trims(self) -> bool:
        """Whether fewer actions than recorded are kept."""
        return bool(self.start) or self.stop is not None

    def text(self) -> str:
        """The edits in words; empty without any."""
        kept = Message("steps from {start}", start=self.start)
        if self.stop is not None:
            kept = Message("steps {named}", named=Message("{first} to {last}", first=self.start, last=self.stop - 1))
        labels = [f"{name} {'none' if value is None else value}" for name, value in self.labels.items()]
        return Message("dropped") if self.drop else joined([*([kept] if self.trims else []), *labels], ", ")


@dataclass(frozen=True)
class Curation:
    """Edits of the episodes of a data set. Episodes are named without their file's ending: `episode_3`, `demo_3`.

    Attributes:
        version: of this format.
        data: data sets that are read as one, relative to the file; empty for the folder that the file is in.
        episodes: edits by episode.
        order: episodes that come first, in this order; the others follow in their own.
        validation: episodes that are for validation; empty where training draws them.
        cameras: renamed cameras, {new name: recorded name}.
        image_size: {camera, by its new name: (height, width)} to which images are resized.
    """

    version: int = VERSION
    data: tuple[str, ...] = ()
    episodes: dict[str, EpisodeEdit] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    cameras: dict[str, str] = field(default_factory=dict)
    image_size: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing is edited."""
        return self.cleaned() == Curation()

    def edit(self, name: str) -> EpisodeEdit:
        """The edits of an episode."""
        return self.episodes.get(name, EpisodeEdit())

    def edited(self, edits: Mapping[str, EpisodeEdit]) -> Curation:
        """Curation with other edits of some episodes."""
        return dataclasses.replace(self, episodes={**self.episodes, **edits}).cleaned()

    def cleaned(self) -> Curation:
        """Curation without entries that edit nothing."""
        return dataclasses.replace(self, episodes={n: e for n, e in self.episodes.items() if e != EpisodeEdit()})

    def text(self) -> str:
        """What is edited, in a line; empty where nothing is."""
        edits = list(self.episodes.values())
        dropped, trimmed = sum(e.drop for e in edits), sum(e.trims and not e.drop for e in edits)
        relabelled = sum(bool(e.labels) and not e.drop for e in edits)
        parts = [
            Message("{sets} read as one", sets=plural(len(self.data), "data set")) if self.data else "",
            Message("{n} dropped", n=dropped) if dropped else "",
            Message("{n} trimmed", n=trimmed) if trimmed else "",
            Message("{n} relabelled", n=relabelled) if relabelled else "",
            Message("{n} for validation", n=len(self.validation)) if self.validation else "",
            Message("reordered") if self.order else "",
            *(Message("camera {old} renamed to {new}", old=old, new=new) for new, old in self.cameras.items()),
            *(
                Message("{camera} resized to {size}", camera=camera, size=f"{h}x{w}")
                for camera, (h, w) in self.image_size.items()
            ),
        ]
        return joined([part for part in parts if part], ", ")

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for YAML and JSON, without what is not edited."""
        values = {key: getattr(self, key) for key in ("data", "order", "validation", "cameras", "image_size")}
        plain = {key: _plain(value) for key, value in values.items() if value}
        episodes = {}
        for name, edit in self.cleaned().episodes.items():
            fields = {f.name: getattr(edit, f.name) for f in dataclasses.fields(edit)}
            episodes[name] = {key: value for key, value in fields.items() if value not in (False, 0, None, {})}
        return {"version": self.version, **plain, **({"episodes": episodes} if episodes else {})}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, (tuple, list)) else value


def curation_file(place: str | Path) -> Path:
    """Where the curation of a data set is: `curation.yaml` in a folder, `NAME.curation.yaml` beside a file `NAME.hdf5`.

    One HDF5 episode by itself has the curation of its folder.
    """
    path = Path(place)
    if path.is_dir() or not path.suffix:
        return path / CURATION
    beside = path.with_name(CURATION)
    return beside if _of_folder(path) else path.with_name(f"{path.stem}.{CURATION}")


def _of_folder(path: Path) -> bool:
    return re.fullmatch(r"(?:episode[_-]?)?\d+", path.stem, re.IGNORECASE) is not None


def read_curation(file: Path) -> Curation:
    """The curation in a YAML file; an empty one where there is no file.

    Raises:
        ConfigError: it is not a curation; names file, episode and key.
    """
    if not file.is_file():
        return Curation()
    values = read(file, empty={})
    for key in ("data", "order", "validation"):
        if key in values:
            values[key] = _names(values[key])
    if isinstance(values.get("image_size"), dict):
        for camera, size in values["image_size"].items():
            if not isinstance(size, list) or len(size) != 2:
                raise ConfigError(
                    "{file}: image_size of {camera} must be [height, width] in pixels, given {size}",
                    file=file,
                    camera=camera,
                    size=size,
                )
    if isinstance(values.get("episodes"), dict):
        values["episodes"] = {str(name): edit or {} for name, edit in values["episodes"].items()}
    curation = from_mapping(Curation, values, where=str(file))
    try:
        _require_valid(curation)
    except AlohaKitError as error:
        raise ConfigError("{file}: {error}", file=file, error=error) from None
    return curation


def given(file: str | Path) -> Curation:
    """The curation in a file that was given.

    Raises:
        ConfigError: there is no such file, or it is not a curation.
    """
    if not Path(file).is_file():
        raise ConfigError("no curation '{file}'; expected a file such as curation.yaml", file=file)
    return read_curation(Path(file))


def _names(values: Any) -> Any:
    return [str(value) for value in values] if isinstance(values, list) else values


def _require_valid(curation: Curation) -> None:
    if curation.version != VERSION:
        raise ConfigError(
            "version is {given}, this version of aloha_kit reads {known}", given=curation.version, known=VERSION
        )
    for key in ("order", "validation", "data"):
        names = getattr(curation, key)
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ConfigError("{key} has '{twice}' twice", key=key, twice=twice[0])
    recorded = list(curation.cameras.values())
    if twice := [old for old in recorded if recorded.count(old) > 1]:
        raise ConfigError("cameras has two new names of '{twice}'", twice=twice[0])
    if wrong := [new for new in curation.cameras if not new or "/" in new]:
        raise ConfigError("a camera cannot be named '{wrong}': a name is not empty and without /", wrong=wrong[0])
    for camera, (height, width) in curation.image_size.items():
        if height < 1 or width < 1:
            raise ConfigError(
                "image_size of {camera} must be [height, width] in pixels, given [{height}, {width}]",
                camera=camera,
                height=height,
                width=width,
            )
    for name, edit in curation.episodes.items():
        if edit.start < 0 or (edit.stop is not None and edit.stop <= edit.start):
            raise ConfigError(
                "{name}: start and stop must be 0 <= start < stop, given {start} and {stop}",
                name=name,
                start=edit.start,
                stop=edit.stop,
            )
        for label, value in edit.labels.items():
            try:
                require_valid(label, value)
            except AlohaKitError as error:
                raise ConfigError("{name}: {error}", name=name, error=error) from None


def write_curation(file: Path, curation: Curation) -> None:
    """Write a curation, or remove the file of an empty one.

    Raises:
        ConfigError, OSError: the file cannot be written.
    """
    if curation.empty:
        file.unlink(missing_ok=True)
        return
    values = yaml.safe_dump(curation.to_mapping(), sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_text(file, f"{_ABOUT}{values}")


def chosen(given: Sequence[str], names: Sequence[str]) -> list[str]:
    """Episodes by what is typed: a name with or without its ending, its number, or a range of numbers `10-19`.

    Raises:
        ConfigError: no such episode; names those that there are.
    """
    numbers = {int(found[0]): name for name in names if (found := re.findall(r"\d+$", name))}
    result: list[str] = []
    for word in given:
        name, span = Path(word).stem if Path(word).suffix else word, re.fullmatch(r"(\d+)-(\d+)", word)
        if word in names or name in names:
            result.append(word if word in names else name)
        elif span and (within := [n for i, n in sorted(numbers.items()) if int(span[1]) <= i <= int(span[2])]):
            result += within
        elif word.isdigit() and int(word) in numbers:
            result.append(numbers[int(word)])
        else:
            raise ConfigError("no episode '{word}'. {known}", word=word, known=did_you_mean(word, names))
    return list(dict.fromkeys(result))

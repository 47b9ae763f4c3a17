"""What every format that is written and read back is tested with: episodes, their comparison, an interruption."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import EpisodeError
from aloha_kit.core.exporter import EpisodeExporter, ExportRecord
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.episode import Episode
from tests.commands import failure
from tests.synthetic import make, write, write_dataset

LENGTHS = (9, 12, 7)


def write_ours(folder: Path, cameras: Mapping[str, tuple[int, int]]) -> Path:
    """Write episodes of `LENGTHS` with a base, an object's pose, rewards and stamps; returns their folder."""
    write_dataset(folder / "ours", LENGTHS, cameras, base=True)
    return folder / "ours"


def require_same(new: RecordedEpisode, old: Episode) -> None:
    """Assert that all of an episode but its images and its last observation has come back."""
    assert (new.length, new.frames, new.id) == (old.length, old.length, old.id)
    assert (new.contract, new.success, new.attrs["task"]) == (old.contract, old.success, old.attrs["task"])
    for name in ("action", "base_action", "reward"):
        assert np.array_equal(getattr(new, name), getattr(old, name)), name
    for name, values in old.vectors.items():
        assert np.array_equal(new.vectors[name], values[: old.length]), name
    stamps = {name: values[: old.length].tolist() for name, values in old.stamps.items()}
    assert {name: values.tolist() for name, values in new.stamps.items()} == stamps


class InterruptedOnce(EpisodeExporter):
    """Before an exporter: it ends where `kill -9` might, within the second episode, while `stop` is set."""

    stop = True

    @abc.abstractmethod
    def half_written(self) -> Path:
        """A file of the second episode."""

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        super().write(number, episode, record)
        if number == 1 and type(self).stop:
            self.half_written().write_bytes(b"half")
            raise KeyboardInterrupt


def convert_interrupted(kind: type[InterruptedOnce], ours: Path, out: Path, capsys: Any) -> None:
    """Convert with an exporter that is interrupted, and again; nothing is at `out` before that."""
    flags = [str(ours), str(out), "--format", f"{kind.__module__}:{kind.__name__}"]
    failure(convert, flags)
    assert not out.exists()
    kind.stop = False
    convert(flags)
    assert "1 episode finished already; going on" in capsys.readouterr().err


def write_depth(folder: Path) -> dict[int, Any]:
    """Write two episodes whose only camera `top` has depth, of all values that uint16 has; returns {number: depth}."""
    rng = np.random.default_rng(0)
    written = {}
    for number, steps in enumerate((6, 5)):
        depth = rng.integers(0, 65536, (steps + 1, 20, 28)).astype(np.uint16)
        depth[:, 0, :2] = 0, 65535
        write(folder, make(steps, {"top": (24, 32)}, seed=number), depth={"top": depth})
        written[number] = depth
    return written


def require_depth(source: EpisodeSource, written: Mapping[int, Any], rows_after: int) -> None:
    """Assert that a source has the depth of `write_depth`, with so many rows after the last action."""
    for number, depth in written.items():
        with closing(source.episode(number)) as episode:
            assert episode.depth_cameras == ("top",)
            assert episode.contract.depth_cameras == {"top": (20, 28)}
            assert episode.frames == episode.length + rows_after
            for i in range(episode.frames):
                found = episode.depth("top", i)
                assert found.dtype == np.uint16
                assert np.array_equal(found, depth[i]), (number, i)
            for camera, row in (("top", episode.frames), ("top", -1), ("wrist", 0)):
                with pytest.raises(EpisodeError, match=f"no depth.* of (camera )?'{camera}'"):
                    episode.depth(camera, row)

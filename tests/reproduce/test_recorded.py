"""Reproductions from demonstrations that were recorded before; commands are stood in for, the episodes are files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aloha_kit.core.commands import LockedFolder
from aloha_kit.reproduce.__main__ import main
from aloha_kit.reproduce.result import read
from tests.reproduce.pretend import Commands, preset_file
from tests.synthetic import make, write

Reproduce = Callable[..., str]
TARGET = {"success": 0.8, "minutes": 3}  # each command takes one minute


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    pretended = Commands(successes={0: 9, 1: 8})
    monkeypatch.setattr(LockedFolder, "run", lambda place, words: pretended(place, words))
    return pretended


@pytest.fixture
def reproduce(tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]) -> Reproduce:
    """The command line on demonstrations; returns what it printed, or its error."""

    def call(*flags: object, preset: Path | None = None, episodes: object = tmp_path / "shared") -> str:
        preset = preset or preset_file(tmp_path, target=TARGET)
        words = ["insertion", "--preset", preset, "--output", tmp_path / "out", "--num_rollouts", 10, *flags]
        words += [] if episodes is None else ["--episodes", episodes]
        capsys.readouterr()
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return call


def record(
    folder: Path, seed: int, size: tuple[int, int] = (24, 32), *, task: str = "sim_insertion", **flags: Any
) -> Path:
    """An episode as the preset's, or with one value that differs."""
    success = flags.pop("success", True)
    describe = {"seed": seed, "noise": 0.0, **flags}
    return write(folder, make(3, {"top": size}, seed=seed), describe=describe, task=task, success=success)


def test_they_are_used_in_place_and_their_time_is_not_included(
    tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    files = [record(tmp_path / "shared", seed) for seed in (0, 1)]
    record(tmp_path / "shared", 2, success=False)  # is not counted
    before = [file.stat().st_mtime_ns for file in files]
    commands.stop = {"train": "interrupted"}
    reproduce("--seeds", 0)
    printed = reproduce("--seeds", 0, 1)
    assert [words[0] for words in commands.words] == [
        f"aloha_kit.{name}" for name in ("episode", "train", "train", "eval", "train", "eval")
    ]
    assert commands.words[0] == ["aloha_kit.episode", "validate", f"{tmp_path}/shared"]
    assert commands.words[2][1] == "--resume"
    assert f"--dataset_dir {tmp_path}/shared --ckpt_dir {tmp_path}/out/seed_1/policy" in " ".join(commands.words[4])
    result = read(tmp_path / "out" / "reproduce.json")
    assert result.episodes == f"{tmp_path}/shared"
    assert result.summary is not None
    assert result.summary.record.seconds == 60, "the validation alone"
    assert result.summary.one_seed.seconds == 240
    assert (
        f"- Demonstrations of '{tmp_path}/shared', recorded before: the time of recording is not included. "
        "Validated in 1 min 0 s; with one seed, all other stages took 4 min 0 s." in printed
    )
    assert "Met: no (time)." in printed
    reproduce("--seeds", 0, 1)
    assert len(commands.words) == 6, "all is done"
    assert [file.stat().st_mtime_ns for file in files] == before
    assert not (tmp_path / "out" / "episodes").exists()


def test_within_its_minutes_the_time_of_recording_is_still_unknown(tmp_path: Path, reproduce: Reproduce) -> None:
    for seed in (0, 1):
        record(tmp_path / "shared", seed)
    assert "Met: yes, but for the time of recording." in reproduce()
    summary = read(tmp_path / "out" / "reproduce.json").summary
    assert summary is not None
    assert summary.time_kept is None


def test_a_reproduction_keeps_its_demonstrations(tmp_path: Path, commands: Commands, reproduce: Reproduce) -> None:
    for folder in ("shared", "others"):
        for seed in (0, 1):
            record(tmp_path / folder, seed)
    reproduce()
    for given, now in ((tmp_path / "others", tmp_path / "others"), (None, None)):
        assert reproduce(episodes=given) == (
            f"error: '{tmp_path}/out' was started with episodes {tmp_path}/shared (now {now}); "
            "choose another place with --output to start anew"
        )
    assert len(commands.words) == 3


@pytest.mark.parametrize(
    ("others", "difference"),
    [
        ([{}], "1 successful episodes (the preset records 2)"),
        ([{}, {}, {}], "3 successful episodes (the preset records 2)"),
        ([{}, {"size": (48, 64)}], "episode_1.hdf5: cameras top 48x64 (the preset records top 24x32)"),
        ([{}, {"task": "sim_transfer_cube"}], "episode_1.hdf5: task sim_transfer_cube (the preset's is sim_insertion)"),
        ([{}, {"noise": 0.3}], "episode_1.hdf5: noise 0.3 (the preset records with 0)"),
        ([{}, {"action_space": "ee"}], "episode_1.hdf5: actions in the space ee (the preset's are in joints)"),
    ],
)
def test_other_demonstrations_are_refused(
    others: list[dict[str, Any]], difference: str, tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    for seed, values in enumerate(others):
        record(tmp_path / "shared", seed, **values)
    assert reproduce() == (
        f"error: '{tmp_path}/shared' cannot be used for this preset: {difference}. "
        "Take a folder recorded alike, or leave --episodes out to record"
    )
    assert commands.words == []
    assert not (tmp_path / "out").exists()


def test_a_first_seed_of_the_preset_is_compared(tmp_path: Path, reproduce: Reproduce) -> None:
    preset = preset_file(tmp_path, record={"num_episodes": 2, "image_size": [24, 32], "seed": 900})
    for seed in (900, 7):
        record(tmp_path / "shared", seed)
    assert "episode_1.hdf5: seed 7 (the preset records from 900 on)" in reproduce(preset=preset)


def test_what_cannot_be_read_is_named(tmp_path: Path, reproduce: Reproduce) -> None:
    assert reproduce() == f"error: no folder '{tmp_path}/shared': --episodes is a folder of recorded demonstrations"
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "episode_0.hdf5").write_bytes(b"no HDF5")
    assert f"See `python -m aloha_kit.episode validate {tmp_path}/shared`" in reproduce()

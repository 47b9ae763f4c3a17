"""The command: files in, words, a JSON file and an image out."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aloha_kit.core import Contract
from aloha_kit.core.source import EpisodeData, EpisodeSource, RecordedEpisode
from aloha_kit.diagnose.__main__ import main
from aloha_kit.diagnose.diagnosis import diagnose
from aloha_kit.diagnose.evidence import gather
from aloha_kit.diagnose.training_statistics import find_training
from aloha_kit.episode import Episode
from aloha_kit.formats import ReadOptions
from aloha_kit.policies.intact import CHECKSUMS, digest, digest_of
from aloha_kit.storage.label import label
from tests.commands import failure
from tests.diagnose.conftest import motion, NAMES


def run_app(*argv: Any) -> None:
    main([str(word) for word in argv])


def fail(*argv: Any) -> str:
    return failure(run_app, *argv)


def test_an_episode_in_words_json_and_an_image(dark: Path, tmp_path: Path, capsys: Any) -> None:
    run_app(dark / "episode_0.hdf5", "--output", tmp_path)
    text = capsys.readouterr().out
    assert text.startswith("episode_0.hdf5: failed; 60 steps (1.2 s); highest reward 0\n\nERROR    images/top  image: ")
    assert text.endswith(f"{tmp_path / 'diagnose.json'}\n{tmp_path / 'episode_0.diagnose.png'}\n")
    (found,) = json.loads((tmp_path / "diagnose.json").read_text())["rollouts"]
    assert found["success"] is False
    assert [(c["level"], c["check"], c["subject"]) for c in found["causes"]] == [("error", "image", "images/top")]
    assert found["causes"][0]["steps"] == [[0, 59]]
    assert found["measures"]["share of top unlike training"] > 0.5
    drawn = cv2.imread(str(tmp_path / "episode_0.diagnose.png"))
    assert drawn.shape[1] == 1400
    blue, green, red = (drawn[..., i].astype(int) for i in range(3))
    assert ((red > 180) & (green < 70) & (blue < 70)).sum() > 5000  # the fault, from the first step to the last


def test_a_folder_is_compared_and_its_failures_drawn(dark: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copy(dark / "episode_0.hdf5", tmp_path / "episode_0.hdf5")
    shutil.copy(run / "clean" / "episode_0.hdf5", tmp_path / "episode_1.hdf5")
    label(tmp_path / "episode_1.hdf5", success=True)
    run_app(tmp_path, "--ckpt", run)
    text = capsys.readouterr().out
    assert "episode_0.hdf5: failed; 60 steps (1.2 s); highest reward 0\n    images/top (image)\n" in text
    assert "1 failed rollout, 1 successful, 0 not judged" in text
    assert "images/top: image        1 of 1 failed, 0 of 1 successful" in text
    assert sorted(p.name for p in tmp_path.glob("*diagnose*")) == ["diagnose.json", "episode_0.diagnose.png"]
    rollouts = json.loads((tmp_path / "diagnose.json").read_text())["rollouts"]
    assert rollouts[1]["causes"] == []
    assert rollouts[1]["unknown"][0].endswith("holds and what the guard limited: there is no episode_1.steps.csv")


def test_a_rollout_on_its_own_states_what_is_unknown(dark: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    shutil.copy(dark / "episode_0.hdf5", tmp_path / "episode_0.hdf5")
    shutil.copy(dark / "episode_0.steps.csv", tmp_path / "episode_0.steps.csv")
    lines = (tmp_path / "episode_0.steps.csv").read_text().splitlines(keepends=True)
    (tmp_path / "episode_0.steps.csv").write_text("".join(lines[:31])[:-5])
    monkeypatch.setattr(Episode, "describe", {"policy": "x on gpu:8000"})
    run_app(tmp_path / "episode_0.hdf5")
    text = capsys.readouterr().out
    assert "nothing found" in text
    assert "not known: how steps went from 29 on: episode_0.steps.csv ends there (a crash, or a full disk)" in text
    assert (
        "not known: what the policy was trained on: there is no checkpoint at 'x on gpu:8000'; give --ckpt RUN" in text
    )
    assert (tmp_path / "episode_0.diagnose.png").stat().st_size > 10_000


def test_what_cannot_be_looked_at_is_answered(run: Path, tmp_path: Path) -> None:
    episode = run / "clean" / "episode_0.hdf5"
    assert "no episodes at '" in fail(tmp_path / "episode_0.hdf5")
    assert fail(tmp_path) == f"error: no episode_<i>.hdf5 in '{tmp_path}'; it holds: (nothing)"
    text = fail(episode, "--ckpt", tmp_path, "--output", tmp_path)
    assert text == f"error: no statistics.json at {tmp_path}; expected a run or a checkpoint's folder"
    (tmp_path / "statistics.json").write_text("[]")
    assert "statistics.json is missing or damaged" in fail(episode, "--ckpt", tmp_path, "--output", tmp_path)
    sums = {"statistics.json": digest(tmp_path / "statistics.json")}
    (tmp_path / CHECKSUMS).write_text(json.dumps({**sums, CHECKSUMS: digest_of(sums)}))
    (tmp_path / "statistics.json").write_text("{}")
    text = fail(episode, "--ckpt", tmp_path, "--output", tmp_path)
    assert f"{tmp_path / 'statistics.json'} is not as it was saved" in text


class InMemory(EpisodeSource):
    """A failed rollout of an own format."""

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        self.place = Path(places[0])

    def __len__(self) -> int:
        return 1

    def identity(self, number: int) -> str:
        return "the rollout"

    def open(self, number: int) -> RecordedEpisode:
        rows = motion(np.arange(41)).astype(np.float32)
        contract = Contract.of(NAMES, NAMES, {}, rate_hz=50.0)
        return EpisodeData("rollout_0.mem", contract, rows[:40], rows, lambda *_: np.zeros(()), success=False)


def test_rollouts_of_an_own_format_are_read_through_their_source(run: Path, tmp_path: Path, capsys: Any) -> None:
    run_app(tmp_path, "--format", f"{__name__}:InMemory", "--ckpt", run)
    text = capsys.readouterr().out
    assert text.startswith("rollout_0.mem: failed; 40 steps (0.8 s)\n    left_gripper (gripper)")
    assert "not known in 1 of them: which stage was late, chunks, holds" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["diagnose.json", "rollout_0.diagnose.png"]


def test_statistics_are_found_by_name_by_place_and_as_published(run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best"
    moved = run / "clean" / "episode_0.hdf5"
    for named, ckpt in ((str(best), None), ("gone/checkpoints/best", None), ("", run), ("", best)):
        assert find_training(named, moved, ckpt)["images/top"].count == 60
    rows = motion(np.arange(60))
    stats = {f"{key}_{name}": getattr(rows, name)(0) for key in ("qpos", "action") for name in ("mean", "std")}
    (tmp_path / "dataset_stats.pkl").write_bytes(pickle.dumps(stats))
    (tmp_path / "policy_best.ckpt").touch()
    published = find_training(str(tmp_path / "policy_best.ckpt"), Path("episode_0.hdf5"))
    np.testing.assert_allclose(published["qpos"].mean, rows.mean(0), atol=1e-6)
    assert np.isnan(published["qpos"].min).all()


def test_a_renamed_camera_is_compared_with_the_policys(dark: Path, run: Path, tmp_path: Path) -> None:
    """A rollout with `--rename cam_high=top`: its camera is top, the statistics' is cam_high."""
    shutil.copytree(dark, tmp_path / "out")
    report = json.loads((tmp_path / "out/deploy.json").read_text())
    (tmp_path / "out/deploy.json").write_text(json.dumps({**report, "rename": {"cam_high": "top"}}))
    (tmp_path / "best").mkdir()
    statistics = (run / "checkpoints/best/statistics.json").read_text()
    assert "/top" in statistics
    (tmp_path / "best/statistics.json").write_text(statistics.replace("/top", "/cam_high"))
    evidence = gather(tmp_path / "out/episode_0.hdf5", tmp_path / "best")
    assert list(evidence.camera_statistics) == ["cam_high"]
    checks = [cause.finding.subject for cause in diagnose(evidence).causes]
    assert any("cam_high" in subject for subject in checks)

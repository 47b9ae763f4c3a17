"""The real commands: a handful of small images, a training that is interrupted, a policy that cannot do much yet."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from aloha_kit.config.policies import ActConfig
from aloha_kit.reproduce.__main__ import main
from aloha_kit.reproduce.result import read
from tests.tiny import ACT

TINY: dict[str, Any] = {
    "device": "cpu",
    "target": {"success": 0.5},
    "record": {"num_episodes": 2, "image_size": [16, 24]},
    "train": {
        "policy": "act", "num_steps": 200, "batch_size": 2, "val_every": 20, "val_batches": 1, "val_fraction": 0.5,
        **{name: value for name, value in dataclasses.asdict(ACT).items() if value != getattr(ActConfig(), name)},
        "chunk_size": 100, "augment": False, "threads": 1,
    },
    "tasks": {"transfer_cube": {"train": {"lr": 1.0e-3}}},
}  # fmt: skip


def test_interrupted_in_its_training_and_gone_on_with(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    out = tmp_path / "out"
    command = ["transfer_cube", "--preset", f"{tmp_path}/tiny.yaml", "--num_rollouts", "3", "--output", f"{out}"]
    last = out / "seed_0" / "policy" / "checkpoints" / "last" / "extra.json"

    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(0.02):
            if last.exists():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return

    other = threading.Thread(target=interrupt)
    other.start()
    try:
        with pytest.raises(SystemExit) as ended:
            main(command)
    finally:
        over.set()
        other.join()
    assert ended.value.code == 143
    assert capfd.readouterr().err.endswith(f"Go on with:\npython -m aloha_kit.reproduce {' '.join(command)}\n")
    stopped = json.loads(last.read_text())["step"]
    assert 20 <= stopped < 200
    episodes = {file: file.stat().st_mtime_ns for file in (out / "episodes").glob("*.hdf5")}
    assert len(episodes) == 2

    main(command)
    printed, log = capfd.readouterr()
    assert re.search(r" == 1/4 record: done\n\S+ == 2/4 validate: done\n", log)
    assert f"$ python -m aloha_kit.train --resume {out}/seed_0/policy\n" in log
    assert json.loads(last.read_text())["step"] == 200
    assert {file: file.stat().st_mtime_ns for file in episodes} == episodes
    with (last.parents[2] / "metrics.csv").open() as file:
        assert int(file.readlines()[-1].split(",")[0]) == 200
    result = read(out / "reproduce.json")
    attempts = [("record", 0), ("validate", 0), ("train", 143), ("train", 0), ("eval", 0)]  # 143: stopped by SIGTERM
    assert [(a.stage, a.status) for a in result.attempts] == attempts
    (file,) = (out / "seed_0" / "eval").glob("eval*.json")
    (found,) = json.loads(file.read_text())["checkpoints"]
    (seed,) = result.seeds
    assert [seed.held.successes, seed.held.trials] == [found["success"]["successes"], 3]
    assert [rollout["seed"] for rollout in found["rollouts"]] == [100_000, 100_001, 100_002]
    assert found["chunk_size"] == 100
    assert "| together |" in printed

    main(command)
    assert "== 4/4 eval, seed 0: done\n" in capfd.readouterr().err

    # another preset on the same demonstrations, which stay where they are
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**TINY, "train": {**TINY["train"], "num_steps": 20}}))
    second = tmp_path / "second"
    flags = ["--episodes", f"{out}/episodes", "--num_rollouts", "1", "--seeds", "1", "--output", f"{second}"]
    main(["transfer_cube", "--preset", f"{tmp_path}/other.yaml", *flags])
    shared = read(second / "reproduce.json")
    assert [(a.stage, a.seed, a.status) for a in shared.attempts] == [
        ("validate", None, 0), ("train", 1, 0), ("eval", 1, 0),
    ]  # fmt: skip
    assert not (second / "episodes").exists()
    assert {file: file.stat().st_mtime_ns for file in (out / "episodes").glob("*.hdf5")} == episodes
    assert f"Demonstrations of '{out}/episodes', recorded before: the time of" in capfd.readouterr().out

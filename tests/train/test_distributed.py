"""Real processes that train together, on the CPU."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.core import ConfigError
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.policies import checkpoint
from aloha_kit.train.__main__ import main
from aloha_kit.train.device import own_device
from aloha_kit.train.launch import ALONE, launched, Rank
from tests.commands import failure
from tests.synthetic import write_dataset
from tests.train.test_step import QUIET

ROOT = Path(__file__).parents[2]
QUIET_COMMAND = str(Path(__file__).parent / "quiet.py")


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Of a short run without dropout, whose schedule does not depend on its length; the data is in tmp_path/data."""
    write_dataset(tmp_path / "data", lengths=(30, 41, 25, 33), cameras={"top": (24, 32)})
    (tmp_path / "quiet.yaml").write_text(yaml.safe_dump({"kind": "act", **to_mapping(QUIET)}))
    given = {
        "policy": tmp_path / "quiet.yaml",
        "dataset_dir": tmp_path / "data",
        "batch_size": 8,
        "lr": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema": 0.9,
        "val_every": 3,
        "threads": 1,
        "device": "cpu",
        "workers": 1,
    }
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


@pytest.fixture(autouse=True)
def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process as in quiet.py."""
    monkeypatch.setattr(torch, "randn_like", lambda mean: mean * 0)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def by_hand(*flags: str, after: str) -> list[tuple[int, str, str]]:
    """Run the command in two processes, as a launcher would; exit status, output and errors of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, QUIET_COMMAND, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**meeting, RANK=str(rank), LOCAL_RANK=str(rank), AFTER=after),
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(running, printed, strict=True)]


def by_torchrun(*flags: str, after: str) -> tuple[str, str]:
    """The same by torchrun, which is interrupted on the way: output and errors."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", QUIET_COMMAND]
    done = subprocess.run(
        [*launcher, *flags], capture_output=True, text=True, timeout=240, check=False, env=environment(AFTER=after)
    )
    return done.stdout, done.stderr


def rows(run: Path) -> list[dict[str, float]]:
    """The log without times."""
    return [
        {key: value for key, value in row.items() if key not in {"seconds", "data_ms", "step_ms"}}
        for row in read_metrics(run / "metrics.csv")
    ]


def alike(run: Path, straight: Path, *, losses: list[int], validations: list[int]) -> None:
    """Two logs agree but for rounding, at the steps that they should have."""
    steps = {"loss": losses, "val_loss": validations}
    expected = [row for row in rows(straight) for key, at in steps.items() if key in row and row["step"] in at]
    assert {"loss", "l1", "kl", "grad_norm"} <= set(expected[0])
    assert {"val_loss", "val_deployed"} <= set(expected[1])
    assert rows(run) == [{key: pytest.approx(value, rel=1e-3) for key, value in row.items()} for row in expected]
    for key, at in steps.items():
        assert [row["step"] for row in expected if key in row] == at


def test_two_processes_train_like_one_and_one_goes_on(tmp_path: Path, flags: list[str]) -> None:
    """Ctrl-C on the launcher, which passes it on, saves and stops."""
    one, two = tmp_path / "one", tmp_path / "two"
    main([*flags, "--no_preflight", "--ckpt_dir", str(one), "--num_steps", "9"])
    out, error = by_torchrun(
        *flags, "--ckpt_dir", str(two), "--num_steps", "1000", "--accumulate", "2", after="interrupt 0 6"
    )
    assert out.count("Preflight: GO") == 1
    assert "on 2 x cpu; 1000 steps of 8" in error
    for printed in (
        "episodes to train on",
        "SIGINT: saving after this step",
        "stopped by SIGINT: 6 of 1000 steps",
    ):
        assert error.count(printed) == 1, "only the first process reports"
    assert "error in process" not in error
    assert checkpoint.notes(two / "checkpoints" / "last")["step"] == 6
    main(["--resume", str(two), "--num_steps", "9", "--accumulate", "1"])
    alike(two, one, losses=[3, 6, 9], validations=[3, 9])  # stopping does not validate
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


def test_two_go_on_from_one_and_an_error_ends_both(tmp_path: Path, flags: list[str]) -> None:
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    main([*flags, "--no_preflight", "--ckpt_dir", str(straight), "--num_steps", "9"])
    main([*flags, "--no_preflight", "--ckpt_dir", str(halves), "--num_steps", "3"])
    ends = by_hand("--resume", str(halves), "--num_steps", "1000", after="fail 1 8")
    assert [status for status, _, _ in ends] == [1, 1]
    assert ends[1][2].endswith("error in process 1 of 2: a cable was pulled\n")
    assert "error in process" not in ends[0][2], "the echo of another's error"
    assert "Traceback" not in ends[0][2] + ends[1][2]
    alike(halves, straight, losses=[3, 6], validations=[3, 6])
    weights = [checkpoint.load(run / "checkpoints" / "last").state_dict() for run in (straight, halves)]
    assert checkpoint.notes(halves / "checkpoints" / "last")["step"] == 6
    assert set(weights[1]) == set(weights[0])


@pytest.fixture
def third_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("third_of_three")
def test_a_batch_that_cannot_be_shared_is_refused(flags: list[str]) -> None:
    assert launched() == Rank(rank=2, size=3, local_rank=0)
    refused = (
        "--batch_size 8 is the batch of all processes together, and 3 with --accumulate 1 cannot divide it evenly; "
        "take 6 or 9"
    )
    assert failure(main, flags) == f"error: {refused}\n"
    refused = failure(main, [*flags, "--accumulate", "4"])
    assert refused.endswith("and 3 with --accumulate 4 cannot divide it evenly; take 12\n")


@pytest.mark.usefixtures("third_of_three")
def test_statistics_of_a_whole_batch_cannot_be_had_from_its_parts(flags: list[str]) -> None:
    refused = failure(main, [*flags, "--batch_size", "12", "--accumulate", "2", "--backbone_norm", "batch"])
    assert re.search(r"backbone_norm batch .* 3 processes .* into 6 pieces; use --backbone_norm frozen", refused)


def test_an_incomplete_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"do not give the rank of this process \('RANK'\); start them with torchrun"):
        launched()


def test_what_all_find_out_is_reported_by_the_first_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("aloha_kit.train.launch.time.sleep", slept.append)

    def find_out() -> None:
        print("reported")
        raise ConfigError("wrong")

    with pytest.raises(SystemExit) as end, Rank(5, 8, 1).rank0_only():
        find_out()
    assert (end.value.code, capsys.readouterr().out) == (1, "")
    assert slept == [5.0], "the one that speaks ends first"
    with pytest.raises(ConfigError, match="wrong"), Rank(4, 8, 0).rank0_only():
        find_out()
    assert capsys.readouterr().out == "reported\n"


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cuda:1", ALONE) == "cuda:1"
    assert own_device("cpu", Rank(1, 2, 1)) == "cpu"
    assert own_device("cuda", Rank(3, 4, 1)) == "cuda:1"
    with pytest.raises(ConfigError, match=r"would take cuda:2, and there are 2 GPUs; start at most one"):
        own_device("cuda", Rank(2, 4, 2))
    with pytest.raises(ConfigError, match=r"--device cuda:0 cannot be shared by 2 processes; give cuda, cpu or auto"):
        own_device("cuda:0", Rank(0, 2, 0))

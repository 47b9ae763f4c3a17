"""`benchmarks/on_gpu.sh` without a GPU: its plan, its time limits, and two of its steps in tiny sizes on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import on_gpu  # noqa: E402
from on_gpu import Step  # noqa: E402


def script(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["sh", f"benchmarks/{name}", *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_plan_has_every_step_with_its_limit_and_runs_nothing(tmp_path: Path) -> None:
    result = tmp_path / "gpu.md"
    done = script("on_gpu.sh", "--dry-run", "--output", str(result))
    assert done.returncode == 0, done.stderr
    steps = [line.split(", at most ")[0] for line in done.stdout.splitlines() if line.startswith("== ")]
    assert steps == [
        "== smoke: episodes",
        "== smoke: training",
        "== smoke: bf16 and frames in device memory",
        "== smoke: fp16",
        "== smoke: compiled",
        "== smoke: inference as a CUDA graph",
        "== latency of one inference",
        "== training step",
        "== training end to end: episodes",
        "== training end to end",
        "== reproduce transfer_cube",
    ]
    assert "--cameras 4 --size 480 640" in done.stdout
    assert not result.exists()


def test_a_machine_without_a_gpu_is_reported_and_writes_no_figures(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "benchmarks/on_gpu.py", "--output", str(tmp_path / "gpu.md")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: device 'cuda' cannot be used: ")
    assert not (tmp_path / "gpu.md").exists()


def test_figures_of_a_cpu_never_stand_in_the_file_of_a_gpu() -> None:
    done = script("on_gpu.sh", "--device", "cpu", "--tiny")
    assert done.returncode == 2
    assert "gpu.md holds figures of a GPU only" in done.stderr


def test_a_step_that_fails_and_one_that_hangs_are_written_down_with_what_they_printed(tmp_path: Path) -> None:
    marks = tmp_path / "child"
    child = f"import time; time.sleep(3); open({str(marks)!r}, 'w')"
    hang = (
        "import subprocess, sys, time; print('| first row |', flush=True)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    steps = [
        Step("fails", (sys.executable, "-c", "import sys; sys.exit('no | such card')"), 60.0),
        Step("hangs", (sys.executable, "-c", hang), 2.0, table=True),
        Step("works", (sys.executable, "-c", "print('| second row |')"), 60.0, table=True),
        Step("missing", ("/nonexistent/python",), 60.0),
    ]
    results = [on_gpu.run(step, step.limit_s) for step in steps]
    assert [result.outcome for result in results[:3]] == [
        "failed with status 1: no | such card",
        "over its limit of 2 s",
        "ok",
    ]
    assert results[3].outcome.startswith("failed: ")
    assert results[1].printed == "| first row |"
    lines = on_gpu.document("# a card", results, [Step("later", (), 5.0)]).splitlines()
    assert any(line.startswith("| fails | failed with status 1: no / such card | ") for line in lines)
    assert "| first row |" in lines
    assert "| second row |" in lines
    assert "| later | not reached | – | 5 |" in lines
    time.sleep(2)
    assert not marks.exists(), "a process of the ended step went on"


def test_no_step_begins_without_time_left() -> None:
    step = Step("late", (sys.executable, "-c", "raise SystemExit(9)"), 60.0)
    assert on_gpu.run(step, 5.0).outcome == "not run: no time left"


def test_training_and_latency_run_in_tiny_sizes_on_the_cpu(tmp_path: Path) -> None:
    result = tmp_path / "cpu.md"
    done = script(
        "on_gpu.sh",
        "--device",
        "cpu",
        "--tiny",
        "--output",
        str(result),
        "--only",
        "episodes",
        "smoke: training",
        "latency",
    )
    assert done.returncode == 0, done.stderr
    text = result.read_text(encoding="utf-8")
    assert text.startswith("# no GPU: the script tried on a CPU\n")
    rows = {line.split(" | ")[0]: line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ")}
    for name in ("smoke: episodes", "smoke: training", "latency of one inference", "training end to end: episodes"):
        assert rows[f"| {name}"] == "ok", text
    for name in ("LeRobot's ACT rebuilt, network alone", "aloha_kit, eager fp32", "aloha_kit, eager bf16"):
        assert float(rows[f"| {name}"]) > 0, text


def test_goals_are_of_the_best_of_ours_in_each_precision() -> None:
    import inference_latency

    reported = inference_latency.goals(
        {
            "LeRobot's ACT rebuilt, network alone": [0.001] * 10,
            "aloha_kit, eager fp32": [0.012] * 10,
            "aloha_kit, compile fp32": [0.009] * 10,
            "aloha_kit, eager bf16": [0.0021] * 10,
        }
    )
    assert reported.splitlines() == [
        "p99 under 10 ms in fp32: met, and the aim of 3 ms not (aloha_kit, compile fp32: 9.00 ms).",
        "p99 under 5 ms in bf16: met, and the aim of 3 ms too (aloha_kit, eager bf16: 2.10 ms).",
    ]

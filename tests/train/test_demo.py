"""The demo's script with a stand-in for `python`: real processes, real signals, no robot's work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.waiting import until

Start: TypeAlias = "Callable[[], subprocess.Popen[str]]"
SCRIPT = Path(__file__).parents[2] / "train" / "demo.sh"
STAGES = ["record", "episode", "train", "eval", "deploy", "replay", "report"]

# Writes its words to `calls`. Where a file of its name holds "wait", it works until Ctrl-C, saves, and ends with 130.
STAND_IN = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
here = Path({here!r})
words = sys.argv[2:]
application = words[0].removeprefix("aloha_kit.")
with (here / "calls").open("a") as calls:
    print(*words, file=calls)


def save(run, step):
    (run / "checkpoints" / "last").mkdir(parents=True, exist_ok=True)
    text = json.dumps({{"best": 0.5, "step": step, "task": "t"}}, indent=2)
    (run / "checkpoints" / "last" / "extra.json").write_text(text)


if application == "train" and "--ckpt_dir" in words:
    run = Path(words[words.index("--ckpt_dir") + 1])
    run.mkdir()
    (run / "config.yaml").write_text("training:\\n  num_steps: 4000\\n")
    if not (here / "no_checkpoint").exists():
        save(run, 1500)
if application == "train" and "--resume" in words:
    save(Path(words[words.index("--resume") + 1]), 4000)
if application in ("eval", "deploy"):
    Path(words[words.index("--output") + 1]).mkdir()  # fails where something is left of the time before
how = here / application
if how.exists():
    kind = how.read_text()
    how.unlink()
    if kind == "fail":
        sys.exit(1)
    received = []
    signal.signal(signal.SIGINT, lambda *_: received.append(1))
    (here / "working").touch()
    end = time.monotonic() + 60
    while not received and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    (here / "saved").touch()
    sys.exit(130)
"""


@pytest.fixture
def demo(tmp_path: Path) -> Start:
    """Starts the demo in tmp_path/out, in a process group of its own, as a terminal does."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(STAND_IN.format(python=sys.executable, here=str(tmp_path)))
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", str(SCRIPT), str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    return start


def calls(folder: Path) -> list[str]:
    """The applications that ran since the last look."""
    file = folder / "calls"
    found = [line.split()[0].removeprefix("aloha_kit.") for line in file.read_text().splitlines()]
    file.unlink()
    return found


def stages(folder: Path) -> list[str]:
    return [line.split(",")[0] for line in (folder / "out" / "stages.csv").read_text().splitlines()[1:]]


def test_all_stages_run_once(tmp_path: Path, demo: Start) -> None:
    first = demo()
    assert first.communicate(timeout=60)[1] == ""
    assert first.returncode == 0
    assert calls(tmp_path) == STAGES
    again = demo()
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, calls(tmp_path)) == (0, ["report"])
    assert "== train: finished before, not repeated" in out


@pytest.mark.parametrize(
    ("application", "stage"),
    [("record", "record"), ("train", "train"), ("eval", "evaluate"), ("deploy", "deploy")],
)
def test_ctrl_c_stops_the_demo_and_the_same_command_goes_on(
    tmp_path: Path, demo: Start, application: str, stage: str
) -> None:
    (tmp_path / application).write_text("wait")
    running = demo()
    until((tmp_path / "working").exists, "the stage works", 60.0)
    os.killpg(running.pid, signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert (tmp_path / "saved").exists(), "the script ended before its command"
    assert running.returncode == 130
    assert f"demo: stopped in stage '{stage}'; finished stages and saved work are kept in '{tmp_path}/out'" in error
    place = STAGES.index(application)
    assert calls(tmp_path) == STAGES[: place + 1], "the next stage was started"
    assert stages(tmp_path)[-1] == f"{stage} (interrupted)"
    second = demo()
    assert second.communicate(timeout=60)[1] == ""
    if stage == "train":
        assert f"aloha_kit.train --resume {tmp_path}/out/policy\n" in (tmp_path / "calls").read_text()
    assert (second.returncode, calls(tmp_path)) == (0, STAGES[place:])
    assert stages(tmp_path).count(f"{stage} (interrupted)") == 1


@pytest.mark.parametrize(
    ("before", "called"),
    [
        ("at the last checkpoint", ["eval", "deploy", "replay", "report"]),
        ("at another checkpoint", ["train", "eval", "deploy", "replay", "report"]),
        ("before the first checkpoint", ["train", "eval", "deploy", "replay", "report"]),
    ],
)
def test_the_demo_goes_on_after_a_training_was_killed(
    tmp_path: Path, demo: Start, before: str, called: list[str]
) -> None:
    if before == "before the first checkpoint":
        (tmp_path / "no_checkpoint").touch()
    (tmp_path / "train").write_text("wait")
    running = demo()
    until((tmp_path / "working").exists, "the stage works", 60.0)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(timeout=60)
    assert stages(tmp_path) == ["record", "validate"]
    assert calls(tmp_path) == STAGES[:3]
    if before == "at the last checkpoint":
        last = tmp_path / "out/policy/checkpoints/last/extra.json"
        last.write_text(last.read_text().replace("1500", "4000"))
    second = demo()
    assert second.communicate(timeout=60)[1] == ""
    words = (tmp_path / "calls").read_text()
    assert (second.returncode, calls(tmp_path)) == (0, called)
    assert (f"aloha_kit.train --resume {tmp_path}/out/policy\n" in words) == (before == "at another checkpoint")
    assert stages(tmp_path) == ["record", "validate", "train", "evaluate", "deploy", "replay"]


def test_a_stage_that_fails_ends_the_demo_with_its_status(tmp_path: Path, demo: Start) -> None:
    (tmp_path / "episode").write_text("fail")
    failed = demo()
    assert "demo: stage 'validate' failed with status 1" in failed.communicate(timeout=60)[1]
    assert (failed.returncode, calls(tmp_path)) == (1, ["record", "episode"])
    assert demo().wait(timeout=60) == 0
    assert calls(tmp_path) == STAGES[1:]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, demo: Start) -> None:
    (tmp_path / "out").mkdir()
    refused = demo()
    assert "exists and is not a demo's folder; choose another one with: make demo DEMO=" in refused.communicate()[1]
    assert refused.returncode == 2
    assert not list((tmp_path / "out").iterdir())

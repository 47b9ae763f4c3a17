"""The page shows the numbers that the applications wrote, and names what is missing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from aloha_kit import __version__
from aloha_kit.core import ConfigError
from aloha_kit.report.__main__ import main
from aloha_kit.report.page import build
from tests.commands import failure
from tests.storage.recording import record

DEPLOY = {
    "task": {"instruction": "Hand <it> over.", "episode_len": 400, "rate_hz": 50.0},
    "execution": {"temporal_agg": True, "horizon": 1},
    "policy": {"kind": "act"},
    "checkpoint": "runs/old/checkpoints/best",
    "seeds": [100000, 100009],
    "success": {"successes": 7, "trials": 10, "rate": 0.7, "wilson95": [0.397, 0.892]},
    "success_any_time": {"successes": 8, "trials": 10, "rate": 0.8, "wilson95": [0.49, 0.943]},
    "max_reward_histogram": {"2": 2, "4": 8},
    "latency": {
        "period_ms": 20.0,
        "steps": 4000,
        "missed": 3,
        "stages": {"network": {"p50": 5.25, "p99": 9.5, "max": 31.0, "count": 4000}},
    },
}


EVALUATION: dict[str, Any] = {
    "task": {"instruction": "Hand <it> over.", "episode_len": 400, "rate_hz": 50.0},
    "execution": {"temporal_agg": False},
    "seeds": [100000, 100099],
    "checkpoints": [
        {
            "checkpoint": "runs/<new>/checkpoints/best",
            "policy": {"kind": "act"},
            "n_action_steps": 50,
            "success": {"successes": 91, "trials": 100, "rate": 0.91, "wilson95": [0.838, 0.952]},
            "success_any_time": {"successes": 94, "trials": 100, "rate": 0.94, "wilson95": [0.875, 0.972]},
            "max_reward_histogram": {"2": 6, "4": 94},
        }
    ],
}


def results(folder: Path) -> Path:
    (folder / "rollouts").mkdir(parents=True)
    (folder / "rollouts" / "deploy.json").write_text(json.dumps(DEPLOY))
    (folder / "rollouts" / "episode_0.mp4").write_bytes(b"film")
    (folder / "policy").mkdir()
    (folder / "policy" / "metrics.csv").write_text("step,seconds,loss\n100,5,1\n2000,321.5,0.1\n2000,,\n")
    (folder / "policy" / "loss.png").write_bytes(b"curve")
    (folder / "policy" / "config.yaml").write_text("task: sim_transfer_cube\npolicy: act_cpu\n")
    (folder / "stages.csv").write_text("stage,seconds\nrecord,60\ntrain,330\n")
    return folder


def test_every_number_on_the_page_is_one_that_was_written(tmp_path: Path) -> None:
    page = build(results(tmp_path))
    for expected in (
        "70%</span> success: 7 of 10 rollouts",
        "interval 40% to 89%",
        "any time: 8 of 10",
        "Hand &lt;it&gt; over.",
        "<td>network</td><td>5.25</td><td>9.50</td><td>31.00</td>",
        "3 of 4000 steps took longer than 20 ms",
        "2000 optimiser steps in 322 s",
        "<td>together</td><td>390 s</td>",
        "data:video/mp4;base64,ZmlsbQ==",
        "data:image/png;base64,Y3VydmU=",
        f"<code>python -m aloha_kit.eval --ckpt {tmp_path}/policy --task sim_transfer_cube</code>",
    ):
        assert expected in page
    assert "Deployed" not in page


def test_success_is_the_evaluation_s_where_there_is_one(tmp_path: Path) -> None:
    folder = results(tmp_path)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "eval.json").write_text(json.dumps(EVALUATION))
    page = build(folder)
    for expected in (
        "91%</span> success: 91 of 100 rollouts",
        "interval 84% to 95%",
        "any time: 94 of 100",
        "ACT with chunks of 50, 400 steps at 50 Hz, seeds 100000 to 100099. ",
        "<code>runs/&lt;new&gt;/checkpoints/best</code>",
        "<p>Seeds 100000 to 100009, recorded as episodes, 7 with success.</p>",
        "data:video/mp4;base64,ZmlsbQ==",
        "<td>network</td><td>5.25</td><td>9.50</td><td>31.00</td>",
    ):
        assert expected in page
    assert "70%" not in page
    (folder / "evaluation" / "eval.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"eval\.json' is missing or damaged: it lacks 'checkpoints'"):
        build(folder)


def test_an_evaluation_of_several_tasks_and_checkpoints_is_shown_whole(tmp_path: Path) -> None:
    best = EVALUATION["checkpoints"][0]
    interrupted = {**best, "checkpoint": "runs/late", "success": None, "success_any_time": None}
    worse = {**best, "checkpoint": "runs/worse", "success": {**best["success"], "successes": 12, "rate": 0.12}}
    tasks = {
        "one": {"task": EVALUATION["task"], "checkpoints": [best, worse]},
        "two": {"task": {**EVALUATION["task"], "instruction": "Insert it."}, "checkpoints": [best, interrupted]},
    }
    (tmp_path / "evaluation").mkdir()
    several = {"execution": EVALUATION["execution"], "seeds": EVALUATION["seeds"], "tasks": tasks}
    (tmp_path / "evaluation" / "eval.json").write_text(json.dumps(several))
    page = build(tmp_path)
    assert [page.count(f"success: {n} of 100 rollouts") for n in (91, 12)] == [2, 1]
    assert page.count("Hand &lt;it&gt; over.") == 2
    assert page.count("Insert it.") == 1
    assert "runs/worse" in page
    assert "runs/late" not in page


def test_the_machine_and_the_version_stand_on_the_page(tmp_path: Path) -> None:
    page = build(results(tmp_path))
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    assert f"aloha_kit {__version__}" in page
    assert f"{os.cpu_count()} core" in page
    assert f"{memory_kb / 2**20:.0f} GiB of memory" in page


def test_in_simulated_time_no_step_is_late(tmp_path: Path) -> None:
    file = results(tmp_path) / "rollouts" / "deploy.json"
    file.write_text(json.dumps({**DEPLOY, "latency": {**DEPLOY["latency"], "missed": None}}))  # type: ignore[dict-item]
    page = build(tmp_path)
    assert "4000 steps in simulated time" in page
    assert "took longer" not in page


def test_stages_that_did_not_run_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "stages.csv").write_text("stage,seconds\nrecord,60\n")
    page = build(tmp_path)
    assert "Where the time went" in page
    assert "The policy's rollouts" not in page
    assert "Training" not in page
    assert "What next" not in page


def test_a_folder_without_results_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"holds no results; expected some of episodes/.*found: notes\.txt"):
        build(tmp_path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(results(tmp_path / "有 空格"))])
    page = tmp_path / "有 空格" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert fail(tmp_path / "nowhere").endswith("found: nothing")
    assert fail(tmp_path / "有 空格", "--output", page / "page.html") == (
        f"error: '{page}' cannot be a folder: a file of that name is in the way"
    )
    assert fail(tmp_path / "有 空格", "--output", tmp_path) == f"error: cannot write '{tmp_path}': Is a directory"
    assert not list(tmp_path.parent.glob(".*.part"))


def fail(*argv: object) -> str:
    return failure(lambda *words: main([str(word) for word in words]), *argv)


def test_an_interruption_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("aloha_kit.report.app.build", interrupted)
    assert fail(tmp_path) == "130"
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("rollouts/deploy.json", "{", "Expecting property name"),
        ("rollouts/deploy.json", "[]", "list indices"),
        ("rollouts/deploy.json", '{"success": null}', "it lacks 'success_any_time'"),
        ("stages.csv", "stage\nrecord\n", "it lacks 'seconds'"),
        ("stages.csv", "stage,seconds\nrecord,long\n", "could not convert string to float: 'long'"),
        ("policy/metrics.csv", None, "No such file or directory"),
        ("policy/metrics.csv", "step,seconds\n", "list index out of range"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str | None, why: str) -> None:
    broken = results(tmp_path) / file
    if content is None:
        broken.unlink()
    else:
        broken.write_text(content)
    text = fail(tmp_path)
    assert text.startswith(f"error: '{broken}' is missing or damaged: ")
    assert why in text


@pytest.mark.parametrize(
    ("seed", "printed"),
    [(5, ", which no demonstration used."), (100_003, ", 1 of them used by demonstrations."), (None, " to 100009.")],
)
def test_the_seeds_on_the_page_come_from_the_demonstrations(tmp_path: Path, seed: int | None, printed: str) -> None:
    results(tmp_path)
    record(tmp_path / "episodes", 3, describe={"seed": seed} if seed else {})
    page = build(tmp_path)
    assert printed in page
    assert "<p>1 episode, " in page

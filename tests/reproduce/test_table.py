"""Numbers in the tables, worked out apart from the code that writes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from aloha_kit.config import to_mapping
from aloha_kit.core import ConfigError
from aloha_kit.core.files import write_json
from aloha_kit.core.lang import language
from aloha_kit.core.machine import CHECKOUT
from aloha_kit.reproduce.machine import describe_machine, gpu_of
from aloha_kit.reproduce.preset import Preset, RecordingFlags, Target
from aloha_kit.reproduce.result import (
    Attempt,
    new_result,
    read,
    Result,
    seed_result,
    SuccessRate,
    summarise,
    Surroundings,
)
from aloha_kit.reproduce.table import BEGIN, details, END, overview, publish, READMES, ROWS, table

HERE = Surroundings({"aloha_kit": "9.9", "torch": "2.0"}, "Some CPU", 2, "cpu", None, "abc123")
PRESET = Preset("cpu", Target(0.9, 12), RecordingFlags(80, (96, 128)), {"policy": "act_cpu", "num_steps": 1234})
SECONDS = {("record", None): 68, ("validate", None): 4, ("train", 0): 350, ("eval", 0): 26, ("train", 4): 610}


def report(successes: int, any_time: int, trials: int) -> dict[str, object]:
    rates = {"success": successes, "success_any_time": any_time}
    return {"checkpoints": [{key: {"successes": n, "trials": trials} for key, n in rates.items()}]}


def result(minutes: float | None = 12) -> Result:
    """196 and 172 of 200 in two seeds; the second's evaluation was interrupted once."""
    times = [*SECONDS.items(), (("eval", 4), 10), (("eval", 4), 20)]
    attempts = tuple(Attempt(stage, f"do {stage} {seed}", "now", 0, seed, s, 0) for (stage, seed), s in times)
    made = replace(new_result("transfer_cube", "cpu", PRESET), surroundings=(HERE,), attempts=attempts)
    seeds = seed_result(made, 0, report(196, 198, 200)), seed_result(made, 4, report(172, 180, 200))
    made = replace(made, seeds=seeds)
    return replace(made, summary=summarise(made, Target(0.9, minutes)))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Roots of (p - s)² = z² p (1 - p) / n, Wilson's equation, in p."""
    z2 = 1.959963984540054**2 / trials
    share = successes / trials
    a, b, c = 1 + z2, -(2 * share + z2), share * share
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("successes", "trials"), [(196, 200), (172, 200), (368, 400), (1, 3)])
def test_intervals(successes: int, trials: int) -> None:
    found = SuccessRate.of(successes, trials)
    assert found.wilson95 == pytest.approx(wilson(successes, trials))
    scipys = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert found.wilson95 == pytest.approx((scipys.low, scipys.high))


def test_the_seeds_together() -> None:
    summary = result().summary
    assert summary is not None
    assert (summary.held.successes, summary.held.trials, summary.held.rate) == (368, 400, 0.92)
    assert summary.held.wilson95 == pytest.approx(wilson(368, 400))
    assert (summary.any_time.successes, summary.any_time.rate) == (378, 0.945)
    assert (summary.lowest, summary.highest) == (0.86, 0.98)
    assert summary.deviation == pytest.approx(0.12 / math.sqrt(2))  # of two values: their distance over √2
    assert (summary.record.seconds, summary.one_seed.seconds) == (72, 72 + 610 + 30)
    assert (summary.success_reached, summary.time_kept) == (True, True)


def test_the_target_is_of_all_seeds_and_of_the_slowest() -> None:
    made = result(minutes=712 / 60 - 0.01)
    assert made.summary is not None
    assert made.summary.time_kept is False
    assert "Met: no (time)." in details(made)
    low = summarise(made, Target(0.9201))
    assert low is not None
    assert (low.success_reached, low.time_kept) == (False, None)
    assert "Met: no (success rate)." in details(replace(made, summary=low))
    alone = summarise(replace(made, seeds=made.seeds[:1]), Target(0.98, 12))
    assert alone is not None
    assert (alone.success_reached, alone.deviation, alone.one_seed.seconds) == (True, None, 72 + 350 + 26)
    assert summarise(replace(made, seeds=()), Target(0.9, 12)) is None


def test_coverage_of_push_t() -> None:
    preset = Preset("cpu", Target(minutes=60, coverage=0.7), PRESET.record, PRESET.train, published="coverage 0.9")
    made, found = new_result("pusht_state", "pusht_bc", preset), []
    rewards = [[0.2, 1.0, 0.6], [1.0, 0.9]]
    for seed, each in enumerate(rewards):
        (checkpoint,) = report(1, 1, len(each))["checkpoints"]
        found.append(
            seed_result(made, seed, {"checkpoints": [{**checkpoint, "rollouts": [{"max_reward": r} for r in each]}]})
        )
    made = replace(made, seeds=tuple(found))
    summary = summarise(made, preset.target)
    assert summary is not None
    assert (summary.success_reached, summary.coverage_reached) == (True, True)  # 0.74
    assert summary.coverage is not None
    values = np.concatenate(rewards)
    assert (summary.coverage.mean, summary.coverage.deviation) == pytest.approx((values.mean(), values.std()))
    half = 1.96 * values.std() / math.sqrt(5)
    assert summary.coverage.interval() == pytest.approx((0.74 - half, 1.0))  # coverage is at most 1
    row = overview([replace(made, summary=summary)]).splitlines()[2]
    assert f"| 0.740 ({0.74 - half:.3f} to 1.000) | coverage 0.9 | 0 s | coverage 0.7 in 60 min | yes |" in row
    low = summarise(made, Target(0.5, None, 0.75))
    assert low is not None
    text = details(replace(made, summary=low))
    assert "Met: no (success rate, coverage)." in text
    assert "- Published: coverage 0.9." in text


def test_the_table_of_one_result() -> None:
    assert details(result()) == "\n".join([
        "### transfer cube, preset `cpu`",
        "",
        "| seed | success, held to the end | 95 % Wilson interval | at any time | train | eval |",
        "|---|---|---|---|---|---|",
        "| 0 | 196/200 = 98.0% | 95.0 to 99.2% | 198/200 = 99.0% | 5 min 50 s | 26 s |",
        "| 4 | 172/200 = 86.0% | 80.5 to 90.1% | 180/200 = 90.0% | 10 min 10 s | 30 s |",
        "| together | 368/400 = 92.0% | 88.9 to 94.3% | 378/400 = 94.5% |  |  |",
        "",
        "- Target: 90% in 12 min. Met: yes.",
        "- Between seeds: 86.0% to 98.0%, standard deviation 8.5 points. Their common interval covers the "
        "start states, not the seeds.",
        "- Published by ACT's authors: about 90%, a touch at any time counted.",
        "- From 80 at 96x128; `act_cpu`, 1,234 steps of 32.",
        "- Recorded and validated in 1 min 12 s; with one seed, all stages took 11 min 52 s.",
        "- On Some CPU, 2 cores, no GPU used; aloha_kit 9.9, torch 2.0; commit abc123.",
        "",
        "```",
        "do record None", "do validate None", "do train 0", "do eval 0", "do train 4", "do eval 4",
        "```",
    ])  # fmt: skip


def test_a_result_before_its_first_evaluation() -> None:
    assert "No policy has been evaluated yet." in details(new_result("insertion", "cpu", PRESET))


def test_the_table_of_several_marks_what_was_not_run() -> None:
    rows = overview([result(), new_result("insertion", "fast", replace(PRESET, target=Target(0.5)))]).splitlines()
    assert rows[2] == (
        "| transfer cube | `cpu` | 80 at 96x128 | `act_cpu`, 1,234 steps of 32 | 368/400 = 92.0% (88.9 to 94.3%) "
        "| 98.0%, 86.0% | 378/400 = 94.5% | – | about 90% | 11 min 52 s | 90% in 12 min | yes |"
    )
    assert rows[3] == (
        "| insertion | `fast` | 80 at 96x128 | `act_cpu`, 1,234 steps of 32 | not run "
        "| – | – | – | about 50% | – | 50% | – |"
    )
    assert rows[4:] == [
        "",
        "- transfer cube, `cpu`: Some CPU, 2 cores, no GPU used; aloha_kit 9.9, torch 2.0; commit abc123.",
    ]


def test_a_result_is_kept_and_the_readme_renewed(tmp_path: Path) -> None:
    readme, chinese = tmp_path / "README.md", tmp_path / "README.zh-CN.md"
    for file in (readme, chinese):
        file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    publish(result(), tmp_path)
    assert read(tmp_path / "results" / "transfer_cube_cpu.json") == result()
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n{table(tmp_path / 'results')}\n{END}\nafter\n"
    rows = [line.split(" | ") for line in text.splitlines() if " | `" in line]
    assert [(row[0][2:].replace(" ", "_"), row[1].strip("`")) for row in rows] == list(ROWS)
    assert [row[1] for row in rows if row[4] != "not run"] == ["`cpu`"]
    assert chinese.read_text().splitlines()[4 + ROWS.index(("transfer_cube", "cpu"))] == (
        "| transfer cube | `cpu` | 80 条，96x128 | `act_cpu`，1,234 步，批量 32 | 368/400 = 92.0%（88.9 至 94.3%） "
        "| 98.0%, 86.0% | 378/400 = 94.5% | – | 约 90% | 11 min 52 s | 90%，12 min 内 | 是 |"
    )


def test_a_readme_without_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no table to renew outside a checkout: '.*README.md': No such file"):
        publish(result(), tmp_path)
    (tmp_path / "README.md").write_text(f"{BEGIN}\n")
    with pytest.raises(ConfigError, match=r"no table to renew: '.*README.md' lacks the lines <!-- reproduction"):
        publish(result(), tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "insertion_cpu.json", {**to_mapping(result()), "preset": 3})
    with pytest.raises(ConfigError, match=r"insertion_cpu.json: preset cannot be 3"):
        table(tmp_path)


def test_the_readmes_of_this_checkout_are_up_to_date() -> None:
    """After a change of presets or results: python -m aloha_kit.reproduce.table"""
    train = CHECKOUT / "train"
    for name, readme in READMES.items():
        with language(name):
            assert f"{BEGIN}\n{table(train / 'results')}\n{END}" in (train / readme).read_text()


def test_where_it_runs() -> None:
    here = describe_machine("cpu", None)
    assert (here.device, here.gpu) == ("cpu", None)
    assert here.versions["numpy"] == np.__version__
    assert gpu_of("cpu") is None
    with pytest.raises(ConfigError, match=r"^device 'cuda:99' cannot be used: \w"):
        gpu_of("cuda:99")

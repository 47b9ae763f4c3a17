"""Presets are data: their values are the commands' flags, and a mistake in one is found at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tyro

from aloha_kit.core import ConfigError
from aloha_kit.eval.args import EvalArgs
from aloha_kit.record.args import parse as parse_record
from aloha_kit.reproduce.args import parse
from aloha_kit.reproduce.preset import load_preset, Preset, SIM
from aloha_kit.reproduce.stages import EvaluateStage, RecordStage, ReproductionSetup, TrainStage
from aloha_kit.reproduce.table import ROWS
from aloha_kit.train.args import parse as parse_train
from tests.reproduce.pretend import preset_file


def job(preset: Preset, task: str) -> ReproductionSetup:
    return ReproductionSetup(task, preset, Path("out"), preset.device, 200)


@pytest.mark.parametrize(("task", "name"), ROWS)
def test_the_commands_understand_every_preset(task: str, name: str) -> None:
    preset = load_preset(name, task)
    record = parse_record(RecordStage(job(preset, task)).command()[1:])
    assert record.task == (f"sim_{task}" if task in SIM else task)
    assert record.num_episodes == preset.record.num_episodes
    assert record.image_size == preset.record.image_size
    assert record.seed == (preset.record.seed or 0)
    train = parse_train(TrainStage(job(preset, task), 3).command()[1:])
    assert train.training.num_steps == preset.training.num_steps
    assert train.training.batch_size == preset.training.batch_size
    assert (train.training.seed, train.training.device) == (3, preset.device)
    words = EvaluateStage(job(preset, task), 3).command()
    assert words[0] == "aloha_kit.eval"
    evaluation = tyro.cli(EvalArgs, args=words[1:], use_underscores=True)
    assert (evaluation.num_rollouts, evaluation.seed) == (200, 130_000)
    run = Path("out/seed_3/policy")
    assert evaluation.ckpt == (run if preset.eval.checkpoint == "best" else run / "checkpoints" / "last",)


def test_the_targets_are_those_of_the_reference_and_ours() -> None:
    found = {
        (name, task): (target.success, target.minutes)
        for name in ("paper", "fast", "cpu")
        for task in ("transfer_cube", "insertion")
        for target in [load_preset(name, task).target]
    }
    assert found == {
        ("paper", "transfer_cube"): (0.9, None),
        ("paper", "insertion"): (0.5, None),
        ("fast", "transfer_cube"): (0.9, 15),
        ("fast", "insertion"): (0.5, 15),
        ("cpu", "transfer_cube"): (0.8, 60),
        ("cpu", "insertion"): (0.8, 60),
    }


def test_the_papers_preset_is_the_papers() -> None:
    preset = load_preset("paper", "insertion")
    assert (preset.record.num_episodes, preset.record.image_size) == (50, (480, 640))
    train = parse_train(TrainStage(job(preset, "insertion"), 0).command()[1:])
    assert (train.network.kind, getattr(train.network, "chunk_size", None)) == ("act", 100)
    assert (train.training.batch_size, train.training.lr, train.training.lr_backbone) == (8, 1e-5, 1e-5)
    assert train.training.num_steps >= 5 * 10_000  # the reference's 2000 epochs of 5 batches


@pytest.mark.parametrize("key", ["n_action_steps", "horizon"])
def test_a_task_has_values_of_its_own(key: str, tmp_path: Path) -> None:
    special = {"insertion": {"target": {"success": 0.3}, "train": {"num_steps": 9, "lr": 1e-3}}}
    file = str(preset_file(tmp_path, tasks=special, eval={"temporal_agg": True, key: 5, "checkpoint": "last"}))
    cube, peg = load_preset(file, "transfer_cube"), load_preset(file, "insertion")
    assert (cube.target.success, peg.target.success, peg.target.minutes) == (0.8, 0.3, 60)
    assert cube.train == {"policy": "act_cpu", "num_steps": 40, "batch_size": 4}
    assert peg.train == {"policy": "act_cpu", "num_steps": 9, "batch_size": 4, "lr": 1e-3}
    words = EvaluateStage(job(peg, "insertion"), 0).command()
    assert words[words.index("--ckpt") + 1] == "out/seed_0/policy/checkpoints/last"
    assert " ".join(words).count("--temporal_agg --n_action_steps 5") == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"num_stpes": 5}}, r"tiny.yaml: train: unknown flag 'num_stpes'. Did you mean 'num_steps'\? "),
        ({"train": {"seed": 5}}, "train: seed cannot be set here, it is given by --seeds"),
        ({"train": {"num_epochs": 5}}, "train: num_epochs cannot be set here, a reproduction is counted in steps"),
        (
            {"train": {"policy": "act_reference"}},
            "train: the recipe of 'act_reference' counts in epochs; give a recipe with num_steps",
        ),
        ({"train": {"policy": "act_cppu"}}, r"no configuration 'act_cppu' in policies. Did you mean 'act_cpu'\?"),
        ({"train": {"num_steps": 0}}, "num_steps must be at least 1, given 0"),
        ({"train": {"chunk_size": 0}}, "chunk_size must be at least 1, given 0"),
        ({"record": {"num_episdoes": 5}}, r"unknown key 'num_episdoes'. Did you mean 'num_episodes'\?"),
        ({"target": {}}, "tiny.yaml: give success, coverage or both"),
        ({"target": {"coverage": 80}}, r"coverage must lie above 0 and up to 1, given 80"),
        (
            {"only": ["pusht_state"]},
            "preset 'tiny' is for pusht_state, not insertion; "
            "give --preset cpu or cpu_diffusion or cpu_flow or cpu_quick or fast or fast_diffusion or fast_flow "
            "or paper",
        ),
        ({"target": {"success": 80}}, r"success must lie above 0 and up to 1, given 80"),
        ({"eval": {"horizon": 5, "n_action_steps": 5}}, "eval: horizon and n_action_steps are the same key; give one"),
        ({"eval": {"checkpoint": "bets"}}, r"eval.checkpoint cannot be 'bets'. Did you mean 'best'\?"),
        ({"tasks": ["insertion"]}, r"tasks must hold values by task, given \['insertion'\]"),
    ],
)
def test_mistakes_in_a_preset_are_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_preset(str(preset_file(tmp_path, **changes)), "insertion")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_a_file_that_is_no_preset(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "bad.yaml")) + " (must hold keys|is not YAML)"):
        load_preset(str(tmp_path / "bad.yaml"), "insertion")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--seeds", "1", "1"], "--seeds must be distinct numbers from 0 on, given 1 1"),
        (["--seeds", "-1"], "--seeds must be distinct numbers from 0 on, given -1"),
        (["--num_rollouts", "0"], "--num_rollouts must be 1 to 10000, given 0"),
        (["--num_rollouts", "10001"], "--num_rollouts must be 1 to 10000, given 10001"),
    ],
)
def test_values_that_cannot_be(flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ConfigError, SystemExit)) as error:
        parse(["insertion", *flags])
    printed = str(error.value) + capsys.readouterr().err
    assert expected in " ".join(printed.replace("│", " ").split())

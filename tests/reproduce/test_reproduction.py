"""What is done is not done again, whatever ended it before; commands are stood in for, the disk is real."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.commands import locked, LockedFolder
from aloha_kit.reproduce import machine
from aloha_kit.reproduce.__main__ import main
from aloha_kit.reproduce.result import read, Result
from tests.reproduce.pretend import checkpoint, Commands, preset_file

Reproduce = Callable[..., str]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    pretended = Commands(successes={0: 9, 1: 8, 2: 4})
    monkeypatch.setattr(LockedFolder, "run", lambda place, words: pretended(place, words))
    return pretended


@pytest.fixture
def reproduce(tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]) -> Reproduce:
    """The command line; returns what it logged (without the time) and printed, or why it ended."""
    preset = preset_file(tmp_path)

    def call(*flags: object) -> str:
        words = ["insertion", "--preset", preset, "--output", tmp_path / "out", "--num_rollouts", 10, *flags]
        capsys.readouterr()
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            logged = r"(?m)^\d\d:\d\d:\d\d .*\n(\$ .*\n)?"
            return f"{end.code} {re.sub(logged, '', capsys.readouterr().err)}"
        out, log = capsys.readouterr()
        return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", log) + out

    return call


def applications(commands: Commands) -> list[str]:
    done = [words[0].removeprefix("aloha_kit.") for words in commands.words]
    commands.words.clear()
    return done


def result(tmp_path: Path) -> Result:
    return read(tmp_path / "out" / "reproduce.json")


def test_each_stage_once_and_further_seeds_later(tmp_path: Path, commands: Commands, reproduce: Reproduce) -> None:
    out = reproduce("--seeds", 0)
    assert applications(commands) == ["record", "episode", "train", "eval"]
    assert "== 3/4 train, seed 0\n$ python -m aloha_kit.train --task sim_insertion --policy act_cpu" in out
    assert reproduce("--seeds", 0).startswith(
        "== 1/4 record: done\n== 2/4 validate: done\n== 3/4 train, seed 0: done\n"
    )
    assert applications(commands) == []
    reproduce("--seeds", 1, 0, 2)
    assert applications(commands) == ["train", "eval", "train", "eval"]
    assert [(s.seed, s.held.successes) for s in result(tmp_path).seeds] == [(0, 9), (1, 8), (2, 4)]
    reproduce("--seeds", 1)  # the others' results stay
    assert [s.seed for s in result(tmp_path).seeds] == [0, 1, 2]


@pytest.mark.parametrize("application", ["record", "train", "eval"])
def test_an_interrupted_stage_is_gone_on_with(
    application: str, tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    commands.stop = {application: "interrupted"}
    printed = reproduce()
    again = f"python -m aloha_kit.reproduce insertion --preset {tmp_path}/tiny.yaml --output {tmp_path}/out"
    assert printed == f"143 interrupted (SIGTERM); what is done is saved. Go on with:\n{again} --num_rollouts 10\n"
    before = applications(commands)
    assert before[-1] == application
    reproduce()
    words = {each[0].removeprefix("aloha_kit."): each for each in commands.words}
    stages = ["record", "episode", "train", "eval"]
    assert applications(commands) == stages[stages.index(application) :]
    if application == "train":
        assert words["train"] == ["aloha_kit.train", "--resume", f"{tmp_path}/out/seed_0/policy"]
    (seed,) = result(tmp_path).seeds
    assert (seed.held.successes, seed.held.trials) == (9, 10)
    walls = {"record": result(tmp_path).summary.record.seconds, "train": seed.train.seconds, "eval": seed.eval.seconds}
    assert walls == {"record": 120, "train": 60, "eval": 60, application: walls[application]}
    assert walls[application] == (180 if application == "record" else 120)


def test_a_killed_stage_is_gone_on_with_and_its_time_is_not_known(
    tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    commands.stop = {"train": "killed"}
    reproduce()
    assert [(a.stage, a.seconds, a.status) for a in result(tmp_path).attempts][-1] == ("train", None, None)
    out = reproduce()
    assert applications(commands) == ["record", "episode", "train", "train", "eval"]
    assert "| 0 | 9/10 = 90.0% | 59.6 to 98.2% | 9/10 = 90.0% | over 1 min 0 s | 1 min 0 s |" in out
    assert "Met: no (time unknown, a stage was killed)." in out


def test_a_training_killed_before_its_first_checkpoint_is_put_aside(
    tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    commands.stop = {"train": "killed"}
    reproduce()
    run = tmp_path / "out" / "seed_0" / "policy"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("task: x")
    reproduce()
    assert "--resume" not in commands.words[-2]
    assert (run.parent / "policy_without_checkpoint" / "config.yaml").read_text() == "task: x"
    assert len(result(tmp_path).seeds) == 1


def test_a_checkpoint_whose_saving_was_cut_off_is_gone_on_from(
    tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    commands.stop = {"train": "killed"}
    reproduce()
    checkpoint(tmp_path / "out" / "seed_0" / "policy", 20, name=".last.old")
    reproduce()
    assert commands.words[-2] == ["aloha_kit.train", "--resume", f"{tmp_path}/out/seed_0/policy"]


def test_what_depends_on_a_stage_that_is_done_again_is_done_again(
    tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    """An evaluation is of the present policy, a validation of the present episodes."""
    reproduce()
    applications(commands)
    (tmp_path / "out" / "seed_0" / "policy" / "checkpoints" / "last" / "extra.json").unlink()
    commands.successes = {0: 3}
    reproduce()
    assert applications(commands) == ["train", "eval"]
    assert result(tmp_path).seeds[0].held.successes == 3
    (tmp_path / "out" / "episodes" / "episode_1.hdf5").unlink()
    reproduce()
    assert applications(commands) == ["record", "episode"]


def test_more_rollouts_are_another_evaluation(tmp_path: Path, commands: Commands, reproduce: Reproduce) -> None:
    reproduce()
    reproduce("--num_rollouts", 20)
    assert applications(commands) == ["record", "episode", "train", "eval", "eval"]
    assert result(tmp_path).seeds[0].held.trials == 20


def test_a_stage_that_fails_ends_it_in_words(commands: Commands, reproduce: Reproduce) -> None:
    commands.stop = {"train": "failed"}
    assert reproduce() == (
        "error: train, seed 0 ended with status 1, see above; what is done is saved, and the same command goes on "
    )
    assert applications(commands) == ["record", "episode", "train"]


def test_a_stage_that_somebody_else_stopped(
    commands: Commands, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that got a SIGTERM of its own saves and ends with status 0."""
    monkeypatch.setattr(Commands, "_train", lambda *args, **options: None)
    assert "error: train, seed 0 stopped before its end, see above" in reproduce()


def test_a_dry_run_prints_the_commands_and_does_nothing(
    tmp_path: Path, commands: Commands, reproduce: Reproduce
) -> None:
    out = reproduce("--dry_run", "--seeds", 0, 1)
    folder = tmp_path / "out"
    assert out.splitlines() == [
        "== 1/6 record",
        f"$ python -m aloha_kit.record --task sim_insertion --num_episodes 2 --image_size 24 32 "
        f"--dataset_dir {folder}/episodes",
        "== 2/6 validate",
        f"$ python -m aloha_kit.episode validate {folder}/episodes",
        *(
            line
            for i, seed in enumerate((0, 1))
            for line in (
                f"== {2 * i + 3}/6 train, seed {seed}",
                "$ python -m aloha_kit.train --task sim_insertion --policy act_cpu --num_steps 40 --batch_size 4 "
                f"--seed {seed} --device cpu --dataset_dir {folder}/episodes --ckpt_dir {folder}/seed_{seed}/policy",
                f"== {2 * i + 4}/6 eval, seed {seed}",
                f"$ python -m aloha_kit.eval --ckpt {folder}/seed_{seed}/policy --task sim_insertion "
                f"--num_rollouts 10 --seed {100_000 + 10_000 * seed} --device cpu --output {folder}/seed_{seed}/eval",
            )
        ),
    ]
    assert not folder.exists()
    reproduce("--seeds", 1)
    out = reproduce("--dry_run", "--seeds", 0, 1)
    assert [line for line in out.splitlines() if line.endswith(": done")] == [
        "== 1/6 record: done", "== 2/6 validate: done", "== 5/6 train, seed 1: done", "== 6/6 eval, seed 1: done",
    ]  # fmt: skip


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, reproduce: Reproduce) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert reproduce() == (
        f"error: '{tmp_path}/out' is not a reproduction: it lacks reproduce.json and holds thesis.tex; "
        "choose another place with --output "
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_reproduction_keeps_its_values_but_not_its_target(tmp_path: Path, reproduce: Reproduce) -> None:
    reproduce()
    file = tmp_path / "out" / "reproduce.json"  # with the key's name of earlier versions
    file.write_text(file.read_text().replace('"n_action_steps"', '"horizon"'))
    preset_file(tmp_path, target={"success": 0.95})
    assert "Target: 95%. Met: no (success rate)." in reproduce()
    preset_file(tmp_path, train={"policy": "act_cpu", "num_steps": 50, "batch_size": 4, "lr": 1e-3})
    assert reproduce() == (
        f"error: '{tmp_path}/out' was started with num_steps 40 (now 50), train.lr None (now 0.001), "
        "train.num_steps 40 (now 50); choose another place with --output to start anew "
    )


def test_a_damaged_result_is_named(tmp_path: Path, reproduce: Reproduce) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "reproduce.json").write_text('{"task": "insertion"')
    assert f"error: '{tmp_path}/out/reproduce.json' is missing or damaged: " in reproduce()
    (tmp_path / "out" / "reproduce.json").write_text("[]")
    assert "must hold an object, given: list" in reproduce()


def test_only_the_readmes_presets_get_into_it(tmp_path: Path, commands: Commands, reproduce: Reproduce) -> None:
    assert reproduce("--update_readme") == (
        "2 error: the README's table has the presets paper, fast, fast_flow, fast_diffusion, cpu, cpu_quick, "
        "cpu_flow, cpu_diffusion of insertion, not tiny; leave --update_readme out\n"
    )
    assert applications(commands) == []


def test_two_at_a_time_in_one_folder_are_refused(tmp_path: Path, commands: Commands, reproduce: Reproduce) -> None:
    with locked(tmp_path / "out", "reproduction"):
        assert reproduce() == (
            f"error: another reproduction uses '{tmp_path}/out' (process {os.getpid()}); "
            "wait for it or end it, or choose another place with --output "
        )
    assert applications(commands) == []


NO_GPU = "device 'cuda' cannot be used: there is none"


@pytest.mark.parametrize(
    ("meant", "flags", "expected"),
    [
        ("cuda", [], f"preset 'tiny' is for a GPU, and {NO_GPU}; take --preset cpu, or add --force"),
        ("cuda", ["--device", "cpu"], "preset 'tiny' is for a GPU, and --device cpu was given; take --preset"),
        ("cpu", ["--device", "cuda"], f"preset 'tiny' is for the CPU, and {NO_GPU}; leave --device out, or"),
        ("cuda", ["--force"], "--device cpu"),
        ("cuda", ["--force", "--device", "cpu"], "--device cpu"),
        ("cpu", [], "--device cpu"),
    ],
)
def test_a_gpu_that_is_not_there(
    meant: str, flags: list[str], expected: str, tmp_path: Path, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gpu_of(device: str) -> None:
        if device != "cpu":
            raise ConfigError(f"device '{device}' cannot be used: there is none")

    monkeypatch.setattr(machine, "gpu_of", gpu_of)
    preset_file(tmp_path, device=meant)
    printed = reproduce(*flags)
    assert expected in printed
    refused = printed.startswith("error: ")
    assert refused == (not expected.startswith("--device"))
    assert (tmp_path / "out").exists() == (not refused)


def test_a_gpu_that_is_there_is_noted(
    tmp_path: Path, commands: Commands, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpu_of", lambda device: "Some GPU" if device == "cuda:1" else None)
    preset_file(tmp_path, device="cuda")
    out = reproduce("--device", "cuda:1")
    assert all("--device cuda:1" in " ".join(words) for words in commands.words[2:])
    (here,) = result(tmp_path).surroundings
    assert (here.device, here.gpu) == ("cuda:1", "Some GPU")
    assert "cores, Some GPU; aloha_kit" in out


def test_the_file_holds_everything(tmp_path: Path, reproduce: Reproduce) -> None:
    reproduce("--seeds", 0, 1)
    found: dict[str, Any] = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert [attempt["command"].split()[2] for attempt in found["attempts"]] == [
        f"aloha_kit.{name}" for name in ("record", "episode", "train", "eval", "train", "eval")
    ]
    assert all(attempt["seconds"] == 60.0 and attempt["status"] == 0 for attempt in found["attempts"])
    (here,) = found["surroundings"]
    assert set(here["versions"]) == {"aloha_kit", "python", "torch", "mujoco", "numpy"}
    assert here["cores"] >= 1
    assert here["cpu"]
    assert (found["task"], found["preset"], found["published"]) == ("insertion", "tiny", 0.5)
    assert (tmp_path / "out" / "reproduce.md").read_text().startswith("### insertion, preset `tiny`\n")

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aloha_kit.config import find
from aloha_kit.config.policies import ActConfig, CnnMlpConfig
from aloha_kit.core import ConfigError, UsageError
from aloha_kit.formats.hdf5_folder import Hdf5Source
from aloha_kit.train.__main__ import main
from aloha_kit.train.app import make_setup
from aloha_kit.train.args import parse, run_folder, task_of, to_snapshot
from tests.synthetic import write_dataset


def test_acts_own_command_line_is_act_as_published() -> None:
    flags = """--task_name sim_transfer_cube_scripted --ckpt_dir D --policy_class ACT --kl_weight 10 --chunk_size 100
        --hidden_dim 512 --batch_size 8 --dim_feedforward 3200 --num_epochs 2000 --lr 1e-5 --seed 0"""
    args, published = parse(flags.split()), parse(["--policy", "act_reference"])
    assert (args.task, args.ckpt_dir, args.policy) == ("sim_transfer_cube_scripted", "D", "act_reference")
    assert (args.network, args.training) == (published.network, published.training)
    # values of its files that its command line cannot give
    network, training = args.network, args.training
    assert isinstance(network, ActConfig)
    assert (network.dec_layers, network.decoder_output, network.share_backbone) == (7, "first", True)
    assert (training.sampling, training.schedule, training.augment, training.grad_clip, training.val_fraction) == (
        "one_per_episode", "constant", False, 0.0, 0.2)  # fmt: skip
    # other values of its flags
    other = parse([*flags.replace("2000", "7").replace("100", "50").split(), "--temporal_agg"])
    assert isinstance(other.network, ActConfig)
    assert (other.network.chunk_size, other.training.num_epochs, other.training.temporal_agg) == (50, 7, True)
    # of our own flags, ACT is the improved one
    assert parse(["--policy", "ACT"]).training == parse(["--policy", "act"]).training != training


def test_cnnmlp_and_act_plus_plus_names() -> None:
    args = parse(["--policy_class=CNNMLP", "--num_steps=9", "--validate-every", "3", "--save_every", "4"])
    assert isinstance(args.network, CnnMlpConfig)
    assert args.policy == "cnnmlp_reference"
    assert (args.training.num_steps, args.training.val_every, args.training.save_every) == (9, 3, 4)
    assert args.training.num_epochs is None, "the epochs of its file do not count beside steps"
    assert parse(["--policy_class", "act_cpu"]).policy == "act_cpu"
    with pytest.raises(UsageError, match=r"--policy and --policy_class are the same flag"):
        parse(["--policy", "act", "--policy_class", "ACT"])


def test_what_is_taken_for_acts_own_flags_is_one_line(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", lengths=(5,))
    flags = ["--policy_class", "ACT", "--num_epochs", "20", "--dataset_dir", str(tmp_path / "data")]
    (note,) = make_setup(parse([*flags, "--ckpt_dir", str(tmp_path / "run")])).notes
    assert note == (
        "act_reference: the network and the training of ACT's repository with the flags given: 20 epochs of one random "
        "start an episode, batch 8, lr 1e-05 constant, no augmentation, 20% for validation. --policy act has the "
        "improved defaults"
    )
    assert make_setup(parse([*flags[2:], "--ckpt_dir", str(tmp_path / "run")])).notes == ()


def test_acts_eval_is_deployment(tmp_path: Path) -> None:
    flags = """--eval --task_name sim_transfer_cube_scripted --policy_class ACT --kl_weight 10 --chunk_size 100
        --hidden_dim 512 --batch_size 8 --dim_feedforward 3200 --num_epochs 2000 --lr 1e-5 --seed 0 --temporal_agg"""
    words = [sys.executable, "-m", "aloha_kit.train", *flags.split(), "--ckpt_dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    where = f"--ckpt {tmp_path} --task sim_transfer_cube_scripted --temporal_agg"
    assert f"--eval: python -m aloha_kit.deploy {where}\n" in done.stderr
    assert f"error: no checkpoint at {tmp_path}: neither " in done.stderr
    assert done.returncode == 1
    with pytest.raises(UsageError, match=r"^--onscreen_render is for --eval: a training writes its rollouts as videos"):
        parse(["--onscreen_render"])


@pytest.mark.parametrize(("name", "steps"), [("transfer_cube", 400), ("insertion", 500)])
def test_acts_tasks_are_known(name: str, steps: int) -> None:
    for kind in ("scripted", "human"):
        task = task_of(parse(["--task_name", f"sim_{name}_{kind}"]))
        assert task is not None
        assert (task.scene, task.dataset_dir) == (name, "data/{task}")
    assert task.episode_len == steps


def test_values_come_from_the_policys_files_and_flags_win() -> None:
    plain = parse(["--policy", "act_reference"])
    assert plain.recipe == "act_reference"
    assert plain.training.sampling == "one_per_episode"
    assert (plain.training.lr, plain.training.num_epochs, plain.training.schedule) == (1e-5, 2000, "constant")
    assert isinstance(plain.network, ActConfig)
    assert plain.network.dec_layers == 7
    changed = parse(["--policy", "act_reference", "--dec_layers", "2", "--sampling", "all_steps", "--no_augment"])
    assert isinstance(changed.network, ActConfig)
    assert (changed.network.dec_layers, changed.training.sampling) == (2, "all_steps")
    assert changed.training.lr == 1e-5


def test_a_policy_by_path_with_a_recipe_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: cnnmlp\nkeypoints: 7\n")
    (tmp_path / "slow.yaml").write_text("lr: 1.0e-6\n")
    args = parse(["--policy", str(tmp_path / "mine.yaml"), "--recipe", str(tmp_path / "slow.yaml")])
    assert isinstance(args.network, CnnMlpConfig)
    assert (args.network.keypoints, args.training.lr) == (7, 1e-6)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--policy", "act_cppu"], r"no configuration 'act_cppu' in policies. Did you mean 'act_cpu'"),
        (["--recipe", "act_refrence"], r"no configuration 'act_refrence' in training. Did you mean 'act_reference'"),
        (["--resume", "/nowhere"], r"'/nowhere' is not a training run: it should hold config.yaml"),
    ],
)
def test_mistakes_are_answered(flags: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--batch_size", "0"], "batch_size must be at least 1, given 0"),
        (["--num_episodes", "0"], "num_episodes must be at least 1, given 0"),
        (["--seed", "-1"], "seed must be at least 0, given -1"),
        (["--save_every_epochs", "-1"], "save_every_epochs must be at least 0, given -1"),
        (["--augment_crop", "1.5"], "augment_crop must be in (0, 1], given 1.5"),
        (["--augment_contrast", "3"], "augment_contrast must be in [0, 1], given 3"),
        (
            ["--no_augment", "--augment_shift", "0.1"],
            "augment_shift is an amount of the augmentation, which augment false turns off",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ConfigError, SystemExit)) as error:
        parse(flags)
    assert expected in str(error.value) + capsys.readouterr().err


def test_an_unknown_flag_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="--kl_weight"):
        parse(["--kl_wieght", "3"])


def test_neither_task_nor_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert re.match(r"error: no training data: give --task \(known: .*sim_transfer_cube", capsys.readouterr().err)
    assert task_of(parse(["--dataset_dir", "x"])) is None


def test_a_snapshot_resumes_with_the_same_values_and_new_ones_win(tmp_path: Path) -> None:
    args = parse(
        ["--policy", "act_cpu", "--task", "sim_insertion", "--lr", "0.002", "--hidden_dim", "64", "--cameras", "angle"]
        + ["--image_size", "48", "64"]
    )
    run = tmp_path / "run"
    (run / "checkpoints" / "last").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(to_snapshot(args)))
    for path in (run, run / "checkpoints" / "last"):
        assert run_folder(path) == run
        again = parse(["--resume", str(path), "--num_steps", "77"])
        assert again.network == args.network
        assert (again.task, again.cameras, again.training.lr) == ("sim_insertion", ("angle",), 0.002)
        assert again.training.num_steps == 77


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "no"),
        (["--amp"], "bf16"),
        (["--amp", "--seed", "3"], "bf16"),
        (["--amp", "fp16"], "fp16"),
        (["--amp=no"], "no"),
        (["--amp", "--no-amp"], "no"),
    ],
)
def test_number_formats_by_name_and_as_they_were_called(flags: list[str], expected: str) -> None:
    assert parse(flags).training.amp == expected


@pytest.mark.parametrize(("written", "read"), [("true", "bf16"), ("false", "no"), ("no", "no"), ("fp16", "fp16")])
def test_a_run_from_before_there_was_fp16_goes_on(tmp_path: Path, written: str, read: str) -> None:
    file = _run(tmp_path / "run", "--policy", "act_cpu", "--task", "sim_insertion") / "config.yaml"
    file.write_text(re.sub(r"amp: .*", f"amp: {written}", file.read_text()))
    assert parse(["--resume", str(tmp_path / "run")]).training.amp == read


def test_a_recipe_may_say_no_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("amp: no\n")
    assert parse(["--recipe", str(tmp_path / "plain.yaml")]).training.amp == "no"
    (tmp_path / "old.yaml").write_text("amp: true\n")
    with pytest.raises(ConfigError, match=r"old.yaml: amp cannot be True. .*bf16"):
        parse(["--recipe", str(tmp_path / "old.yaml")])


def _run(folder: Path, *flags: str) -> Path:
    (folder / "checkpoints" / "last").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_snapshot(parse(flags))))
    return folder


def test_what_makes_a_run_stays_when_it_is_resumed(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", "--policy", "act_cpu", "--task", "sim_insertion")
    same = ["--policy", "ACT_CPU", "--task", "sim_insertion", "--ckpt_dir", f"{run}/../run"]
    assert parse(["--resume", str(run), *same]).training == parse(["--resume", str(run)]).training
    for flag, other, was in (
        ("policy", "cnnmlp", "act_cpu"),
        ("task", "sim_transfer_cube", "sim_insertion"),
        ("recipe", "act_reference", "act_cpu"),
        ("ckpt_dir", "/elsewhere", str(run)),
    ):
        with pytest.raises(ConfigError) as error:
            parse(["--resume", str(run), f"--{flag}", other])
        assert str(error.value) == (
            f"--{flag} {other} does not go with --resume: that run has {flag} {was}. "
            f"Leave --{flag} out, or start a new run without --resume"
        )


@pytest.mark.parametrize("text", ["task: [", "just words", "task: sim_insertion\n", "training: {}\nnetwork: 3\n"])
def test_a_damaged_snapshot_is_named(tmp_path: Path, text: str) -> None:
    (_run(tmp_path / "run") / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"run/config.yaml is damaged, so its run cannot be resumed: "):
        parse(["--resume", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--task", "sim_insertoin"], r"no configuration 'sim_insertoin' in tasks. Did you mean 'sim_insertion'"),
        (["--dataset_dir", "nowhere"], r"no episodes at 'nowhere'"),
        (["--dataset_dir", "{tmp}", "--ckpt_dir", "{tmp}"], r"is not empty; choose another place with --ckpt_dir"),
    ],
)
def test_what_needs_no_torch_is_refused_without_it(tmp_path: Path, flags: list[str], expected: str) -> None:
    (tmp_path / "something").touch()
    code = (
        "import sys\nfrom aloha_kit.train.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    given = [flag.format(tmp=tmp_path) for flag in flags]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search("^error: .*" + expected, done.stderr)


def test_the_default_folder_is_named_after_the_task_not_its_file(tmp_path: Path) -> None:
    task = yaml.safe_load(find("tasks", "sim_insertion").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**task, "name": "pegs"}))
    write_dataset(tmp_path / "data", lengths=(5,))
    setup = make_setup(parse(["--task", str(tmp_path / "mine.yaml"), "--dataset_dir", str(tmp_path / "data")]))
    assert setup.folder == Path("runs/pegs/act")


def test_several_folders_of_episodes(tmp_path: Path) -> None:
    for name in ("a", "b", "a/aside"):
        write_dataset(tmp_path / name, lengths=(5, 6))
    setup = make_setup(parse(["--dataset_dir", str(tmp_path / "a"), str(tmp_path / "b"), "--num_episodes", "3"]))
    assert isinstance(setup.source, Hdf5Source)
    assert [file.relative_to(tmp_path).as_posix() for file in setup.source.files] == [
        "a/episode_0.hdf5", "a/episode_1.hdf5", "b/episode_0.hdf5"]  # fmt: skip
    text = setup.source.unused
    assert text.startswith("3 of 6 files are used; not used: ")
    assert "b/episode_1.hdf5 (beyond the first 3)" in text
    assert "a/aside/episode_0.hdf5" in text


def test_a_run_of_before_has_one_folder_of_episodes(tmp_path: Path) -> None:
    snapshot = to_snapshot(parse(["--dataset_dir", "data/x"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**snapshot, "dataset_dir": "data/x"}))
    assert parse(["--resume", str(tmp_path)]).dataset_dir == ("data/x",)


def test_an_interruption_is_answered_in_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aloha_kit.train.app.make_setup", interrupted)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_help_reads_without_loading_torch() -> None:
    code = (
        "import sys\nfrom aloha_kit.train.__main__ import main\n"
        "try:\n    main(['--help-all'])\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in (
        "--task",
        "--kl_weight",
        "--num_epochs",
        "--temporal_agg",
        "--resume",
        "--time_limit_s",
        "--image_size H W",
    ):
        assert word in done.stdout
    texts = [line.strip("│ ").split() for line in done.stdout.splitlines()]
    lone = [text[0] for text in texts if len(text) == 1 and text[0][0].isalpha() and text[0][-1].isalpha()]
    assert not lone, "a line break in a field's text"

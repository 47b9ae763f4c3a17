"""Commands end alike: one line for a mistake, the status of a signal, a closed or full output without a traceback."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aloha_kit.command import command
from aloha_kit.core.cli import with_value

PACKAGE = Path(__file__).parents[2] / "aloha_kit"
COMMANDS = sorted(file.parent.name for file in PACKAGE.glob("*/__main__.py"))
SUBCOMMANDS = {
    "data": [["fetch"], ["ls"], ["manifest"], ["push"], ["pull"]],
    "episode": [
        *(["validate"], ["recover"], ["info"], ["stats"], ["export"], ["adopt"], ["label"], ["merge"], ["split"]),
        *(["trim"], ["drop"], ["relabel"], ["rename-camera"], ["resize"], ["reorder"]),
    ],
    "policies": [["info"], ["export"]],
    "deploy": [[], ["serve"]],
    "rl": [["train"], ["eval"], ["render"], ["export"]],
}

LONG = """
import os, signal, sys
from aloha_kit.core import ConfigError, UsageError
from aloha_kit.core.cli import command_line
with command_line(saved="3 of 5 are saved"):
    {body}
    with open("done", "w") as file:
        file.write("done")
"""


def run(body: str, folder: Path, *, shell: str = "{}", **env: str) -> subprocess.CompletedProcess[str]:
    """Run `body` as a command does, within a shell's pipeline or redirection."""
    (folder / "command.py").write_text(LONG.format(body=body), encoding="utf-8")
    command = shell.format(f"'{sys.executable}' command.py")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def ended(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    return done.returncode, done.stderr


def test_every_main_is_the_same_three_lines() -> None:
    assert len(COMMANDS) >= 12
    for name in COMMANDS:
        text = (PACKAGE / name / "__main__.py").read_text(encoding="utf-8")
        code = text.split('"""\n', 1)[1]
        assert code == (
            "\nfrom aloha_kit.command import command\n\n"
            f'main = command("{name}")\n\nif __name__ == "__main__":\n    main()\n'
        )
        assert (PACKAGE / name / "args.py").is_file()


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "5"}])
def test_openmp_spins_briefly_unless_the_environment_sets_it(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"
    for name in names:
        monkeypatch.setenv(name, given.get(name, ""))
        if name not in given:
            monkeypatch.delenv(name)
    command("record")(["--help"])
    found = {name: os.environ[name] for name in names if name in os.environ}
    assert found == (given or {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"})


def test_openmp_reads_it_when_torch_loads() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-m", "aloha_kit.deploy", "--ckpt", "nowhere", "--task", "sim_transfer_cube"]
    done = subprocess.run(
        words, env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr or "OPENMP DISPLAY ENVIRONMENT" not in done.stderr  # another OpenMP


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_flags_are_one_line_and_status_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in SUBCOMMANDS.get(name, [[]]):  # also where a required flag is missing
        with pytest.raises(SystemExit) as end:
            command(name)([*words, "--log_levle", "debug"])
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, "")
        program = " ".join([f"python -m aloha_kit.{name}", *words])
        assert err == f"error: no flag --log_levle; did you mean --log_level? See `{program} --help`\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("record", "--task TEXT is missing: Task name (configs/tasks) or YAML path"),
        ("record --task x --seed abc", "--seed takes INT, given abc"),
        ("record --task x --seed", "--seed takes INT, given nothing"),
        ("record --task x --images=png", "--images takes {jpeg,raw}, given png"),
        ("record --task x --image_size 3 --seed 4", "--image_size takes H W, given 3"),
        ("record --num-episods 5", "no flag --num-episods; did you mean --num_episodes?"),
        ("record --task x y", "unexpected: y"),
        ("reproduce nope --seeds 1",
            "TASK takes {transfer_cube,insertion,insertion_human,pusht_keypoints,pusht_state,pusht_image,lift,"
            "lift_image}, given nope"),
        ("replay --no_vidoe", "no flag --no_vidoe; did you mean --video?"),
        ("replay", "PATH is missing: An episode file, or a folder of episodes"),
        ("policies info", "CKPT is missing: A run (its best checkpoint is taken), a checkpoint folder, LeRobot's or a "
            "published policy_best.ckpt"),
        ("deploy --task x", "give either --ckpt RUN, to run the network here, or --remote HOST:PORT"),
        ("eval --ckpt a --task x --n_action_steps 0", "--n_action_steps must be at least 1, given 0"),
        ("deploy --ckpt a --task x --horizon 0", "--n_action_steps must be at least 1, given 0"),
        ("eval --ckpt a --task x --horizon=3 --n-action-steps 4", "--horizon and --n_action_steps are the same flag; "
            "give one of them"),
        ("train --task_name x --task x", "--task_name and --task are the same flag; give one of them"),
        ("eval --ckpt a --ckpt_dir b --task x --seed -1", "--seed must be at least 0, given -1"),
        ("train --task sim_transfer_cube --chunk_sise 5", "no flag --chunk_sise; did you mean --chunk_size?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_flag(words: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *argv = words.split()
    with pytest.raises(SystemExit) as end:
        command(name)(argv)
    assert end.value.code == 2
    see = " See" if problem.endswith("?") else "; see"
    assert capsys.readouterr().err.startswith(f"error: {problem}{see} `python -m aloha_kit.{name}")


def test_a_value_that_a_dataclass_refuses_is_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("train")(["--task", "sim_transfer_cube", "--lr", "-5"])
    assert capsys.readouterr().err.startswith("error: learning rates must be positive, given lr -5.0, ")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("episode inof x", "no command 'inof'. Did you mean 'info'? Known: "),
        ("episode", "which command? Known: validate, "),
    ],
)
def test_a_wrong_subcommand(words: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *argv = words.split()
    with pytest.raises(SystemExit) as end:
        command(name)(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")


def test_log_lines_have_the_time_and_go_to_standard_error(tmp_path: Path) -> None:
    logged = "import logging; log = logging.getLogger('aloha_kit.record'); log.{level}('3 of 5')"
    done = run(logged.format(level="info"), tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"\d\d:\d\d:\d\d 3 of 5\n", done.stderr)
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning: 3 of 5\n", run(logged.format(level="warning"), tmp_path).stderr)
    assert run(logged.format(level="debug"), tmp_path).stderr == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", (0, "")),
        ("raise ConfigError('no task')", (1, "error: no task\n")),
        ("raise UsageError('no flag')", (2, "error: no flag\n")),
        ("raise KeyboardInterrupt", (130, "interrupted; 3 of 5 are saved\n")),
        ("signal.raise_signal(signal.SIGINT)", (130, "interrupted; 3 of 5 are saved\n")),
        ("signal.raise_signal(signal.SIGTERM)", (143, "interrupted (SIGTERM); 3 of 5 are saved\n")),
        ("signal.raise_signal(signal.SIGHUP)", (129, "interrupted (SIGHUP); 3 of 5 are saved\n")),
        ("sys.exit(7)", (7, "")),
        ("open('absent/file')", (1, "error: 'absent/file': No such file or directory\n")),
        ("raise PermissionError(13, 'Permission denied', 'data')", (1, "error: 'data': Permission denied\n")),
    ],
)
def test_statuses(body: str, expected: tuple[int, str], tmp_path: Path) -> None:
    assert ended(run(body, tmp_path)) == expected


def test_the_traceback_of_an_error_is_shown_at_debug(tmp_path: Path) -> None:
    body = "import logging; logging.getLogger('aloha_kit').setLevel('DEBUG')\n    "
    done = run(f"{body}raise ConfigError('no port') from KeyError('port')", tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: no port")
    assert re.match(r"\d\d:\d\d:\d\d debug: KeyError: 'port'\n", done.stderr)
    assert "Traceback (most recent call last):" in done.stderr


def test_a_reader_that_has_seen_enough_ends_nothing_and_is_not_mentioned(tmp_path: Path) -> None:
    body = "[print('line', i, 'x' * 100, flush=True) for i in range(5000)]"
    done = run(body, tmp_path, shell="{} | head -n 1 >/dev/null")
    assert ended(done) == (128 + signal.SIGPIPE, "")
    assert (tmp_path / "done").read_text() == "done"  # the work went on


@pytest.mark.parametrize("lines", [1, 5000])
def test_a_full_disk_under_the_output_is_one_line(lines: int, tmp_path: Path) -> None:
    done = run(f"[print('x' * 100) for _ in range({lines})]", tmp_path, shell="{} >/dev/full")
    assert ended(done) == (1, "error: standard output cannot be written: No space left on device\n")
    assert (tmp_path / "done").read_text() == "done"


def test_a_mistake_stays_the_message_when_the_output_is_gone(tmp_path: Path) -> None:
    done = run("print('x'); raise ConfigError('no task')", tmp_path, shell="{} >/dev/full")
    assert ended(done) == (1, "error: no task\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files_are_never_written_into_what_is_opened_next(closed: str, tmp_path: Path) -> None:
    body = "kept = open('kept', 'w'); print('a report'); print('a complaint', file=sys.stderr); os.system('echo shell')"
    done = run(body, tmp_path, shell="{} " + closed)
    assert (done.returncode, (tmp_path / "done").read_text()) == (0, "done")
    assert (tmp_path / "kept").read_text() == ""


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "gbk"},
    ],
)
def test_characters_that_the_terminal_lacks_are_escaped(env: dict[str, str], tmp_path: Path) -> None:
    done = run("print('\\u62d3 \\U0001f916 \\udc80')", tmp_path, **env)
    assert ended(done) == (0, "")
    assert r"\udc80" in done.stdout
    assert r"\U0001f916" in done.stdout
    done = run("raise ConfigError('no \\u62d3 \\udc80')", tmp_path, **env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["episode", "replay"])
def test_help_into_a_closed_pipe(command: str) -> None:
    words = [sys.executable, "-m", f"aloha_kit.{command}", "--help"]
    pipe: Any
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pipe:
        pipe.stdout.close()
        assert (pipe.wait(), pipe.stderr.read()) == (128 + signal.SIGPIPE, "")


@pytest.fixture
def slow_import(tmp_path: Path) -> Path:
    """A folder before all others whose `dm_env`, which every command imports, prints that it was and takes its time."""
    (tmp_path / "dm_env").mkdir()
    body = "import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "dm_env" / "__init__.py").write_text(body, encoding="utf-8")
    return tmp_path


NODES = sorted(str(file.relative_to(PACKAGE.parent)) for file in PACKAGE.parent.glob("*/*_node"))
WITH_ROS = NODES if importlib.util.find_spec("rospy") else []


@pytest.mark.parametrize("command", [*COMMANDS, *WITH_ROS])
def test_ctrl_c_while_a_command_imports_ends_it_without_a_traceback(command: str, slow_import: Path) -> None:
    words = [command] if "/" in command else ["-m", f"aloha_kit.{command}"]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=PACKAGE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{slow_import}{os.pathsep}{PACKAGE.parent}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == -signal.SIGINT  # 130 in a shell


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--view"], ["--view", "screen"]),
        (["--view", "--seed", "1"], ["--view", "screen", "--seed", "1"]),
        (["--view", "robot:9876", "--seed", "1"], ["--view", "robot:9876", "--seed", "1"]),
        (["--seed", "1"], ["--seed", "1"]),
        ([], []),
    ],
)
def test_a_flag_whose_value_may_be_left_out(given: list[str], meant: list[str]) -> None:
    assert with_value(given, "screen", "--view", "--show") == meant

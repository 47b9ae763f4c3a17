"""Real processes: a stage is signalled once to leave things in order, and a folder is locked while one is at work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aloha_kit.core.commands import FolderInUseError, locked
from tests.waiting import until

STAGE = """
import signal, sys, time
from pathlib import Path
out = Path(sys.argv[1])
def stop(*_):
    with out.open("a") as file:
        file.write("asked ")
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: out.write_text("Ctrl-C"))
out.write_text("began ")
end = time.monotonic() + 60
while not out.read_text().endswith(sys.argv[2]) and time.monotonic() < end:
    time.sleep(0.01)
sys.exit(3)
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_stage.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_stage"


def wait_for(file: Path, text: str) -> None:
    until(lambda: file.exists() and text in file.read_text(), f"'{text}' in {file}", 30.0)


def test_a_command_ends_as_it_ends(stage: str, tmp_path: Path) -> None:
    with locked(tmp_path / "out", "reproduction") as place:
        ended = place.run([stage, str(tmp_path / "printed"), "began "])
    assert (ended.status, ended.interrupted) == (3, "")
    assert ended.seconds > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_is_passed_on_and_waited_for(number: int, stage: str, tmp_path: Path) -> None:
    printed = tmp_path / "printed"

    def interrupt() -> None:
        wait_for(printed, "began")
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        wait_for(printed, "asked")
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    before = signal.getsignal(number)
    other = threading.Thread(target=interrupt)
    other.start()
    with locked(tmp_path / "out", "reproduction") as place:
        ended = place.run([stage, str(printed), "asked asked "])
    other.join()
    assert (ended.status, ended.interrupted) == (3, signal.Signals(number).name)
    assert printed.read_text() == "began asked asked "
    assert signal.getsignal(number) is before


def test_a_folder_stays_locked_while_a_command_outlives_its_reproduction(stage: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom aloha_kit.core.commands import locked\n"
        "with locked(Path(sys.argv[1]), 'reproduction') as place:\n    place.run(sys.argv[2:])"
    )
    printed = tmp_path / "printed"
    words = [sys.executable, "-c", code, str(tmp_path / "out"), stage, str(printed), "asked "]
    with subprocess.Popen(words) as reproduction:
        wait_for(printed, "began")
        reproduction.kill()
    busy = r"another reproduction uses '.*out' \(process \d+\)"
    with pytest.raises(FolderInUseError, match=busy) as error, locked(tmp_path / "out", "reproduction"):
        pass
    left = int(str(error.value).partition("(process ")[2].partition(")")[0])
    assert left != reproduction.pid
    os.kill(left, signal.SIGTERM)

    def free() -> bool:
        with contextlib.suppress(FolderInUseError), locked(tmp_path / "out", "reproduction"):
            return True
        return False

    until(free, "the folder is free", 30.0)

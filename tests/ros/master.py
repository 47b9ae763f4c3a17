"""A roscore of a test's own, on its own port, and nodes as real processes that are ended by their pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import rosgraph

from tests.waiting import until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A child in its own process group, with its output in a file that failures can show."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=dict(environment), cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, timeout: float = 60.0) -> int:
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.popen.args!r} still runs after {timeout} s:\n{self.text()}") from None

    def wait_for(self, words: str, timeout: float = 60.0) -> None:
        """Until `words` appear in the output; fails at once if the process ends without them."""
        until(
            lambda: words in self.text() or not self.running, f"'{words}' in the output of {self.popen.args}", timeout
        )
        assert words in self.text(), f"ended ({self.popen.returncode}) before it printed '{words}':\n{self.text()}"

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the process and all below it: roscore and roslaunch give each of theirs a session of its own."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.popen.pid)
            return [process, *process.children(recursive=True)]
        return []

    def stop(self) -> None:
        """SIGINT, then SIGTERM, then SIGKILL: roslaunch ends its nodes on the first."""
        family = self._family()  # of one that is dead already, nobody can tell
        for number in (signal.SIGINT, signal.SIGTERM):
            if self.running:
                self.popen.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.popen.wait(15)
        self.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def launch_result(launched: Process) -> list[str]:
    """What a launch that ended in order shows after its nodes, and before roslaunch's own closing lines."""
    text = launched.text()
    assert "\x1b[31m" not in text, f"roslaunch reports an error:\n{text}"
    shown = text.partition("shutting down processing monitor...")[0].splitlines()
    ended = [i for i, line in enumerate(shown) if line.endswith("killing on exit")]
    assert ended, text
    return shown[ended[-1] + 1 :]


class Ros:
    """A running roscore and what it takes to start nodes beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ROS_MASTER_URI": f"http://127.0.0.1:{self.port}",
            "ROS_IP": "127.0.0.1",
            "ROS_HOME": str(folder / "ros"),
            "ROS_LOG_DIR": str(folder / "ros" / "log"),
            "ROS_PACKAGE_PATH": f"{ROOT}:/usr/share",
            "MUJOCO_GL": "egl",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.environment.pop("ROS_HOSTNAME", None)
        self.processes: list[Process] = []
        self.core = self.start("roscore", "-p", str(self.port), log="roscore")
        until(lambda: self.answers() or not self.core.running, "a roscore answers", 60.0)
        assert self.core.running, self.core.text()

    def answers(self) -> bool:
        return bool(rosgraph.is_master_online(self.environment["ROS_MASTER_URI"]))

    def start(self, *command: str, log: str | None = None, **environment: str) -> Process:
        """Start a program; `python` means this environment's."""
        program = sys.executable if command[0] == "python" else command[0]
        name = log or f"{len(self.processes)}_{Path(command[0]).name}"
        process = Process([program, *command[1:]], self.folder / f"{name}.log", {**self.environment, **environment})
        self.processes.append(process)
        return process

    def quick(self, module: str, *words: str) -> Process:
        """Start a command of aloha_kit whose arms move as fast as their joints may."""
        return self.start("python", "-m", "tests.ros.quick", module, *words, log=f"{len(self.processes)}_{module}")

    def launch(self, file: str, **arguments: object) -> Process:
        """`roslaunch aloha_kit FILE name:=value …` as a user types it."""
        given = [f"{name}:={value}" for name, value in arguments.items()]
        return self.start(
            "roslaunch", "-p", str(self.port), "aloha_kit", file, *given, log=f"{len(self.processes)}_{file}"
        )

    def stop(self) -> None:
        for process in reversed(self.processes[1:]):
            process.stop()
        self.core.kill()  # it takes seconds to end by itself


@contextlib.contextmanager
def ros(folder: Path) -> Iterator[Ros]:
    """A roscore for the body; every process started through it is ended afterwards."""
    running = Ros(folder)
    try:
        yield running
    finally:
        running.stop()

"""Push-T with the mouse: recording and teleoperation by messages over HTTP, as the page in a browser sends them."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from aloha_kit.episode import Episode, list_episodes
from aloha_kit.record.__main__ import main as record
from aloha_kit.teleop.__main__ import main as teleop
from tests.commands import failure
from tests.waiting import until


class Browser(threading.Thread):
    """What a page in a browser does, in a thread: `play` is called with this client once the page is served."""

    def __init__(self, port: int, play: Callable[[Browser], None]) -> None:
        super().__init__(daemon=True)
        self._port, self._play = port, play
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            until(self._served, "a page")
            self._play(self)
        except BaseException as error:  # shown by the test, which waits for it
            self.error = error

    def _served(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def request(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def exchange(self, **message: Any) -> dict[str, Any]:
        status, body = self.request("POST", "/pointer", json.dumps(message), **{"Content-Type": "application/json"})
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def until_state(self, state: str, **message: Any) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            answer = self.exchange(**message)
            return answer if answer["state"] == state else None

        found: dict[str, Any] = until(reached, state, timeout=60)
        return found


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number: int = taken.getsockname()[1]
    return number


def own_rig(folder: Path, port: int) -> str:
    file = folder / "mouse.yaml"
    cameras = {"top": {"height": 96, "width": 96}}
    file.write_text(
        yaml.safe_dump(
            {"name": "mouse", "kind": "pusht", "teleop": "mouse", "options": {"port": port}, "cameras": cameras}
        )
    )
    return str(file)


def agent_in(answer: dict[str, Any]) -> tuple[float, float]:
    """Where the agent is in the image of an answer, px: the centre of what is royal blue."""
    image = cv2.imdecode(np.frombuffer(base64.b64decode(answer["image"]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    blue = (np.abs(image.astype(int) - (225, 105, 65)) < 25).all(-1)  # BGR
    y, x = np.nonzero(blue)
    return 512 * float(x.mean()) / len(image), 512 * float(y.mean()) / len(image)


def test_what_the_pointer_does_is_an_episode_like_the_experts(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, expert = tmp_path / "mouse", tmp_path / "expert"
    sent: list[tuple[float, float]] = []

    def play(browser: Browser) -> None:
        assert b"<title>Push-T</title>" in browser.request("GET", "/")[1]
        waiting = browser.until_state("waiting", frame=0)
        assert "onto the round agent" in waiting["message"]
        sent.append(agent_in(waiting))
        browser.until_state("recording", pointer=sent[0])  # on the agent: it begins by itself
        frame = 0
        while frame < 12:
            sent.append((200.0 + 10 * frame, 600.0))
            frame = browser.exchange(pointer=sent[-1], frame=frame).get("frame", frame)
        browser.exchange(commands=["grade 4", "keep"])
        browser.until_state("waiting")
        browser.until_state("recording", commands=["start"], pointer=(256, 256))
        browser.exchange(commands=["discard"])
        browser.until_state("waiting")
        browser.exchange(commands=["quit"])

    browser = Browser(port, play)
    flags = ["--task", "pusht_image", "--dataset_dir", str(folder), "--num_episodes", "2", "--seed", "5"]
    record([*flags, "--rig", own_rig(tmp_path, port)])
    browser.join()
    shown = capsys.readouterr().err
    assert "ended: nothing has to be parked\n" in shown
    assert "arms" not in shown
    assert browser.error is None
    (file,) = list_episodes(folder)
    record(["--task", "pusht_image", "--num_episodes", "1", "--dataset_dir", str(expert), "--workers", "1"])
    with Episode.open(file) as mine, Episode.open(expert / "episode_0.hdf5") as theirs:
        assert mine.contract == theirs.contract
        assert (mine.success, mine.attrs["sim"], mine.describe["seed"]) == (True, True, 5)
        assert (mine.describe["teleop"], mine.attrs["grade"]) == ("mouse", 4)
        actions = mine.action
        assert len(actions) >= 8
        executed = {tuple(action) for action in actions.tolist()}
        assert executed <= {
            (float(np.float32(x)), min(float(np.float32(y)), 512.0)) for x, y in sent
        }  # inside the plane
        assert len(executed) >= 4


def test_teleoperation_ends_when_the_page_is_silent(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aloha_kit.pusht.mouse.SILENT_S", 0.4)

    def play(browser: Browser) -> None:
        waiting = browser.until_state("starting", frame=0)
        until(lambda: "image" in (found := browser.exchange(frame=0)) and waiting.update(found) is None, "an image")
        before = agent_in(waiting)
        for _ in range(40):
            browser.exchange(pointer=before)
        assert browser.request("POST", "/pointer", "{}", **{"Content-Type": "text/plain"})[0] == 400  # of another page
        for body in ("[]", '{"pointer": [NaN, 1]}', '{"pointer": 1}', "nothing"):
            assert browser.request("POST", "/pointer", body, **{"Content-Type": "application/json"})[0] == 400
        assert browser.request("GET", "/other")[0] == 404

    browser = Browser(port, play)
    message = failure(teleop, ["--task", "pusht_state", "--rig", own_rig(tmp_path, port)])
    browser.join()
    assert browser.error is None
    assert message == f"error: the operator's page is silent: open http://127.0.0.1:{port}/"


def test_an_address_that_is_taken_and_a_wrong_option_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = failure(record, ["--task", "pusht_state", "--rig", own_rig(tmp_path, port)])
    assert f"the page cannot be served at 127.0.0.1:{port}: " in message
    file = tmp_path / "mouse.yaml"
    file.write_text(file.read_text().replace("port:", "prot:"))
    assert "unknown key 'prot'" in failure(record, ["--task", "pusht_state", "--rig", str(file)])

"""What a robot believes of a server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.sync.server import serve

from aloha_kit.core import Contract, ContractError
from aloha_kit.remote import ConnectionLostError, RemoteError, RemotePolicy
from aloha_kit.remote.messages import pack, unpack

CONTRACT = Contract.of(("left_waist",), ("left_waist", "left_gripper"), {"top": (4, 6)}, 50.0)
WELCOME = {"kind": "welcome", "contract": CONTRACT.to_json(), "chunk_size": 2, "about": {"kind": "x"}}
GOOD: Any = {"qpos": np.float32([0.5]), "images": {"top": np.zeros((4, 6, 3), np.uint8)}, "stamps": {}}


@contextlib.contextmanager
def serving(welcome: bytes, **answer: Any) -> Iterator[str]:
    """The address of a server that greets so and gives this answer to every request."""

    def talk(connection: Any) -> None:
        connection.recv()
        connection.send(welcome)
        for question in connection:
            connection.send(pack({"kind": "chunk", "id": unpack(question)["id"], **answer}))

    with serve(talk, "127.0.0.1", 0, max_size=None, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
    thread.join()


def contract(**changes: Any) -> str:
    """A contract as the versions before `features` wrote it, with changes."""
    values = json.loads(CONTRACT.to_json())
    del values["features"]
    return json.dumps({**values, **changes})


def features(place: int, **changes: Any) -> str:
    """A contract with changes of one feature."""
    values = json.loads(CONTRACT.to_json())
    values["features"][place].update(changes)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_size": None}, "states chunks of None actions"),
        ({"chunk_size": "9"}, "states chunks of '9' actions"),
        ({"chunk_size": True}, "states chunks of True actions"),
        ({"chunk_size": 0}, "states chunks of 0 actions"),
        ({"chunk_size": 2**62}, "states chunks of 4611686018427387904 actions"),
        ({"n_action_steps": 0}, "states that its policy executes 0 actions of a chunk"),
        ({"n_action_steps": "8"}, "states that its policy executes '8' actions of a chunk"),
        ({"about": None}, "describes its policy by a NoneType, not a map"),
        ({"about": [1]}, "describes its policy by a list, not a map"),
        ({"about": {"x": np.zeros(2)}}, "describes its policy by more than plain values"),
        ({"about": {"checkpoint": 3}}, "gives its checkpoint as a int, not a text"),
        ({"contract": None}, "gives its contract as a NoneType, not a text"),
        ({"contract": "{}"}, "not an embodiment contract, it lacks 'features'"),
        ({"contract": "[" * 60_000}, "127.0.0.1"),
        ({"contract": contract(rate_hz=float("nan"))}, "nan is no rate in Hz"),
        ({"contract": contract(rate_hz=0)}, "0 is no rate in Hz"),
        ({"contract": contract(cameras={"top": [1e400, 2]})}, "inf is no size of 'images/top'"),
        ({"contract": contract(cameras={"top": [-4, 6]})}, "-4 is no size of 'images/top'"),
        ({"contract": contract(cameras={"top": [1 << 40, 6]})}, "is no size of 'images/top'"),
        ({"contract": features(2, shape=[1 << 40, 6, 3])}, "is no size of 'images/top'"),
        ({"contract": features(2, shape=[0, 6, 3])}, r"has the shape \(height, width, 3\), given 'images/top'"),
        ({"contract": features(2, name="top")}, "an image is named images/<camera>"),
        ({"contract": features(1, role="state")}, "first features are the state 'qpos' and the action 'action'"),
        ({"contract": features(0, entries=[1])}, "are no names"),
        ({"contract": features(0, shape=5)}, "not an embodiment contract"),
        ({"contract": contract(state_names=[1])}, "not an embodiment contract"),
        ({"contract": contract(action_names=[])}, "a contract that no policy can have: no state or no action"),
        ({"contract": contract(action_names=["x"] * 2000)}, "2000 entries of action; at most 1024"),
        ({"contract": contract(units={"joints": 3})}, "not an embodiment contract"),
        ({"kind": "\x1b[2J" + "x" * 1000}, r"greeted with '\\x1b\[2Jx+…'"),
    ],
)
def test_a_welcome_that_is_none_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with serving(pack({**WELCOME, **changes})) as where, pytest.raises(RemoteError, match=words) as caught:
        RemotePolicy(where, "x")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("welcome", [b"", b"\xc1", bytes(2_000_000), pack({"kind": "refused", "why": "x" * 60_000})])
def test_whoever_is_no_policy_server_is_found_out(welcome: bytes) -> None:
    with serving(welcome) as where, pytest.raises(RemoteError) as caught:
        RemotePolicy(where, "x", connect_timeout_s=0.3)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            {"actions": np.float32([[0, 1], [2, np.nan]])},
            RemoteError,
            r"finite: action\[1, 1\] \(left_gripper\) is nan",
        ),
        ({"actions": np.float32([[np.inf, 1], [2, 3]])}, RemoteError, r"action\[0, 0\] \(left_waist\) is inf"),
        ({"actions": np.zeros((3, 2), np.float32)}, ContractError, r"a chunk of \(3, 2\) float32, .* \(2, 2\) float32"),
        ({"actions": np.zeros((2, 2), np.int64)}, ContractError, r"a chunk of \(2, 2\) int64"),
        ({"actions": [[0, 1], [2, 3]]}, RemoteError, "answered observation 0 with 'chunk'"),
        ({"actions": np.zeros((2, 2), np.float32), "id": np.zeros(2)}, RemoteError, "answered observation 0"),
        ({"kind": "failed", "why": {"x": "\n" * 5000}}, RemoteError, "failed: "),
        ({"actions": bytes(60_000)}, ConnectionLostError, "no answer from|no policy server answers"),
    ],
)
def test_an_answer_that_is_none_is_refused_by_name(answer: dict[str, Any], error: type[Exception], words: str) -> None:
    with serving(pack(WELCOME), **answer) as where:
        policy = RemotePolicy(where, "x", timeout_s=1.0 if error is ConnectionLostError else 60.0)
        with pytest.raises(error, match=words) as caught:
            policy.predict_chunk(GOOD)
        assert len(str(caught.value)) < 1200
        policy.close()


@pytest.mark.parametrize("took", [None, "x", np.zeros(2), float("nan")])
def test_a_stopwatch_that_is_not_finite_is_ignored(took: Any) -> None:
    with serving(pack(WELCOME), actions=np.zeros((2, 2), np.float32), took_ms=took) as where:
        policy = RemotePolicy(where, "x", timeout_s=60.0)
        policy.predict_chunk(GOOD)
        assert policy.took_ms == 0
        policy.close()

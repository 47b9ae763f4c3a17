"""A policy in another thread of this machine, over a real websocket."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.core import ConfigError, Contract, ContractError, HoldStill
from aloha_kit.core.versions import PROTOCOL
from aloha_kit.remote import ConnectionLostError, PolicyServer, RemoteError, RemotePolicy, ServedPolicy
from aloha_kit.remote.client import address
from aloha_kit.remote.messages import pack, unpack
from tests.waiting import until

CONTRACT = Contract.of(("left_waist", "left_gripper"), ("left_waist", "left_gripper"), {"top": (4, 6)}, 50.0)
TOKEN = "sésame"
K = 3


class Echo:
    """Row i of a chunk is qpos + i; waits and fails on request."""

    def __init__(self) -> None:
        self.resets = 0
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.seen: list[Any] = []

    def reset(self) -> None:
        self.resets += 1

    def predict_chunk(self, observation: Any) -> Any:
        self.seen.append(observation)
        self.go.wait()
        if self.failure:
            raise self.failure
        return observation["qpos"] + np.arange(K)[:, None]


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.go.set()


def server(source: Echo, port: int = 0, contract: Contract = CONTRACT, **about: Any) -> PolicyServer:
    return PolicyServer(ServedPolicy(source, contract, K, {"kind": "echo", **about}), "127.0.0.1", port, TOKEN)


def client(running: PolicyServer, token: str = TOKEN, **options: Any) -> RemotePolicy:
    return RemotePolicy(f"127.0.0.1:{running.port}", token, **{"timeout_s": 60.0, **options})


def observation(value: float = 0.0) -> Any:
    return {"qpos": np.float32([value, 1]), "images": {"top": np.full((4, 6, 3), 9, np.uint8)}, "stamps": {"qpos": 1}}


def test_chunks_come_from_the_other_side(echo: Echo) -> None:
    with server(echo).running() as running:
        policy = client(running)
        assert (policy.contract, policy.chunk_size, policy.about) == (CONTRACT, K, {"kind": "echo"})
        policy.reset()
        for value in (0.5, 0.25):
            chunk = policy.predict_chunk(observation(value))
            np.testing.assert_array_equal(chunk, [[value, 1], [value + 1, 2], [value + 2, 3]])
            assert chunk.dtype == np.float32
        assert policy.took_ms > 0
        policy.close()
    assert echo.resets == 1
    np.testing.assert_array_equal(echo.seen[0]["images"]["top"], np.full((4, 6, 3), 9))


def test_a_wrong_token_learns_nothing(echo: Echo) -> None:
    printed: list[str] = []
    made = PolicyServer(ServedPolicy(echo, CONTRACT, K), "127.0.0.1", 0, TOKEN, log=printed.append)
    with made.running() as running, pytest.raises(RemoteError, match="refused: the token is not the server's"):
        client(running, "sesame")
    assert len(printed) == 1
    assert printed[0].endswith("refused: the token is not the server's")


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"kind": "hello", "protocol": 99, "token": TOKEN}, "expected a hello of protocol 1, given 99"),
        ({"kind": "predict"}, "expected a hello of protocol 1, given None"),
        ({"kind": "hello", "protocol": PROTOCOL}, "the token is not the server's"),
    ],
)
def test_strangers_are_refused_in_words(hello: dict[str, Any], words: str, echo: Echo) -> None:
    with server(echo).running() as running, connect(f"ws://127.0.0.1:{running.port}", proxy=None) as stranger:
        stranger.send(pack(hello))
        assert unpack(stranger.recv(timeout=60)) == {"kind": "refused", "why": words}


def test_a_question_that_is_none_is_refused_in_words(echo: Echo) -> None:
    with server(echo).running() as running, connect(f"ws://127.0.0.1:{running.port}", proxy=None) as odd:
        odd.send(pack({"kind": "hello", "protocol": PROTOCOL, "token": TOKEN}))
        assert unpack(odd.recv(timeout=60))["kind"] == "welcome"
        odd.send(pack({"kind": "dance"}))
        assert unpack(odd.recv(timeout=60))["why"] == "a message of kind 'dance'; known: reset, instruct, predict"


class Instructed(Echo):
    """Knows one instruction."""

    def instruct(self, text: str | None) -> None:
        if text not in (None, "lift"):
            raise ContractError(f"the policy was not trained on the instruction '{text}'")
        self.seen.append(text)


def test_an_instruction_comes_with_each_observation_and_is_refused_at_once() -> None:
    source, log = Instructed(), list[str]()
    served = ServedPolicy(source, CONTRACT, K, {"policy": {"text_encoder": "table"}})
    with PolicyServer(served, "127.0.0.1", 0, TOKEN, log=log.append).running() as running:
        policy = client(running, instruction="lift")
        assert policy.reads_instruction
        policy.predict_chunk(observation())
        assert (source.seen[:2], len(source.seen)) == (["lift", "lift"], 3)
        with pytest.raises(RemoteError, match=r"failed: .*not trained on the instruction 'push'") as refused:
            client(running, instruction="push")
        until(lambda: [line for line in log if line.endswith(" left")], "the refused client leaves")
        assert refused.tb is not None  # whose frames hold the client: it was closed, not collected
    with server(Echo()).running() as running:
        policy = client(running, instruction="lift")  # which that policy does not read
        assert not policy.reads_instruction
        policy.predict_chunk(observation())


def test_the_policys_failure_is_reported_and_the_server_goes_on(echo: Echo) -> None:
    with server(echo).running() as running:
        policy = client(running)
        echo.failure = ContractError("camera 'top' is missing")
        with pytest.raises(RemoteError, match=r"the policy on 127.0.0.1:\d+ failed: camera 'top' is missing"):
            policy.predict_chunk(observation())
        echo.failure = RuntimeError("CUDA is gone")
        with pytest.raises(RemoteError, match="failed: RuntimeError: CUDA is gone"):
            policy.predict_chunk(observation())
        echo.failure = None
        assert policy.predict_chunk(observation()).shape == (K, 2)


def test_a_chunk_of_another_width_than_the_contracts_is_refused(echo: Echo) -> None:
    wide = Contract.of(CONTRACT.state_names, (*CONTRACT.action_names, "base_linear"), CONTRACT.cameras, 50.0)
    with (
        server(echo, contract=wide).running() as running,
        pytest.raises(ContractError, match=r"sent a chunk of \(3, 2\) float32, its contract has \(3, 3\)"),
    ):
        client(running).predict_chunk(observation())


def test_no_answer_in_time_is_a_lost_connection_and_the_late_one_is_not_mistaken(echo: Echo) -> None:
    with server(echo).running() as running:
        policy = client(running, timeout_s=0.2)
        echo.go.clear()
        with pytest.raises(ConnectionLostError, match=r"no answer from 127.0.0.1:\d+ within 0.2 s"):
            policy.predict_chunk(observation(5))
        echo.go.set()
        policy._timeout_s = 60.0
        np.testing.assert_array_equal(policy.predict_chunk(observation(7))[0], [7, 1])


def test_no_server_there_is_reported_with_the_address() -> None:
    with pytest.raises(ConnectionLostError, match=r"no policy server answers at 127.0.0.1:1: .*refused"):
        RemotePolicy("127.0.0.1:1", TOKEN, connect_timeout_s=0.05)


def test_a_server_that_comes_back_is_found_again(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    with server(echo).running() as running:
        policy = client(running)
        policy.predict_chunk(observation())
    with server(echo, running.port).running():
        np.testing.assert_array_equal(policy.predict_chunk(observation(2))[0], [2, 1])
    with server(echo, running.port, engine={"kind": "openvino", "measured": True}).running():  # it is faster today
        np.testing.assert_array_equal(policy.predict_chunk(observation(3))[0], [3, 1])
    assert "runs the policy otherwise than before" in caplog.text
    assert "openvino" in caplog.text
    other = Contract.of(CONTRACT.state_names, CONTRACT.action_names, {"top": (8, 8)}, 50.0)
    with (
        server(echo, running.port, other).running(),
        pytest.raises(RemoteError, match=r"127.0.0.1:\d+ serves another policy than before the connection was lost"),
    ):
        policy.predict_chunk(observation())


def test_with_the_server_gone_the_arms_hold_and_go_on_when_it_is_back(echo: Echo) -> None:
    with server(echo).running() as running:
        policy = AsyncInferencePolicy(
            client(running, timeout_s=0.2), 50.0, inference_interval=1, hold_s=1e9, budget_s=0.02
        )
        policy.reset()
        np.testing.assert_array_equal(policy.act(observation()), [0, 1])
    held: list[str] = []

    def lost() -> bool:
        try:
            policy.act(observation(3))
        except HoldStill as why:
            held.append(str(why))
        return sum("no policy server answers at" in why or "no answer from" in why for why in held) >= 5

    until(lost, "five steps held since the server is gone", 60.0)
    with server(echo, running.port).running():

        def actions() -> list[Any]:
            with contextlib.suppress(HoldStill):
                return [policy.act(observation(7))]
            return []

        ((first, *_),) = until(actions, "an action", 60.0)
        assert first >= 7
        policy.close()
    counted = policy.report()["held"]
    assert all(counted[why] >= held.count(why) for why in held)


def test_settings_that_make_no_sense_are_answered(echo: Echo) -> None:
    for text in ("gpu", "gpu:", ":8000", "gpu:0", "gpu:99999", "gpu:http"):
        with pytest.raises(ConfigError, match=f"an address is host:port, such as .*; given '{text}'"):
            address(text)
    assert (address("gpu:8000"), address("[::1]:80")) == (("gpu", 8000), ("::1", 80))
    with pytest.raises(ConfigError, match="a JPEG's quality is 1 to 100, given 0"):
        RemotePolicy("gpu:8000", TOKEN, quality=0)
    with pytest.raises(RemoteError, match="a server needs a token"):
        PolicyServer(ServedPolicy(echo, CONTRACT, K), "127.0.0.1", 0, "")
    with (
        server(echo).running() as running,
        pytest.raises(RemoteError, match=r"cannot serve on 127.0.0.1:\d+: .*in use"),
    ):
        server(echo, running.port)

"""The network beside the loop, and on another machine: a robot's side without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.deploy.__main__ import main
from aloha_kit.deploy.deployment_report import table
from aloha_kit.deploy.local_policy import TimedChunkPolicy
from aloha_kit.episode import Episode
from aloha_kit.policies.find import find_checkpoint
from aloha_kit.remote import PolicyServer, RemotePolicy
from tests.commands import failure
from tests.deploy import serving
from tests.deploy.conftest import CHUNK

EMPTY: Any = {"qpos": np.zeros(14, np.float32), "images": {"top": np.zeros((48, 64, 3), np.uint8)}, "stamps": {}}
TASK = ("--task", "sim_transfer_cube", "--episode_len", "12", "--num_rollouts", "1", "--video", "0")


def deploy(*argv: Any) -> None:
    main([str(word) for word in argv])


def fail(*argv: Any) -> str:
    return failure(deploy, *argv)


def test_beside_the_loop_the_network_has_rows_of_its_own(trained: Path, tmp_path: Path, capsys: Any) -> None:
    deploy("--ckpt", trained, *TASK, "--realtime", "--inference", "async", "--temporal_agg", "--output", tmp_path)
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert report["execution"]["inference"] == "async"
    stages, inference = report["latency"]["stages"], report["inference"]
    assert stages["async network"]["count"] == stages["async preprocessing"]["count"] == inference["inferences"]
    assert "network" not in stages
    assert sum(inference["held"].values()) == report["guard"]["held"]
    text = capsys.readouterr().out
    assert "async network" in text
    assert f"Asynchronous inference: {inference['inferences']} inferences, from observation to chunk" in text
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.length == 12


def test_async_inference_without_real_time_is_a_wrong_flag_before_anything_is_loaded(
    tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as ended:
        deploy("--ckpt", tmp_path / "absent", *TASK, "--inference", "async", "--output", tmp_path)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --inference async needs real time: add --realtime")


def test_a_network_that_fails_beside_the_loop_ends_the_rollout_by_name(
    trained: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def broken(agent: Any, observation: Any) -> Any:
        raise RuntimeError("CUDA is gone")

    monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", broken)
    text = fail("--ckpt", trained, *TASK, "--realtime", "--inference", "async", "--output", tmp_path)
    assert text == "error: step 0: the policy failed on the observation of step 0: RuntimeError: CUDA is gone"


WITHOUT_TORCH = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "safetensors"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
from aloha_kit.deploy.__main__ import main
main(sys.argv[1:])
"""


@pytest.fixture
def served(trained: Path) -> Iterator[str]:
    with serving.served(trained) as address:
        yield address


def test_a_served_policy_acts_as_it_would_here_and_the_robot_needs_no_torch(
    served: str, trained: Path, tmp_path: Path
) -> None:
    robot = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "--remote", served, *TASK, "--timeout_s", "60",
         "--output", str(tmp_path / "far")],
        env={**os.environ, "ALOHA_KIT_TOKEN": "secret"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert robot.returncode == 0, robot.stderr
    deploy("--ckpt", trained, *TASK, "--engine", "eager", "--output", tmp_path / "near")
    with Episode.open(tmp_path / "far/episode_0.hdf5") as far, Episode.open(tmp_path / "near/episode_0.hdf5") as near:
        np.testing.assert_allclose(far.action, near.action, atol=1e-4)
        assert json.loads(far.attrs["describe"])["policy"].endswith(f"best on {served}")
    report = json.loads((tmp_path / "far/deploy.json").read_text())
    assert report["policy"]["chunk_size"] == CHUNK
    assert report["execution"]["remote"] == served
    assert report["execution"]["inference"] == "sync"
    assert report["latency"]["stages"]["network"]["count"] == 3


def test_images_may_travel_as_jpeg(served: str, tmp_path: Path) -> None:
    deploy("--remote", served, "--token", "secret", *TASK, "--jpeg", 95, "--timeout_s", 60, "--output", tmp_path)
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.length == 12


def test_larger_images_are_resized_before_they_travel(served: str, trained: Path, tmp_path: Path) -> None:
    flags = (*TASK, "--image_size", 96, 128, "--resize_images")
    deploy("--remote", served, "--token", "secret", *flags, "--timeout_s", 60, "--output", tmp_path / "far")
    deploy("--ckpt", trained, *flags, "--engine", "eager", "--output", tmp_path / "near")
    with Episode.open(tmp_path / "far/episode_0.hdf5") as far, Episode.open(tmp_path / "near/episode_0.hdf5") as near:
        np.testing.assert_allclose(far.action, near.action, atol=1e-4)
        assert far.image_size("top") == (96, 128)


@pytest.mark.parametrize("token", [None, "secret"])
def test_serving_states_where_and_at_the_end_how_fast(
    token: str | None, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("ALOHA_KIT_TOKEN", raising=False)

    def infer_and_interrupt(server: PolicyServer) -> None:
        printed = capsys.readouterr().out
        address = re.search(r"^serving \S+best on (127.0.0.1:\d+)$", printed, re.MULTILINE)
        shown = re.search(r"^token: (\S+)$", printed, re.MULTILINE)
        assert address
        assert bool(shown) is (token is None)  # one that the operator chose is not repeated
        answering = threading.Thread(target=server._server.serve_forever, daemon=True)
        answering.start()
        policy = RemotePolicy(address[1], shown[1] if shown else "secret", timeout_s=60.0)
        assert policy.predict_chunk(EMPTY).shape == (CHUNK, 14)
        policy.close()
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(PolicyServer, "serve_forever", infer_and_interrupt)
    given = ["--token", token] if token else []
    assert fail("serve", "--ckpt", trained, "--port", "0", *given) == "143"
    assert "network: 1 times, p50 " in capsys.readouterr().out


def test_either_here_or_elsewhere(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    either = "error: give either --ckpt RUN, to run the network here, or --remote HOST:PORT"
    assert fail("--task", "sim_insertion") == either
    assert fail("--task", "sim_insertion", "--ckpt", trained, "--remote", "gpu:8000") == either
    monkeypatch.delenv("ALOHA_KIT_TOKEN", raising=False)
    assert "the policy server needs its token: give --token, or set ALOHA_KIT_TOKEN" in fail(
        "--task", "sim_insertion", "--remote", "gpu:8000", "--output", trained / "x"
    )
    assert fail("--task", "sim_insertion", "--remote", "gpu", "--token", "x", "--output", trained / "x") == (
        "error: an address is host:port, such as 192.168.1.5:8000; given 'gpu'"
    )
    assert "--jpeg must be 1 to 100, given 0" in fail("--task", "x", "--remote", "gpu:8000", "--jpeg", "0")
    assert "--hold_s must be at least 0, given -1.0" in fail("--task", "x", "--ckpt", trained, "--hold_s", "-1")
    assert "no checkpoint at" in fail("serve", "--ckpt", trained / "nothing")
    none = f"error: {find_checkpoint(trained)} reads no instruction (no text_encoder), given --instruction"
    assert none in fail("serve", "--ckpt", trained, "--instruction", "lift")
    assert none in fail("--ckpt", trained, "--task", "sim_transfer_cube", "--instruction", "lift")


def test_the_table_reports_why_the_arms_held() -> None:
    details = {
        "inference": {"inferences": 9, "chunks": 8, "late": 2, "held": {"no answer from gpu:8000 within 1 s": 4},
                      "delay_steps": {"p50": 3.0, "max": 12}},
        "guard": {"commands": 99, "limited": 0, "held": 4, "limited_by": {}, "faults": {}},
    }  # fmt: skip
    lines = table([], "", details).splitlines()
    assert (
        "Asynchronous inference: 9 inferences, from observation to chunk 3 steps (p50), 12 at most;"
        " 2 chunks too late, 4 steps held still for want of one"
    ) in lines
    assert "  held: no answer from gpu:8000 within 1 s (4x)" in lines

"""Cameras, starts and names that are given on the command line: to deploy, to serve, to eval."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.policies import load_policy
from aloha_kit.core import Contract, joint_names
from aloha_kit.deploy.__main__ import main as deploy_main
from aloha_kit.deploy.local_policy import local
from aloha_kit.episode import Episode
from aloha_kit.eval.__main__ import main as eval_main
from aloha_kit.loop import LatencyReport
from aloha_kit.policies.build import build
from aloha_kit.policies.find import find_checkpoint
from aloha_kit.policies.reference_export import save_reference
from aloha_kit.remote import PolicyServer, ServedPolicy
from tests.commands import failure
from tests.deploy.conftest import CONTRACT, save_checkpoint
from tests.tiny import statistics

TASK = ("--task", "sim_transfer_cube", "--episode_len", 6)
DEPLOY = (*TASK, "--video", 0, "--engine", "eager")
EVAL = (*TASK, "--workers", 1, "--batch", 2)
HIGH = Contract.of(joint_names(), joint_names(), {"cam_high": (48, 64)}, rate_hz=50.0)


def deploy(*argv: Any) -> None:
    deploy_main([str(word) for word in argv])


def evaluate(*argv: Any) -> None:
    eval_main([str(word) for word in argv])


def fail(run: Any, *argv: Any) -> str:
    return failure(run, *argv)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published ACT's files, of one camera as far as anybody can tell."""
    torch.manual_seed(0)
    config = load_policy("act_reference", chunk_size=4, hidden_dim=32, dim_feedforward=32, dec_layers=1)
    folder = tmp_path_factory.mktemp("published")
    save_reference(build(config, CONTRACT, statistics(), pretrained=False), folder)
    return folder


def test_what_is_assumed_of_a_published_checkpoint_is_printed_and_kept(
    published: Path, tmp_path: Path, capsys: Any
) -> None:
    deploy("--ckpt", published, *DEPLOY, "--image_size", 48, 64, "--num_rollouts", 1, "--output", tmp_path / "d")
    task = "task 'sim_transfer_cube'"
    line = (
        "policy_best.ckpt: assumed, since the checkpoint does not record it: cameras top 48x64"
        f" (names: {task}; number: {task}; sizes: --image_size), 50 Hz ({task})\n"
    )
    assert line in capsys.readouterr().err
    report = json.loads((tmp_path / "d/deploy.json").read_text())
    assert report["assumed"]["cameras"] == {"top": [48, 64]}
    assert report["assumed"]["sizes_from"] == "--image_size"

    given = ("--cameras", "left_wrist", "top", "--image_size", 48, 64)
    evaluate("--ckpt", published, *EVAL, *given, "--num_rollouts", 2, "--output", tmp_path / "e")
    assert "cameras left_wrist 48x64, top 48x64 (names: --cameras; number: --cameras;" in capsys.readouterr().err
    checkpoint = json.loads((tmp_path / "e/eval.json").read_text())["checkpoints"][0]
    assert list(checkpoint["assumed"]["cameras"]) == ["left_wrist", "top"]
    assert checkpoint["success"]["trials"] == 2


def test_a_camera_that_the_rig_has_not_is_named(published: Path, tmp_path: Path) -> None:
    given = ("--cameras", "front", "--image_size", 48, 64, "--output", tmp_path)
    assert "camera 'front' is missing; there are: (none)" in fail(deploy, "--ckpt", published, *DEPLOY, *given)


def test_serving_needs_the_cameras_by_name(published: Path) -> None:
    assert "does not record how many cameras it was trained on" in fail(deploy, "serve", "--ckpt", published)
    assert "--rate_hz must be more than 0" in fail(deploy, "serve", "--ckpt", published, "--rate_hz", 0)


@pytest.mark.parametrize(("run", "flags"), [(deploy, DEPLOY), (evaluate, EVAL)])
def test_a_camera_of_another_name_is_renamed(run: Any, flags: Any, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "run/checkpoints/best", HIGH)
    more = ("--num_rollouts", 1, "--output", tmp_path / "out")
    assert "camera 'cam_high' is missing" in fail(run, "--ckpt", source, *flags, *more)
    assert "did you mean cam_high=top?" in fail(run, "--ckpt", source, *flags, *more, "--rename", "top=cam_high")
    assert "--rename takes POLICY_CAMERA=RIG_CAMERA" in fail(run, "--ckpt", source, *flags, *more, "--rename", "top")
    run("--ckpt", source, *flags, *more, "--rename", "cam_high=top")
    (file,) = (tmp_path / "out").glob("*.json")
    report = json.loads(file.read_text())
    found = report if run is deploy else report["checkpoints"][0]
    assert (found["rename"], found["assumed"]) == ({"cam_high": "top"}, None)


def test_one_of_two_compared_policies_is_renamed(tmp_path: Path) -> None:
    high, top = save_checkpoint(tmp_path / "high", HIGH), save_checkpoint(tmp_path / "top")
    given = ("--ckpt", high, "--ckpt", top, *EVAL, "--num_rollouts", 1, "--output", tmp_path / "out")
    assert "no checkpoint has a camera 'front'" in fail(evaluate, *given, "--rename", "front=top")
    evaluate(*given, "--rename", "cam_high=top")
    report = json.loads((tmp_path / "out/eval.json").read_text())
    assert [checkpoint["rename"] for checkpoint in report["checkpoints"]] == [{"cam_high": "top"}, {}]


def test_a_renamed_camera_acts_as_before_here_and_behind_a_server(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALOHA_KIT_TOKEN", "secret")
    high = save_checkpoint(tmp_path / "high/checkpoints/best", HIGH)
    top = save_checkpoint(tmp_path / "top/checkpoints/best")
    more = (*DEPLOY, "--num_rollouts", 1, "--output")
    deploy("--ckpt", top, *more, tmp_path / "plain")
    deploy("--ckpt", high, "--rename", "cam_high=top", *more, tmp_path / "near")
    source = local(find_checkpoint(high))
    served = ServedPolicy(
        source.timed(LatencyReport(50.0).beside), source.contract, source.chunk_size, dict(source.about)
    )
    with PolicyServer(served, "127.0.0.1", 0, "secret").running() as server:
        where = ("--remote", f"127.0.0.1:{server.port}", "--timeout_s", 60)
        deploy(*where, "--rename", "cam_high=top", *more, tmp_path / "far")
        assert "camera 'cam_high' is missing" in fail(deploy, *where, *more, tmp_path / "not")
    actions = []
    for name in ("plain", "near", "far"):
        with Episode.open(tmp_path / name / "episode_0.hdf5") as episode:
            actions.append(episode.action)
    np.testing.assert_array_equal(actions[1], actions[0])
    np.testing.assert_allclose(actions[2], actions[0], atol=1e-4)


def test_cameras_of_a_checkpoint_that_reports_them_are_not_given(trained: Path, tmp_path: Path) -> None:
    text = fail(deploy, "--ckpt", trained, *DEPLOY, "--cameras", "angle", "--output", tmp_path)
    assert "records its cameras as: top; given --cameras angle." in text
    assert "--cameras is for where the network runs" in fail(
        deploy, "--remote", "gpu:8000", "--task", "sim_insertion", "--cameras", "top"
    )


POSES = np.array([[0.05, 0.45, 0.05, 1, 0, 0, 0], [0.15, 0.55, 0.05, 0, 0, 0, 1], [0.1, 0.5, 0.05, 1, 0, 0, 0]])


def test_rollouts_start_where_the_file_states(trained: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "poses.npy", POSES)
    given = ("--eval_poses", tmp_path / "poses.npy")
    deploy("--ckpt", trained, *DEPLOY, *given, "--num_rollouts", 2, "--output", tmp_path / "two")
    report = json.loads((tmp_path / "two/deploy.json").read_text())
    assert (report["asked_rollouts"], report["eval_poses"]) == (2, str(tmp_path / "poses.npy"))
    assert len(report["rollouts"]) == 2
    for i in range(2):
        with Episode.open(tmp_path / f"two/episode_{i}.hdf5") as episode:
            np.testing.assert_allclose(episode.vectors["environment_state"][0], POSES[i], atol=1e-6)
    evaluate("--ckpt", trained, *EVAL, *given, "--output", tmp_path / "all")
    report = json.loads((tmp_path / "all/eval.json").read_text())
    assert (report["asked_rollouts"], report["checkpoints"][0]["success"]["trials"]) == (3, 3)
    assert report["eval_poses"] == str(tmp_path / "poses.npy")


def test_starts_that_do_not_fit_are_refused(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    np.save(tmp_path / "poses.npy", np.hstack([POSES, POSES]))
    given = ("--eval_poses", tmp_path / "poses.npy", "--output", tmp_path / "out")
    words = "scene 'transfer_cube' starts with 7 numbers, 7 each of cube; given 14"
    assert words in fail(deploy, "--ckpt", trained, *DEPLOY, *given)
    assert words in fail(evaluate, "--ckpt", trained, *EVAL, *given)
    assert "--num_rollouts 4, but" in fail(evaluate, "--ckpt", trained, *EVAL, *given, "--num_rollouts", 4)
    on_rig = fail(deploy, "--ckpt", trained, "--task", "aloha_transfer_cube", *given)
    assert on_rig == "error: --eval_poses is for simulation; rig 'aloha' has objects that a person places\n"
    assert os.listdir(tmp_path / "out") == []

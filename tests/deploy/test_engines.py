"""The flags of an engine, from the command line to the report, and what happens where one is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tyro

from aloha_kit import envs
from aloha_kit.config.inference import Precision
from aloha_kit.deploy import app
from aloha_kit.deploy import serve as serving
from aloha_kit.deploy.__main__ import main
from aloha_kit.deploy.args import ServeArgs
from aloha_kit.policies import engine, engine_choice
from aloha_kit.storage import Episode
from tests.commands import failure

TASK = ("--task", "sim_transfer_cube", "--episode_len", "6", "--num_rollouts", "1", "--video", "0")


def deploy(*argv: Any) -> None:
    main([str(word) for word in argv])


def fail(*argv: Any) -> str:
    return failure(deploy, *argv)


def execution(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "deploy.json").read_text())["execution"]


def test_the_report_has_the_engine_and_its_error(trained: Path, tmp_path: Path, capsys: Any) -> None:
    deploy("--ckpt", trained, *TASK, "--engine", "eager", "--precision", "bf16", "--output", tmp_path / "bf16")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines() if "--precision bf16" in line]
    assert lines[0] == "preparing --engine eager --precision bf16"
    assert lines[1].startswith("--engine eager --precision bf16 is ready after ")
    about = execution(tmp_path / "bf16")["engine"]
    assert (about["kind"], about["precision"], about["tolerance_of_std"]) == ("eager", "bf16", 0.1)
    assert 0 < about["max_error_of_std"] < 0.1
    assert len(about["max_error"]) == 14
    deploy("--ckpt", trained, *TASK, "--engine", "eager", "--output", tmp_path / "eager")
    assert "engine" not in capsys.readouterr().err
    assert execution(tmp_path / "eager")["engine"] == {"kind": "eager", "precision": "fp32"}


def test_an_engine_that_is_not_named_is_measured(trained: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """OpenVINO, which is made out to be faster here, then runs every inference; report and episode have its name."""
    monkeypatch.setattr(engine_choice, "FAST_MS", 0.0)
    monkeypatch.setattr(engine_choice, "soonest", lambda times: 1)
    deploy("--ckpt", trained, *TASK, "--output", tmp_path / "out")
    assert capsys.readouterr().err.count("inference by --engine openvino --precision fp32: ") == 1
    about = execution(tmp_path / "out")["engine"]
    assert (about["kind"], about["precision"], about["measured"]) == ("openvino", "fp32", True)
    assert 0 < about["max_error_of_std"] < 1e-4
    with Episode.open(tmp_path / "out" / "episode_0.hdf5") as episode:
        assert episode.describe["engine"] == "openvino fp32"


def test_a_wrong_engine_is_refused_before_there_is_a_rig(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    tight: dict[Precision, float] = {"fp32": 0, "bf16": 1e-6}
    monkeypatch.setattr(engine, "TOLERANCE", tight)
    monkeypatch.setattr(envs, "connect", lambda *args, **kwargs: pytest.fail("the rig was connected"))
    text = fail("--ckpt", trained, *TASK, "--precision", "bf16", "--output", tmp_path / "out")
    assert text.startswith("error: --engine eager --precision bf16 differs from eager fp32: ")
    assert text.endswith("allowed are 1e-06. Nothing has moved; use --precision fp32")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_engine_is_the_servers_where_there_is_one() -> None:
    assert fail("--remote", "gpu:8000", *TASK, "--precision", "bf16") == (
        "error: --engine and --precision are for where the network runs: give them to the policy server"
    )


def test_a_server_reports_its_engine(trained: Path, monkeypatch: Any) -> None:
    reported: dict[str, Any] = {}

    def server(served: Any, *args: Any, **kwargs: Any) -> None:
        reported.update(served.about)
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "PolicyServer", server)
    args = tyro.cli(ServeArgs, args=["--ckpt", str(trained), "--precision", "bf16"], use_underscores=True)
    with pytest.raises(KeyboardInterrupt):
        app.run(args)
    assert reported["engine"]["precision"] == "bf16"
    assert reported == json.loads(json.dumps(reported))

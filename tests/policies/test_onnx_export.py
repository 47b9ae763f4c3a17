"""ONNX models of policies: read by onnxruntime alone, compared with the network, and refused where they differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from aloha_kit.config.bc import BcConfig
from aloha_kit.config.denoising import DiffusionConfig, MipConfig
from aloha_kit.config.ibc import IbcConfig
from aloha_kit.core import ConfigError, Contract
from aloha_kit.policies import checkpoint, onnx_export
from aloha_kit.policies.__main__ import main
from aloha_kit.policies.collate import disassembled
from aloha_kit.policies.engine import blank, draws_of, generator_of, probes
from aloha_kit.policies.generator import sample_draws
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.testing.policies import stats_of
from tests.policies import test_bc, test_denoising, test_ibc, test_networks

onnx = pytest.importorskip("onnx", reason="needs aloha_kit[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="needs aloha_kit[onnx]")
pytest.importorskip("onnxscript", reason="needs aloha_kit[onnx]")


def of_networks(name: str) -> Callable[[], ChunkNetwork]:
    return lambda: test_networks.network_of(*test_networks.CASES[name]).eval()


NETWORKS: dict[str, Callable[[], ChunkNetwork]] = {
    "act, equal cameras": of_networks("act, equal cameras in one pass"),
    "act, resized": of_networks("act, resized"),
    "cnnmlp": of_networks("cnnmlp"),
    "bc, lstm, mixture": lambda: test_bc.network_of(
        BcConfig(**test_bc.SMALL, **test_bc.CASES["lstm, mixture"]), test_bc.PLANE
    ),
    "diffusion": lambda: test_denoising.network_of(
        DiffusionConfig(**test_denoising.SMALL, inference_steps=3), test_denoising.PLANE
    ),
    "mip, transformer, two steps": lambda: test_denoising.network_of(
        MipConfig(**test_denoising.TRANSFORMER), test_denoising.PLANE
    ),
    "ibc": lambda: test_ibc.network_of(IbcConfig(**test_ibc.SMALL, dfo_std=0.05), test_ibc.PLANE),
}


def made(name: str) -> ChunkNetwork:
    torch.manual_seed(0)
    return NETWORKS[name]()


def infer(file: Path, network: ChunkNetwork, rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Actions of the file and of the network, for one batch of observations like the training data's."""
    batch = next(probes(network, blank(network, rows)))
    draws = draws_of(network, batch)
    generator = generator_of(network, batch)
    noise = [] if generator is None else sample_draws(generator, draws)
    given = {name: tensor.numpy() for name, tensor in disassembled(batch).items()}
    given |= {f"noise_{i}": tensor.numpy() for i, tensor in enumerate(noise)}
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        wanted = network.predict(batch, generator_of(network, batch)).numpy()
    return session.run(None, given)[0], wanted


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_acts_as_the_network_for_any_batch(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = made(name)
    onnx_export.export(network, tmp_path / "policy.onnx")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    for rows in (1, 4):
        given, wanted = infer(tmp_path / "policy.onnx", network, rows)
        assert given.shape == (rows, network.chunk_size, network.action_dim)
        np.testing.assert_allclose(given / network.stats["action"].std, wanted / network.stats["action"].std, atol=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["policy.onnx"]


def test_a_command_writes_it_with_names_types_and_metadata(tmp_path: Path, capsys: Any) -> None:
    network = of_networks("act, two cameras of two sizes")()
    contract = network.contract
    checkpoint.save(tmp_path / "run/checkpoints/best", network, network.config, stats_of(contract), contract)
    main(["export", str(tmp_path / "run"), str(tmp_path / "out/policy.onnx"), "--format", "onnx"])
    lines = capsys.readouterr().out.splitlines()
    images = [f"input images/{name}: batchx{h}x{w}x3 uint8" for name, (h, w) in contract.cameras.items()]
    assert lines[0] == str(tmp_path / "out/policy.onnx")
    assert lines[1:-1] == ["input qpos: batchx14 float32", *images, "output actions: batchx5x14 float32"]
    assert lines[-1].startswith("differs from eager fp32 by at most ")
    model = onnx.load(tmp_path / "out/policy.onnx")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert Contract.from_json(properties["contract"]) == contract
    read = {key: json.loads(value) for key, value in properties.items() if key not in ("contract", "kind")}
    assert read["cameras"] == {name: list(size) for name, size in contract.cameras.items()}
    assert (read["chunk_size"], read["n_action_steps"], read["noise"]) == (5, 5, [])
    with pytest.raises(SystemExit, match=r"policy\.onnx is there already, and nothing is replaced"):
        main(["export", str(tmp_path / "run"), str(tmp_path / "out/policy.onnx"), "--format", "onnx"])


def test_what_differs_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = made("cnnmlp")
    true_runs = onnx_export._runs

    def off(*given: Any) -> Any:
        predict = true_runs(*given)
        return lambda batch, generator: predict(batch, generator) + 1

    monkeypatch.setattr(onnx_export, "_runs", off)
    with pytest.raises(ConfigError, match=r"the ONNX model differs from eager fp32: .* Nothing is written"):
        onnx_export.export(network, tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = onnx_export.importlib.import_module

    def missing(name: str) -> Any:
        if name == "onnxscript":
            raise ImportError(f"No module named '{name}'")
        return true_import(name)

    monkeypatch.setattr(onnx_export.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxruntime and onnxscript .*pip install 'aloha_kit\[onnx\]'"):
        onnx_export.export(made("cnnmlp"), tmp_path / "policy.onnx")
    with pytest.raises(ConfigError, match="the inputs of a model have their names"):
        onnx_export.export(made("cnnmlp"), tmp_path / "policy.onnx", ["top"])

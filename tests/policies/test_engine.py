"""Inference engines: each predicts what eager fp32 predicts, or is refused before anything moves."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torchvision.ops.misc import FrozenBatchNorm2d

from aloha_kit.config.inference import EngineKind, Precision
from aloha_kit.core import ConfigError
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.policies.build import build
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank, check, Engine, prepare, probes
from aloha_kit.policies.engine_bf16 import in_bf16
from aloha_kit.policies.engine_compile import compiled
from aloha_kit.policies.engine_openvino import OpenVINOModel
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.testing.policies import batch_of, contract_of, stats_of
from tests.policies.test_networks import act, network_of, TWO
from tests.policies.test_networks import CASES as NETWORKS

CASES = {
    **{name: case for name, case in NETWORKS.items() if "loss" not in name and "VAE" not in name},
    "act, frozen norm": (act(backbone_norm="frozen", backbone_width=64, pretrained_backbone=True), contract_of(TWO)),
}


def made(name: str = "act, two cameras of two sizes") -> ChunkNetwork:
    """A network whose normalisations have something to normalise."""
    torch.manual_seed(0)
    network = network_of(*CASES[name]).eval()
    for module in network.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network


def seen(network: ChunkNetwork, rows: int, seed: int = 3) -> Batch:
    batch = batch_of(network.contract, rows=network.chunk_size, size=rows, seed=seed)
    only = Batch(qpos=batch["qpos"], images=batch["images"])
    if "environment_state" in batch:
        only["environment_state"] = batch["environment_state"]
    return only


def off(network: ChunkNetwork, engine: Any, batch: Batch) -> float:
    """Largest difference from the network, in standard deviations."""
    with torch.inference_mode():
        difference = engine(batch).double() - network.predict(batch).double()
    return float((difference.abs() / torch.from_numpy(network.stats["action"].std)).max())


def observation(network: ChunkNetwork) -> dict[str, Any]:
    batch = seen(network, 1, seed=9)
    return {
        "qpos": batch["qpos"][0].numpy(),
        "images": {name: image[0].permute(1, 2, 0).numpy() for name, image in batch["images"].items()},
    }


def test_the_default_is_the_network_itself() -> None:
    network = made()
    engine = prepare(network, example=blank(network, 1))
    assert engine.predict == network.predict
    assert engine.about() == {"kind": "eager", "precision": "fp32"}
    batch = seen(network, 1)
    with torch.inference_mode():
        assert torch.equal(engine(batch), network.predict(batch))
    assert not engine(batch).requires_grad


@pytest.mark.parametrize("name", CASES)
def test_bf16_is_close_and_leaves_the_network_as_it_is(name: str) -> None:
    network = made(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    engine = prepare(network, precision="bf16", example=blank(network, 2))
    assert 1e-4 < off(network, engine, seen(network, 2)) < 0.05
    assert engine(seen(network, 2)).dtype == torch.float32
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)


def test_in_bf16_the_last_layer_makes_no_stairs() -> None:
    """256 steps from one power of two to the next would be 1 % of a deviation each."""
    network = made()
    chunks = torch.cat([in_bf16(network)(seen(network, 1, seed)) for seed in range(8)]).detach()
    normalised = network.normaliser("action", chunks)
    assert float((normalised - normalised.bfloat16().float()).abs().max()) > 1e-4
    narrow = torch.autocast("cpu", torch.bfloat16)(network.predict)(seen(network, 1)).detach()
    again = network.normaliser("action", narrow)
    assert float((again - again.bfloat16().float()).abs().max()) < 1e-5  # what it is kept from


@pytest.mark.parametrize(
    ("name", "precision", "most"),
    [
        ("act, two cameras of two sizes", "fp32", 1e-4),
        ("act, resized", "bf16", 0.05),
        ("act, batch norm", "fp32", 1e-4),
        ("cnnmlp, chunks, l1, object poses", "bf16", 0.05),
    ],
)
def test_openvino_predicts_the_same(
    name: str, precision: Precision, most: float, caplog: pytest.LogCaptureFixture
) -> None:
    network = made(name)
    caplog.set_level("INFO", "aloha_kit")
    engine = prepare(network, engine="openvino", precision=precision, example=blank(network, 2))
    assert off(network, engine, seen(network, 2)) < most
    assert torch.equal(engine(seen(network, 2)), engine(seen(network, 2)))
    assert caplog.messages[0] == f"preparing --engine openvino --precision {precision}"
    assert re.match(
        rf"--engine openvino --precision {precision} is ready after [\d.]+ s; one inference \d+ ms, eager",
        caplog.messages[1],
    )
    assert sys.modules["openvino_telemetry"] is None


def test_a_second_start_reads_the_converted_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALOHA_KIT_CACHE", str(tmp_path))
    network, other = made().eval(), made().eval()
    with torch.no_grad():
        next(iter(other.parameters())).add_(0.01)
    batch = seen(network, 1)
    fresh = OpenVINOModel(network, blank(network, 1)).compiled("fp32")(batch)
    (folder,) = (tmp_path / "openvino").iterdir()
    exports: list[str] = []
    export = torch.export.export

    def counted(*args: Any, **kwargs: Any) -> Any:
        exports.append("an export")
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    assert torch.equal(OpenVINOModel(network, blank(network, 1)).compiled("fp32")(batch), fresh)
    assert exports == []
    (folder / "model.xml").write_text("damaged")
    assert torch.equal(OpenVINOModel(network, blank(network, 1)).compiled("fp32")(batch), fresh)
    assert len(exports) == 1
    monkeypatch.setattr("aloha_kit.policies.openvino_cache.KEPT", 1)
    OpenVINOModel(other, blank(network, 1))  # other weights
    assert len(exports) == 2
    (kept,) = (tmp_path / "openvino").iterdir()
    assert kept != folder


def test_a_model_of_other_statistics_is_converted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks with equal weights: what they predict differs by the scale of the actions."""
    monkeypatch.setenv("ALOHA_KIT_CACHE", str(tmp_path))
    network = made().eval()
    actions = network.stats["action"]
    wider = dataclasses.replace(actions, std=2 * actions.std)
    stats = Statistics({**network.stats.moments, "action": wider})
    other = build(network.config, network.contract, stats, pretrained=False).eval()
    other.load_state_dict(network.state_dict())
    batch = seen(network, 1)
    first, second = (OpenVINOModel(each, blank(each, 1)).compiled("fp32")(batch) for each in (network, other))
    mean = torch.from_numpy(actions.mean)
    torch.testing.assert_close(second - mean, 2 * (first - mean), atol=1e-4, rtol=1e-4)


def test_a_folder_that_cannot_be_written_to_is_no_reason_not_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ALOHA_KIT_CACHE", str(tmp_path / "file"))
    network = made().eval()
    batch = seen(network, 1)
    predict = OpenVINOModel(network, blank(network, 1)).compiled("fp32")
    torch.testing.assert_close(predict(batch), network.predict(batch), atol=1e-4, rtol=1e-4)


TWO_ENGINES = """
import gc, signal
from aloha_kit.policies.engine import blank
from aloha_kit.policies.engine_openvino import OpenVINOModel
from aloha_kit.testing.policies import contract_of
from tests import tiny

network = tiny.network(contract_of({"top": (24, 32)}), tiny.ACT)
model = OpenVINOModel(network.eval(), blank(network, 1))
first, second = model.compiled("fp32"), model.compiled("fp32")
del first
gc.collect()
del second, model
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("stopped"))
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_is_handled_after_engines_are_freed_in_any_order() -> None:
    """Each core of OpenVINO's would leave the thread a stack for signal handlers that another one has freed."""
    done = subprocess.run([sys.executable, "-c", TWO_ENGINES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_openvino_that_is_missing_or_cannot_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()
    elsewhere = Batch(qpos=torch.zeros(1, 14, device="meta"), images={})
    with pytest.raises(
        ConfigError, match="--engine openvino is for a CPU, the network is on meta; use --engine compile"
    ):
        prepare(network, engine="openvino", example=elsewhere)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        ConfigError, match=r"needs OpenVINO .* pip install openvino \(or pip install 'aloha_kit\[openvino\]'\)"
    ):
        prepare(network, engine="openvino", example=blank(network, 1))


def test_what_was_compiled_is_what_runs_in_any_thread() -> None:
    """Compiling takes a minute: it must not happen again in a rollout."""
    network = made()
    traced = 0

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal traced
        traced += 1
        return module.forward

    torch._dynamo.reset()
    engine = Engine("compile", "fp32", compiled(network.predict, blank(network, 1), backend=backend))
    check(engine, network, blank(network, 1))
    graphs = traced
    look = observation(network)
    policy = ChunkPolicy(network, predict=engine)
    chunks = [policy.predict_chunk(look)]
    beside = threading.Thread(target=lambda: chunks.append(policy.predict_chunk(look)))
    beside.start()
    beside.join()
    buffer = SharedBuffer(1, network.contract, network.chunk_size)
    buffer.put_observation(0, look)
    BatchedInference(network, buffer, 1, engine)([0])
    assert traced == graphs >= 1
    for chunk in (*chunks, buffer.chunk(0)):
        np.testing.assert_allclose(chunk, ChunkPolicy(network).predict_chunk(look), atol=1e-5)


def test_without_a_compiler_it_states_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    example = Batch(qpos=torch.zeros(1, 14), images={})
    refused = pytest.raises(
        ConfigError, match=r"--engine compile does not work here: .*compiler.* use --engine eager or"
    )
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), refused:
        compiled(lambda batch, generator: batch["qpos"].sin() * 2, example)


@pytest.mark.parametrize(
    ("kind", "precision", "wrong", "text"),
    [
        (
            "openvino",
            "fp32",
            0.5,
            "standard deviations; allowed are 0.01. Nothing has moved; use --engine eager",
        ),
        (
            "eager",
            "bf16",
            0.5,
            "standard deviations; allowed are 0.1. Nothing has moved; use --precision fp32",
        ),
        ("compile", "fp32", float("nan"), "standard deviations; allowed are 0.01. Nothing has moved"),
    ],
)
def test_an_engine_that_is_wrong_is_refused(kind: EngineKind, precision: Precision, wrong: float, text: str) -> None:
    network = made()
    error = torch.zeros(network.action_dim)
    error[-1] = wrong
    engine = Engine(kind, precision, lambda batch, generator: network.predict(batch) + error)
    message = f"--engine {kind} --precision {precision} differs from eager fp32: right_gripper is off by {wrong}, "
    share = wrong / stats_of(contract_of(TWO))["action"].std[-1]
    with pytest.raises(ConfigError, match=re.escape(f"{message}{share:.3g} of") + ".*" + re.escape(text)):
        check(engine, network, blank(network, 1))


def test_a_joint_that_never_moved_is_judged_by_the_floor() -> None:
    network = network_of(act(), contract_of(TWO))
    network.stats["action"].std[3] = 0
    error = torch.zeros(14)
    error[3] = 0.005  # half of the floor of 0.01
    with pytest.raises(ConfigError, match=r"left_forearm_roll is off by 0\.005, 0\.5 of its standard deviations"):
        check(
            Engine("openvino", "bf16", lambda batch, generator: network.predict(batch) + error),
            network.eval(),
            blank(network, 1),
        )


def test_the_measured_error_is_reported_in_each_actions_units() -> None:
    network = made()
    error = torch.linspace(0.0001, 0.0014, 14)
    engine = Engine("openvino", "fp32", lambda batch, generator: network.predict(batch) + error)
    checked = check(engine, network, blank(network, 1))
    about = Engine("openvino", "fp32", engine.predict, checked).about()
    assert about == json.loads(json.dumps(about))
    assert list(about["max_error"]) == list(network.contract.action_names)
    np.testing.assert_allclose(list(about["max_error"].values()), error, rtol=0.05)
    shares = error.numpy() / stats_of(contract_of(TWO))["action"].std
    assert about["max_error_of_std"] == pytest.approx(shares.max(), rel=0.05)
    assert checked.worst == network.contract.action_names[int(shares.argmax())]
    assert about["tolerance_of_std"] == 0.01
    assert checked.ms > 0 < checked.eager_ms


def test_what_engines_are_compared_on_looks_like_the_data() -> None:
    network = made("act, object poses beside images")
    example = blank(network, 4)
    assert not example["qpos"].any()
    assert not example["images"]["top"].any()
    first, again = list(probes(network, example)), list(probes(network, example))
    rows = torch.cat([batch["qpos"] for batch in first]).numpy()
    moments = network.stats["qpos"]
    assert rows.shape == (12, 14)
    assert np.all(rows >= moments.min)
    assert np.all(rows <= moments.max)
    assert np.all(rows.std(axis=0) > 0.3 * moments.std)
    for batch, same in zip(first, again, strict=True):
        assert batch["environment_state"].shape == (4, 3)
        image = batch["images"]["top"]
        assert torch.equal(image, same["images"]["top"])
        assert (image.shape, image.dtype) == ((4, 3, 32, 48), torch.uint8)
        assert image.float().std() > 20
        # as an inference's: bytes of an (H, W, 3) image
        assert image.permute(0, 2, 3, 1).is_contiguous()

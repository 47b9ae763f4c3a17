"""The published ACT repository's numbers, reproduced from its checkpoints.

`golden/act.json` and `golden/cnnmlp.json` were made by running a reconstruction of tonyzhaozh/act@742c753
(`DETRVAE` and `CNNMLP` behind `ACTPolicy` and `CNNMLPPolicy`, dropout off; its files were taken from later
commits and forks, and set back to what that commit computes) on the weights, images and vectors of
`formula.py`, with the latent's noise fixed, at hidden 32, feed-forward 64, 8 heads, 2 encoder and 3 decoder
layers, chunk 8 and two cameras. They hold its parameter shapes and results.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.policies import load_policy
from aloha_kit.core import ContractError
from aloha_kit.data.batch import Batch
from aloha_kit.policies import reference, reference_export
from aloha_kit.policies.build import build
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference_names import to_ours
from aloha_kit.testing.policies import batch_of, contract_of, stats_of
from tests.policies.formula import image, waves, weight

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    content["cameras"] = {camera: tuple(size) for camera, size in content["cameras"].items()}
    return content


def published_state(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    state = {name: torch.from_numpy(weight(name, tuple(shape))) for name, shape in content["shapes"].items()}
    if "model.pos_table" in state:
        length, dim = content["shapes"]["model.pos_table"][1:]
        table = np.array([[p / 10000 ** (2 * (j // 2) / dim) for j in range(dim)] for p in range(length)])
        table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
        state["model.pos_table"] = torch.from_numpy(table.astype(np.float32))[None]
    return state


def published_files(content: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    checkpoint, stats = folder / "policy_best.ckpt", folder / "dataset_stats.pkl"
    torch.save(published_state(content), checkpoint)
    arrays = {"example_qpos": np.zeros((3, 14), np.float32)}
    for key in ("qpos", "action"):
        arrays[f"{key}_mean"] = waves(f"{key}_mean", (14,)).astype(np.float32)
        arrays[f"{key}_std"] = (0.5 + 0.4 * waves(f"{key}_std", (14,))).astype(np.float32)
    stats.write_bytes(pickle.dumps(arrays))
    return checkpoint, stats


def formula_batch(content: dict[str, Any], size: int, rows: int) -> Batch:
    actions = waves("actions", (size, rows, 14)).astype(np.float32)
    is_pad = np.zeros((size, rows), bool)
    if size > 1:
        is_pad[1, 5:] = True
    actions[is_pad] = 0
    return Batch(
        qpos=torch.from_numpy(waves("qpos", (size, 14)).astype(np.float32)),
        images={name: torch.from_numpy(image(name, (size, 3, *hw))) for name, hw in content["cameras"].items()},
        actions=torch.from_numpy(actions),
        is_pad=torch.from_numpy(is_pad),
    )


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ChunkNetwork]:
    content = golden("act")
    files = published_files(content, tmp_path_factory.mktemp("act"))
    return content, reference.load_reference(*files, content["cameras"], nheads=8)


@pytest.fixture(scope="module")
def cnnmlp(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ChunkNetwork]:
    content = golden("cnnmlp")
    files = published_files(content, tmp_path_factory.mktemp("cnnmlp"))
    return content, reference.load_reference(*files, content["cameras"])


def test_act_predicts_the_published_actions(act: tuple[dict[str, Any], ChunkNetwork]) -> None:
    content, network = act
    with torch.inference_mode():
        predicted = network.predict(formula_batch(content, 2, 10)).numpy()
    np.testing.assert_allclose(predicted.ravel(), content["prediction"], rtol=0, atol=1e-5)


def test_act_has_the_published_losses_and_gradients(
    act: tuple[dict[str, Any], ChunkNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, network = act
    noise = torch.from_numpy(waves("noise", (2, 32)).astype(np.float32))
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    network.zero_grad()
    losses = network.losses(formula_batch(content, 2, 10))
    for name in ("loss", "l1", "kl"):
        assert losses[name].item() == pytest.approx(content[name], rel=1e-5)

    losses["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    norms = {name: torch.zeros(()) if g is None else g.norm() for name, g in gradients.items()}
    theirs = to_ours(
        {k.removeprefix("model."): torch.tensor(v) for k, v in content["gradient_norms"].items()},
        list(content["cameras"]),
    )
    assert norms.keys() == theirs.keys()
    for name, norm in norms.items():
        assert norm.item() == pytest.approx(theirs[name].item(), rel=1e-3, abs=1e-4), name
    idle = [name for name, norm in norms.items() if norm == 0 and name.startswith("decoder.")]
    assert {name.split(".")[1] for name in idle} >= {"1", "2"}  # the published waste


def test_act_posterior_is_the_published_one(act: tuple[dict[str, Any], ChunkNetwork]) -> None:
    content, network = act
    batch = formula_batch(content, 2, 10)
    actions, is_pad = network.targets(batch)
    with torch.inference_mode():
        mean, log_variance = network.get_submodule("posterior")(network.states(batch)[0], actions, is_pad)
    np.testing.assert_allclose(mean.ravel(), content["mu"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_variance.ravel(), content["logvar"], rtol=0, atol=1e-5)


def test_cnnmlp_predicts_the_published_action(cnnmlp: tuple[dict[str, Any], ChunkNetwork]) -> None:
    content, network = cnnmlp
    batch = formula_batch(content, 1, 3)
    with torch.inference_mode():
        predicted, losses = network.predict(batch), network.losses(batch)
    assert predicted.shape == (1, 1, 14)
    np.testing.assert_allclose(predicted.numpy().ravel(), content["prediction"], rtol=0, atol=1e-5)
    assert losses["mse"].item() == pytest.approx(content["mse"], rel=1e-5)


@pytest.mark.parametrize("kind", ["act", "cnnmlp"])
def test_export_gives_the_published_state_dict_back(
    kind: str, act: tuple[dict[str, Any], ChunkNetwork], cnnmlp: tuple[dict[str, Any], ChunkNetwork], tmp_path: Path
) -> None:
    content, network = act if kind == "act" else cnnmlp
    reference_export.save_reference(network, tmp_path, list(content["cameras"]))
    written = torch.load(tmp_path / "policy_best.ckpt", weights_only=True)
    original = published_state(content)
    assert written.keys() == original.keys()
    for name, value in original.items():
        if kind == "cnnmlp" and "action_head" in name:
            assert written[name].shape == value.shape  # never used there, not kept here
        elif name == "model.pos_table":
            torch.testing.assert_close(written[name], value, rtol=0, atol=1e-6)
        else:
            assert torch.equal(written[name], value), name
    stats = pickle.loads((tmp_path / "dataset_stats.pkl").read_bytes())
    assert sorted(stats) == ["action_mean", "action_std", "example_qpos", "qpos_mean", "qpos_std"]
    np.testing.assert_array_equal(stats["action_mean"], waves("action_mean", (14,)).astype(np.float32))


def test_a_recommended_network_computes_the_same_in_published_form(tmp_path: Path) -> None:
    cameras = {"top": (64, 96)}
    config = load_policy(
        "act", chunk_size=6, hidden_dim=32, dim_feedforward=48, nheads=4, enc_layers=1, pretrained_backbone=True
    )
    network = build(config, contract_of(cameras), stats_of(contract_of(cameras)), pretrained=False).eval()
    reference_export.save_reference(network, tmp_path)
    back = reference.load_reference(tmp_path / "policy_best.ckpt", tmp_path / "dataset_stats.pkl", cameras, nheads=4)
    batch = batch_of(contract_of(cameras), rows=6)
    assert back.config != network.config
    with torch.inference_mode():
        torch.testing.assert_close(back.predict(batch), network.predict(batch), rtol=0, atol=1e-5)


def test_what_the_published_classes_cannot_hold_is_refused() -> None:
    config = load_policy("act_cpu", chunk_size=6)
    network = build(config, contract_of({"top": (32, 32)}), stats_of(contract_of({})))
    expected = "backbone_layers is 3, not 4; backbone_width is 32, not 64; backbone_norm is group, not frozen"
    with pytest.raises(ContractError, match=expected):
        reference_export.to_state_dict(network)


def test_sizes_and_settings_are_read_off_the_weights(act: tuple[dict[str, Any], ChunkNetwork]) -> None:
    _, network = act
    config = network.config
    assert config.kind == "act"
    sizes = {name: getattr(config, name) for name in ("chunk_size", "hidden_dim", "dim_feedforward", "latent_dim")}
    assert sizes == {"chunk_size": 8, "hidden_dim": 32, "dim_feedforward": 64, "latent_dim": 32}
    assert (config.enc_layers, config.dec_layers, config.share_backbone) == (2, 3, True)
    full = load_policy("act_reference")
    assert {k: getattr(config, k) for k in ("decoder_output", "loss_over", "first_self_attention")} == {
        k: getattr(full, k) for k in ("decoder_output", "loss_over", "first_self_attention")
    }


def test_a_loaded_checkpoint_drives_an_arm(act: tuple[dict[str, Any], ChunkNetwork]) -> None:
    content, network = act
    images = {name: image(name, (*size, 3)) for name, size in content["cameras"].items()}
    chunk = ChunkPolicy(network).predict_chunk({"qpos": np.zeros(14, np.float32), "images": images, "stamps": {}})
    assert chunk.shape == (8, 14)
    assert np.isfinite(chunk).all()


def test_a_statistics_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    file = tmp_path / "dataset_stats.pkl"
    file.write_bytes(pickle.dumps({"qpos_mean": Evil()}))
    with pytest.raises(CheckpointError, match="only numpy arrays are accepted"):
        reference.read_stats(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_statistics_of_every_pickle_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    arrays = {
        f"{key}_{name}": np.full(14, i + 0.5, np.float32)
        for i, (key, name) in enumerate([("qpos", "mean"), ("qpos", "std"), ("action", "mean"), ("action", "std")])
    }
    file = tmp_path / "dataset_stats.pkl"
    file.write_bytes(pickle.dumps(arrays, protocol=protocol))
    stats = reference.read_stats(file)
    assert stats["action"].std.tolist() == [3.5] * 14
    assert np.isnan(stats["action"].min).all()


def test_bad_files_are_named(tmp_path: Path, act: tuple[dict[str, Any], ChunkNetwork]) -> None:
    content, _ = act
    checkpoint, stats = published_files(content, tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(f"cannot read weights from {tmp_path / 'no.ckpt'}")):
        reference.load_reference(tmp_path / "no.ckpt", stats, content["cameras"])
    whole = checkpoint.read_bytes()
    for broken in (b"", b"junk" * 99, b"PK\x03\x04" + bytes(99), whole[:999], pickle.dumps(Path(), 2)):
        (tmp_path / "bad.ckpt").write_bytes(broken)
        with pytest.raises(CheckpointError) as caught:
            reference.load_reference(tmp_path / "bad.ckpt", stats, content["cameras"])
        expected = f"{tmp_path / 'bad.ckpt'}: it is damaged, cut short, or holds more than weights"
        assert str(caught.value) == f"cannot read weights from {expected}"
    with pytest.raises(ContractError, match="reads cameras and the data has none"):
        reference.load_reference(checkpoint, stats, {})
    short = tmp_path / "short.pkl"
    short.write_bytes(stats.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot read statistics from .*short\.pkl"):
        reference.load_reference(checkpoint, short, content["cameras"])
    lacking = tmp_path / "lacking.pkl"
    lacking.write_bytes(pickle.dumps({"qpos_mean": np.zeros(14), "qpos_std": np.ones(14)}))
    with pytest.raises(CheckpointError, match=r"lacks 'action_mean'; it has: qpos_mean, qpos_std"):
        reference.load_reference(checkpoint, lacking, content["cameras"])
    state = published_state(content)
    del state["model.action_head.bias"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (tmp_path / "holed.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"holed\.ckpt: .*lacks action_head\.bias"):
        reference.load_reference(tmp_path / "holed.ckpt", stats, content["cameras"])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="neither an ACT nor a CNNMLP state dict; its keys begin weights"):
        reference.load_reference(tmp_path / "other.ckpt", stats, content["cameras"])

"""Every network keeps the contract, in its defaults and in each named variation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aloha_kit.config.policies import ActConfig, CnnMlpConfig, PolicyConfig
from aloha_kit.core import Contract, ContractError
from aloha_kit.data.batch import Batch, to_device
from aloha_kit.policies.build import build
from aloha_kit.policies.cnnmlp import SpatialSoftmax
from aloha_kit.policies.network import ChunkNetwork, masked_mean, narrow
from aloha_kit.testing.policies import batch_of, check_network, contract_of, stats_of

SMALL_VISION: dict[str, Any] = {
    "backbone_layers": 2,
    "backbone_width": 16,
    "backbone_norm": "group",
    "pretrained_backbone": False,
}
SMALL_ACT: dict[str, Any] = {
    **SMALL_VISION,
    "chunk_size": 5,
    "hidden_dim": 32,
    "dim_feedforward": 48,
    "nheads": 4,
    "enc_layers": 2,
    "latent_dim": 4,
    "kl_weight": 0.1,
    "dropout": 0.0,
}
ONE, TWO = {"top": (32, 48)}, {"top": (32, 48), "left_wrist": (40, 32)}
CUBE = ("cube_x", "cube_y", "cube_z")


def act(**changes: Any) -> ActConfig:
    return ActConfig(**{**SMALL_ACT, **changes})


def cnnmlp(**changes: Any) -> CnnMlpConfig:
    return CnnMlpConfig(**{**SMALL_VISION, "hidden_dim": 64, "keypoints": 8, **changes})


def network_of(config: PolicyConfig, contract: Contract) -> ChunkNetwork:
    return build(config, contract, stats_of(contract), pretrained=False)


CASES: dict[str, tuple[PolicyConfig, Contract]] = {
    "act": (act(), contract_of(ONE)),
    "act, two cameras of two sizes": (act(), contract_of(TWO)),
    "act, a backbone a camera": (act(share_backbone=False), contract_of(TWO)),
    "act, equal cameras in one pass": (act(), contract_of({"b": (32, 32), "a": (32, 32)})),
    "act, mobile base": (act(), contract_of(ONE, base=True)),
    "act, without VAE": (act(use_vae=False), contract_of(ONE)),
    "act, object poses beside images": (
        act(use_environment_state=True),
        contract_of(ONE, poses=CUBE),
    ),
    "act, object poses alone": (
        act(use_images=False, use_environment_state=True),
        contract_of(ONE, poses=CUBE),
    ),
    "act, normalised before": (act(pre_norm=True, decoder_input="queries"), contract_of(ONE)),
    "act, two decoder layers from queries": (act(dec_layers=2, decoder_input="queries"), contract_of(ONE)),
    "act, min and max": (act(normalisation="min_max_11"), contract_of(ONE)),
    "act, resized": (act(image_size=(24, 32)), contract_of(TWO)),
    "act, loss over all": (act(loss_over="all"), contract_of(ONE)),
    "act, resnet34 to its third stage": (act(backbone="resnet34", backbone_layers=3), contract_of(ONE)),
    "act, batch norm": (act(backbone_norm="batch"), contract_of(ONE)),
    "act, learned positions, both losses, padding and divergences": (
        act(position_embedding="learned", loss_function="l1+l2", is_pad_head=True, is_pad_weight=0.1, kl_details=True),
        contract_of(TWO),
    ),
    "act, all decoder outputs, l2": (act(dec_layers=2, decoder_output="all", loss_function="l2"), contract_of(ONE)),
    "act, dilated resnet50": (act(backbone="resnet50", backbone_layers=4, dilation=True), contract_of(ONE)),
    "cnnmlp": (cnnmlp(), contract_of(TWO)),
    "cnnmlp, chunks, l1, object poses": (
        cnnmlp(chunk_size=4, error="l1", use_environment_state=True),
        contract_of(ONE, poses=CUBE),
    ),
    "cnnmlp, convolutions": (cnnmlp(features="convolutions"), contract_of({"top": (104, 112)})),
}


@pytest.mark.parametrize("case", CASES)
def test_contract(case: str, tmp_path: Path) -> None:
    config, contract = CASES[case]
    check_network(lambda: network_of(config, contract), contract, tmp_path)


def test_the_recommended_act_carries_no_idle_parameter() -> None:
    contract = contract_of(TWO)
    config = ActConfig(chunk_size=4, hidden_dim=32, dim_feedforward=32, nheads=4)  # all choices as recommended
    network = network_of(config, contract)
    network.losses(batch_of(contract, rows=4))["loss"].backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_dropout_is_for_training_only() -> None:
    contract = contract_of(ONE)
    torch.manual_seed(0)
    network, batch = network_of(act(dropout=0.5), contract), batch_of(contract_of(ONE), rows=5)
    assert not torch.equal(network.train().predict(batch), network.predict(batch))
    assert torch.equal(network.eval().predict(batch), network.predict(batch))


def test_kl_is_the_divergence_from_a_unit_normal() -> None:
    contract = contract_of(ONE)
    torch.manual_seed(0)
    network, batch = network_of(act(kl_weight=3.0), contract).eval(), batch_of(contract, rows=5, pad=2)
    losses = network.losses(batch)
    actions, is_pad = network.targets(batch)
    mean, log_variance = network.get_submodule("posterior")(network.states(batch)[0], actions, is_pad)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(losses["kl"], expected.detach())
    torch.testing.assert_close(losses["loss"].detach(), losses["l1"] + 3.0 * losses["kl"])


def test_the_parts_of_the_loss_that_the_original_names() -> None:
    contract = contract_of(ONE)
    batch = batch_of(contract, rows=5, pad=2)
    changes: dict[str, Any] = {"dec_layers": 2, "is_pad_head": True, "is_pad_weight": 0.5, "kl_details": True}
    by: dict[str, dict[str, float]] = {}
    for function in ("l1", "l2", "l1+l2"):
        torch.manual_seed(0)
        network = network_of(act(loss_function=function, decoder_output="all", **changes), contract).eval()
        torch.manual_seed(1)
        by[function] = {name: float(value.detach()) for name, value in network.losses(batch).items()}
        assert list(by[function]) == ["loss", *network.loss_columns]
    losses = by["l1"]
    assert by["l1+l2"]["l1+l2"] == pytest.approx(losses["l1"] + by["l2"]["l2"], rel=1e-5)
    assert losses["kl"] == pytest.approx(sum(losses[f"kl_{i}"] for i in range(4)), rel=1e-5)
    assert losses["kl_mean"] == pytest.approx(losses["kl"] / 4, rel=1e-5)
    # the last layer's error is shown, the mean over both is trained
    torch.manual_seed(0)
    network = network_of(act(decoder_output="all", **changes), contract).eval()
    outputs: list[torch.Tensor] = []
    network.get_submodule("action_head").register_forward_hook(lambda _, __, output: outputs.append(output))
    torch.manual_seed(1)
    network.losses(batch)
    actions, is_pad = network.targets(batch)
    errors = [float((output - actions).abs()[~is_pad].mean().detach()) for output in outputs]
    assert len(errors) == 2
    assert losses["l1"] == pytest.approx(errors[1], rel=1e-5)
    expected = sum(errors) / 2 + 0.1 * losses["kl"] + 0.5 * losses["is_pad"]
    assert losses["loss"] == pytest.approx(expected, rel=1e-5)


def test_padding_is_predicted_by_its_head() -> None:
    contract = contract_of(ONE)
    network, batch = network_of(act(is_pad_head=True, is_pad_weight=1.0), contract), batch_of(contract, rows=5, pad=2)
    head = network.get_submodule("is_pad_head")
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, 1.0)  # probability 0.731 of each row
    share, p = 2 / 15, torch.sigmoid(torch.tensor(1.0))
    expected = -(share * p.log() + (1 - share) * (1 - p).log())
    torch.testing.assert_close(network.losses(batch)["is_pad"], expected)


def test_kl_stays_a_divergence_where_products_are_narrow() -> None:
    """Near the prior it is a small difference of near equals, which bf16's 8 bits would make zero or negative."""
    contract = contract_of(ONE)
    torch.manual_seed(0)
    network, batch = network_of(act(latent_dim=32), contract).eval(), batch_of(contract, rows=5)
    head = network.get_submodule("posterior.latent")
    for scale in (1.0, 0.1, 0.01):
        torch.nn.init.normal_(head.weight, std=0.01 * scale)
        torch.nn.init.normal_(head.bias, std=0.1 * scale)
        exact = network.losses(batch)["kl"].item()
        with torch.autocast("cpu", torch.bfloat16):
            narrow = network.losses(batch)["kl"]
        assert narrow.dtype == torch.float32
        assert narrow.item() == pytest.approx(exact, rel=0.02, abs=1e-6)
        assert narrow.item() > -1e-6
    assert exact < 0.01


@pytest.mark.parametrize("config", [act(dropout=0.1), act(loss_over="all"), cnnmlp(), cnnmlp(error="l1")])
def test_losses_under_autocast_are_summed_in_full_precision(config: PolicyConfig) -> None:
    contract = contract_of(ONE)
    torch.manual_seed(0)
    network, batch = network_of(config, contract), batch_of(contract, rows=5)
    for training in (False, True):
        network.train(training)
        torch.manual_seed(0)
        exact = network.losses(batch)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = network.losses(batch)
        for name, value in narrow.items():
            assert value.dtype == torch.float32, name
            torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0)


def test_places_in_an_image_are_in_full_precision_under_autocast() -> None:
    """bf16 would round them to a 256th."""
    torch.manual_seed(0)
    head = SpatialSoftmax(4, 3)
    features = torch.randn(2, 4, 60, 80)
    with torch.autocast("cpu", torch.bfloat16):
        places = head(features)
        weights = head.project(features).double().flatten(2).softmax(-1).unflatten(-1, (60, 80))
    rows, columns = torch.linspace(-1, 1, 60).double(), torch.linspace(-1, 1, 80).double()
    expected = torch.stack([weights.sum(3) @ rows, weights.sum(2) @ columns], dim=-1).flatten(1)
    torch.testing.assert_close(places.double(), expected, rtol=0, atol=1e-5)


def test_the_deployed_loss_is_the_error_of_what_is_predicted() -> None:
    contract = contract_of(ONE)
    torch.manual_seed(0)
    network, batch = network_of(act(), contract).eval(), batch_of(contract, rows=5, pad=2)
    with torch.no_grad():
        deployed = network.validation(batch)["val_deployed"]
    assert (network.selects, deployed.weight) == ("val_deployed", 3)
    scale = torch.from_numpy(network.stats["action"].std).clamp(min=1e-2)
    error = ((network.predict(batch) - batch["actions"]).abs() / scale)[~batch["is_pad"]].mean()
    torch.testing.assert_close(deployed.value, error)


def test_the_latent_is_drawn_anew_each_time_and_follows_the_seed() -> None:
    contract = contract_of(ONE)
    network, batch = network_of(act(), contract).eval(), batch_of(contract, rows=5)
    torch.manual_seed(5)
    first, second = network.losses(batch)["l1"], network.losses(batch)["l1"]
    torch.manual_seed(5)
    assert network.losses(batch)["l1"] == first != second


def test_masked_mean_by_hand() -> None:
    error = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [100.0, 100.0]]])
    is_pad = torch.tensor([[False, False], [False, True]])
    assert masked_mean(error, is_pad, over="valid").item() == pytest.approx(20 / 6)
    assert masked_mean(error, is_pad, over="all").item() == pytest.approx(20 / 8)
    assert masked_mean(error, torch.ones(2, 2, dtype=torch.bool), over="valid").item() == 0


def test_first_decoder_layer_alone_is_what_the_reference_reads() -> None:
    contract = contract_of(ONE)
    torch.manual_seed(0)
    seven = network_of(act(dec_layers=7, decoder_output="first", first_self_attention=True), contract).eval()
    one = network_of(act(dec_layers=1, first_self_attention=True), contract).eval()
    one.load_state_dict({k: v for k, v in seven.state_dict().items() if k in one.state_dict()})
    batch = batch_of(contract, rows=5)
    assert torch.equal(seven.predict(batch), one.predict(batch))
    last = network_of(act(dec_layers=7, first_self_attention=True), contract).eval()
    last.load_state_dict(seven.state_dict())
    assert not torch.allclose(last.predict(batch), one.predict(batch))


def test_self_attention_among_zero_targets_gives_the_same_to_every_query() -> None:
    """Why `first_self_attention` is off: what it adds does not depend on image, state or place in the chunk."""
    contract = contract_of(ONE)
    torch.manual_seed(0)
    network = network_of(act(first_self_attention=True), contract)
    layer, queries = network.get_submodule("decoder.0"), network.get_parameter("queries")
    torch.nn.init.normal_(layer.self_attn.in_proj_bias)  # as training would leave it
    zeros = torch.zeros(1, *queries.shape)
    out = layer.self_attn(zeros + queries, zeros + queries, zeros)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_cameras_are_distinguished_by_their_embedding_alone() -> None:
    cameras = {"left": (32, 32), "right": (32, 32)}
    contract = contract_of(cameras)
    batch = batch_of(contract, rows=5)
    swapped = batch.copy()
    swapped["images"] = {"left": batch["images"]["right"], "right": batch["images"]["left"]}
    for camera_embedding in (True, False):
        torch.manual_seed(0)
        network = network_of(act(camera_embedding=camera_embedding), contract).eval()
        same = torch.allclose(network.predict(batch), network.predict(swapped), atol=1e-5)
        assert same is not camera_embedding


def test_the_order_in_which_cameras_are_named_does_not_matter() -> None:
    for config in (act(share_backbone=False), cnnmlp()):
        torch.manual_seed(0)
        there = network_of(config, contract_of(TWO)).eval()
        torch.manual_seed(0)
        back = network_of(config, contract_of(dict(reversed(TWO.items())))).eval()
        batch = batch_of(contract_of(TWO), rows=5)
        assert torch.equal(there.predict(batch), back.predict(batch))


def test_layers_of_the_vae_encoder_start_as_copies_only_when_requested() -> None:
    for distinct in (True, False):
        network = network_of(act(distinct_init=distinct), contract_of(ONE))
        first, second = (network.get_parameter(f"posterior.layers.{i}.linear1.weight") for i in range(2))
        assert torch.equal(first, second) is not distinct


def test_backbone_parameters_are_the_backbones() -> None:
    network = network_of(act(), contract_of(ONE))
    named = {id(p) for name, p in network.named_parameters() if "backbones" in name}
    assert {id(p) for p in network.backbone_parameters()} == named != set()
    blind = network_of(act(use_images=False), contract_of(ONE))
    assert list(blind.backbone_parameters()) == []


def test_narrow_drops_what_is_not_read() -> None:
    contract = contract_of(TWO, poses=CUBE)
    assert list(narrow(contract, act()).cameras) == ["left_wrist", "top"]
    assert narrow(contract, act()).privileged == ()
    blind = narrow(contract, act(use_images=False, use_environment_state=True))
    assert (blind.cameras, blind.privileged[0].entries) == ({}, CUBE)
    with pytest.raises(ContractError, match="reads cameras and the data has none; set use_images to false"):
        narrow(contract_of({}), act())
    with pytest.raises(ContractError, match="use_environment_state is true and the data has no privileged features"):
        narrow(contract_of(ONE), act(use_environment_state=True))


def _without(batch: Batch, key: str) -> Batch:
    return {k: v for k, v in batch.items() if k != key}  # type: ignore[return-value]


def test_what_does_not_fit_is_named() -> None:
    contract = contract_of(ONE, poses=CUBE)
    network = network_of(act(use_environment_state=True), contract)
    good = batch_of(contract, rows=5)
    bad: list[tuple[Batch, str]] = [
        ({**good, "qpos": torch.zeros(3, 7)}, "qpos must have 14 entries, given shape (3, 7)"),
        ({**good, "actions": torch.zeros(3, 5, 16)}, "actions must have 14 entries, given shape (3, 5, 16)"),
        ({**good, "actions": torch.zeros(3, 2, 14)}, "actions have 2 rows, the chunk needs 5"),
        ({**good, "images": {"front": good["images"]["top"]}}, "camera 'top' is missing; there are: front"),
        (
            {**good, "images": {"top": torch.zeros(3, 3, 9, 9)}},
            "camera 'top' must be (B, 3, 32, 48) as recorded or (B, 3, 32, 48), given (3, 3, 9, 9)",
        ),
        (_without(good, "environment_state"), "this policy reads environment_state, and the observation has none"),
    ]
    for batch, text in bad:
        with pytest.raises(ContractError, match=re.escape(text)):
            network.losses(batch)
    short = Contract.of(contract.state_names[:13], contract.action_names, ONE, 50.0)
    with pytest.raises(ContractError, match="statistics of 'qpos' have 13 entries, the contract has 14"):
        build(act(), contract_of(ONE), stats_of(short))
    with pytest.raises(ContractError, match="4x6 feature map, and the three 5x5 convolutions need 13x13 or more"):
        network_of(cnnmlp(features="convolutions"), contract_of(ONE))


def test_a_batch_moves_whole() -> None:
    batch = batch_of(contract_of(TWO, poses=CUBE), rows=4)
    moved = to_device(batch, "meta")
    assert moved.keys() == batch.keys()
    tensors = [*(v for v in moved.values() if isinstance(v, torch.Tensor)), *moved["images"].values()]
    assert {t.device.type for t in tensors} == {"meta"}
    assert len(tensors) == 6

"""Instructions: a feature of every family, kept in checkpoints, refused or encoded where they are not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.bc import BcConfig
from aloha_kit.config.denoising import DiffusionConfig, FlowConfig, MipConfig
from aloha_kit.config.ibc import IbcConfig
from aloha_kit.config.policies import ActConfig, CnnMlpConfig, PolicyConfig
from aloha_kit.core import ConfigError, Contract, ContractError, UsageError
from aloha_kit.data.batch import Batch
from aloha_kit.data.instructions import Instructions
from aloha_kit.data.stats import Statistics
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank, check, prepare
from aloha_kit.policies.language import set_instruction
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference_export import to_state_dict
from aloha_kit.testing.policies import check_network, stats_of
from tests.tiny import ACT, contract, network

LEFT, RIGHT = "move to the left", "move to the right"
BLIND = Contract.of(("x", "y"), ("x", "y"), {}, 10.0)
UNIT = np.array([[-1.0, -1], [1, 1]])
COMMON: dict[str, Any] = {"use_images": False, "text_encoder": "table", "instruction_dim": 8}
UNET: dict[str, Any] = {"chunk_size": 4, "down_dims": (16, 32), "kernel_size": 3, "n_groups": 4, "time_embedding": 16}
FAMILIES: dict[str, PolicyConfig] = {
    "act": ActConfig(
        **COMMON, chunk_size=3, hidden_dim=32, dim_feedforward=32, nheads=2, enc_layers=1, use_vae=False, dropout=0.0
    ),
    "cnnmlp": CnnMlpConfig(**COMMON, hidden_dim=32),
    "bc": BcConfig(**COMMON, layer_dims=(64,), squash=False),
    "bc, lstm": BcConfig(**COMMON, actor="lstm", n_obs_steps=2, lstm_units=16, layer_dims=(), squash=False),
    "ibc": IbcConfig(**COMMON, layer_dims=(64, 64), negatives=32, candidates=256, n_obs_steps=1, dfo_std=0.05),
    "diffusion": DiffusionConfig(**COMMON, **UNET, inference_steps=4),
    "diffusion, transformer": DiffusionConfig(
        **COMMON,
        chunk_size=4,
        inference_steps=4,
        denoiser="transformer",
        n_obs_steps=2,
        transformer_layers=2,
        transformer_heads=2,
        transformer_size=32,
        transformer_dropout=0.0,
    ),
    "flow": FlowConfig(**COMMON, **UNET),
    "mip": MipConfig(**COMMON, **UNET),
}


def table() -> Instructions:
    return Instructions.of([RIGHT, LEFT, RIGHT], "table")


def network_of(config: PolicyConfig, stats: Statistics | None = None) -> ChunkNetwork:
    torch.manual_seed(0)
    made = build(config, BLIND, stats or stats_of(BLIND), instructions=table())
    if isinstance(config, IbcConfig):
        with torch.no_grad():
            made.get_parameter("energy_model.energy.weight").mul_(20)  # or the energies are too even to choose by
    return made


def test_vectors_of_a_table_are_one_entry_each() -> None:
    instructions = table()
    assert list(instructions.vectors) == [LEFT, RIGHT]
    np.testing.assert_array_equal(instructions.vector(RIGHT), np.float32([0, np.sqrt(2)]))
    embedding = build(FAMILIES["bc"], BLIND, stats_of(BLIND), instructions=instructions).language
    assert embedding is not None
    batch: Any = {"instruction": torch.from_numpy(instructions.vector(LEFT)[None])}
    torch.testing.assert_close(embedding(batch)[0], np.sqrt(2) * embedding.project.weight[:, 0])


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "ibc"])  # for which see test_ibc.py
def test_contract(family: str, tmp_path: Path) -> None:
    check_network(lambda: network_of(FAMILIES[family]), BLIND, tmp_path)


@pytest.mark.parametrize("family", ["act", "cnnmlp", "bc", "bc, lstm", "ibc", "mip"])
def test_two_instructions_are_two_actions_for_one_observation(family: str) -> None:
    config = FAMILIES[family]
    made = network_of(config, Statistics.of(qpos=UNIT, action=UNIT))
    side = torch.tensor([-0.6, 0.6]).repeat(4)  # of LEFT and RIGHT in turn
    steps = () if config.n_obs_steps == 1 else (config.n_obs_steps,)
    batch = Batch(
        qpos=torch.zeros(8, *steps, 2),
        images={},
        instruction=torch.from_numpy(np.stack([table().vector(text) for text in (LEFT, RIGHT)] * 4)),
        actions=side[:, None, None].repeat(1, config.chunk_size, 2),
        is_pad=torch.zeros(8, config.chunk_size, dtype=torch.bool),
    )
    optimiser = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for _ in range(200):
        optimiser.zero_grad()
        made.losses(batch)["loss"].backward()
        optimiser.step()
    policy = ChunkPolicy(made)
    seen: Any = {"qpos": np.zeros(2, np.float32), "images": {}}
    seen |= {"history": [seen] * (config.n_obs_steps - 1)} if config.n_obs_steps > 1 else {}
    for text, wanted in ((LEFT, -0.6), (RIGHT, 0.6), (LEFT, -0.6)):
        policy.instruct(text)
        assert abs(float(policy.predict_chunk(seen).mean()) - wanted) < 0.35


def test_the_instruction_of_inference() -> None:
    made = network_of(FAMILIES["bc"])
    policy, seen = ChunkPolicy(made), {"qpos": np.zeros(2, np.float32), "images": {}}
    with pytest.raises(ContractError, match=r"reads an instruction, and none is given: name one with --instruction"):
        policy.predict_chunk(seen)  # type: ignore[arg-type]
    set_instruction(made, None, "act")
    assert made.instruction is None
    set_instruction(made, LEFT, "act")
    left = policy.predict_chunk(seen)  # type: ignore[arg-type]
    set_instruction(made, None, "act", RIGHT)
    right = policy.predict_chunk(seen)  # type: ignore[arg-type]
    assert not np.allclose(left, right)
    policy.instruct(LEFT)
    np.testing.assert_array_equal(policy.predict_chunk(seen), left)  # type: ignore[arg-type]
    policy.instruct(None)
    np.testing.assert_array_equal(policy.predict_chunk(seen), right)  # type: ignore[arg-type]
    buffer = SharedBuffer(1, made.contract, made.chunk_size)
    buffer.put_observation(0, seen)  # type: ignore[arg-type]
    BatchedInference(made, buffer, 1)([0])
    np.testing.assert_array_equal(buffer.chunk(0), right)


def test_an_instruction_that_is_not_in_the_table_is_refused() -> None:
    made = network_of(FAMILIES["bc"])
    with pytest.raises(
        ContractError,
        match=rf"not trained on the instruction 'move to the lift'\. Did you mean '{LEFT}'\? Known: {LEFT}, {RIGHT}\.",
    ):
        set_instruction(made, "move to the lift", "act")
    other = network(contract())
    set_instruction(other, None, "act", "move")  # which that network does not read
    assert other.instruction is None
    with pytest.raises(UsageError, match=r"^runs/x reads no instruction \(no text_encoder\), given --instruction$"):
        set_instruction(other, "move", "runs/x")
    with pytest.raises(ConfigError, match="text_encoder table: the network reads instructions, and none are given"):
        build(FAMILIES["bc"], BLIND, stats_of(BLIND))


def test_checkpoint(tmp_path: Path) -> None:
    made = network_of(FAMILIES["act"])
    checkpoint.save(tmp_path / "ckpt", made, made.config, made.stats, BLIND)
    back = checkpoint.load(tmp_path / "ckpt")
    assert back.language is not None
    assert (back.language.instructions.encoder, list(back.language.instructions.vectors)) == ("table", [LEFT, RIGHT])
    for text, vector in table().vectors.items():
        np.testing.assert_array_equal(back.language.instructions.vectors[text], vector)
    torch.testing.assert_close(back.language.project.weight, made.language.project.weight)  # type: ignore[union-attr]
    file = tmp_path / "ckpt" / "instructions.json"
    for text in ("{}", json.dumps({"encoder": "table", "vectors": {"a": [1, "x"]}}), '{"encoder": "x", "vectors": {}}'):
        (tmp_path / "ckpt" / "checksums.json").unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="ckpt"):
            checkpoint.load(tmp_path / "ckpt")
    file.unlink()
    with pytest.raises(ConfigError, match=r"instructions\.json"):
        checkpoint.load(tmp_path / "ckpt")


def test_engines_get_the_instruction() -> None:
    torch.manual_seed(0)
    config = ActConfig(**{**vars(ACT), "text_encoder": "table"})
    made = build(config, contract(), stats_of(contract()), instructions=table()).eval()
    example = blank(made, 2)
    torch.testing.assert_close(example["instruction"], torch.from_numpy(np.stack([*table().vectors.values()])))
    engine = prepare(made, engine="openvino", example=example)
    assert check(engine, made, example).of_std < 0.01
    other: Any = {**example, "instruction": example["instruction"].roll(1, 0)}
    with torch.inference_mode():
        assert not torch.allclose(engine(example), engine(other), atol=1e-4)
        torch.testing.assert_close(engine(other), made.predict(other), rtol=1e-3, atol=1e-3)


def test_the_published_classes_cannot_hold_it() -> None:
    config = ActConfig(text_encoder="table", pretrained_backbone=False, backbone_norm="group")
    made = build(config, contract(), stats_of(contract()), instructions=table())
    with pytest.raises(ContractError, match="text_encoder is table, not None"):
        to_state_dict(made)

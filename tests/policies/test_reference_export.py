"""Checkpoints of ours, written for the published ACT's scripts by a command."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.config.policies import load_policy
from aloha_kit.core import Contract
from aloha_kit.policies import checkpoint
from aloha_kit.policies.__main__ import main
from aloha_kit.policies.build import build
from aloha_kit.policies.find import load_network
from aloha_kit.testing.policies import batch_of, contract_of, stats_of
from tests.policies.test_reference import golden

SMALL = {"chunk_size": 6, "hidden_dim": 32, "dim_feedforward": 48}


def run(folder: Path, contract: Contract, name: str = "act", **changes: Any) -> Path:
    """A checkpoint as training leaves it."""
    torch.manual_seed(1)
    config = load_policy(name, **{**SMALL, **changes})
    stats = stats_of(contract)
    network = build(config, contract, stats, pretrained=False)
    checkpoint.save(folder / "checkpoints/best", network, config, stats, contract)
    return folder


def published_names(enc_layers: int, dec_layers: int) -> set[str]:
    """Of the golden state dict, with other numbers of layers."""
    found = set()
    for name in golden("act")["shapes"]:
        layer = re.search(r"(encoder|decoder)\.layers\.\d+\.", name)
        if layer is None:
            found.add(name)
        for i in range(0 if layer is None else enc_layers if layer[1] == "encoder" else dec_layers):
            found.add(re.sub(r"layers\.\d+\.", f"layers.{i}.", name))
    return found


@pytest.mark.parametrize("changes", [{}, {"dec_layers": 3, "decoder_output": "first", "first_self_attention": True}])
def test_a_run_becomes_what_the_published_scripts_load_bit_for_bit(
    changes: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    contract = contract_of({"top": (64, 96)})
    source = run(tmp_path / "run", contract, **changes)
    main(["export", str(source), str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        str(tmp_path / "out" / "policy_best.ckpt"),
        "camera_names of its task: ['top']",
        "flags: --policy_class ACT --chunk_size 6 --hidden_dim 32 --dim_feedforward 48 --kl_weight 10",
    ]
    assert printed[3:] == (["in the script: dec_layers = 3, not 7"] if changes else [])
    written = torch.load(tmp_path / "out/policy_best.ckpt", weights_only=True)
    assert set(written) == published_names(4, 3 if changes else 7)
    ours = load_network(source / "checkpoints/best", device="cpu")
    back = load_network(tmp_path / "out/policy_best.ckpt", AssumedSetup({"top": (64, 96)}), "cpu")
    batch = batch_of(contract, rows=6)
    with torch.inference_mode():
        assert torch.equal(back.predict(batch), ours.predict(batch))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dataset_stats.pkl", "policy_best.ckpt"]


def test_two_cameras_are_written_in_the_scripts_order(tmp_path: Path, capsys: Any) -> None:
    contract = contract_of({"top": (64, 96), "left_wrist": (64, 96)})
    source = run(tmp_path / "run", contract, camera_embedding=False)
    main(["export", str(source), str(tmp_path / "out"), "--cameras", "top", "left_wrist"])
    assert "camera_names of its task: ['top', 'left_wrist']" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: cameras must be left_wrist, top in some order, given: top, angle"):
        main(["export", str(source), str(tmp_path / "other"), "--cameras", "top", "angle"])


def test_statistics_are_written_for_a_numpy_of_those_days(tmp_path: Path) -> None:
    contract = contract_of({"top": (64, 96)})
    main(["export", str(run(tmp_path / "run", contract)), str(tmp_path / "out")])
    data = (tmp_path / "out/dataset_stats.pkl").read_bytes()
    names = {value for _, value, _ in pickletools.genops(data) if isinstance(value, str) and "numpy" in value}
    assert names
    assert not any("_core" in name for name in names)
    stats = pickle.load(io.BytesIO(data))
    wanted = stats_of(contract)
    np.testing.assert_allclose(stats["action_mean"], wanted["action"].mean, rtol=1e-6)
    np.testing.assert_allclose(stats["qpos_std"], np.maximum(wanted["qpos"].std, 1e-2), rtol=1e-6)


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (True, {}, "it has 14 states and 14 actions, not 14 and 16"),
        (False, {"use_vae": False}, "use_vae is False, not True"),
        (False, {"latent_dim": 8, "pre_norm": True}, "latent_dim is 8, not 32; pre_norm is True, not False"),
        (False, {"dec_layers": 2}, "decoder_output is last, not first"),
        (False, {"image_size": (32, 48)}, r"image_size is \(32, 48\), not None"),
    ],
)
def test_what_the_published_classes_cannot_express_is_refused(
    base: bool, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = run(tmp_path / "run", contract_of({"top": (64, 96)}, base=base), **changes)
    with pytest.raises(SystemExit, match=f"error: the published classes cannot hold this network: {words}"):
        main(["export", str(source), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_the_script_does_not_support_is_printed(tmp_path: Path, capsys: Any) -> None:
    source = run(tmp_path / "run", contract_of({"top": (64, 96)}), nheads=4, enc_layers=2, backbone="resnet34")
    main(["export", str(source), str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[3:] == [
        "in the script: nheads = 4, not 8",
        "in the script: enc_layers = 2, not 4",
        "in the script: backbone = resnet34, not resnet18",
    ]


def test_nothing_is_replaced_and_a_published_one_is_not_exported(tmp_path: Path) -> None:
    source = run(tmp_path / "run", contract_of({"top": (64, 96)}))
    main(["export", str(source), str(tmp_path / "out")])
    before = (tmp_path / "out/policy_best.ckpt").read_bytes()
    with pytest.raises(SystemExit, match=r"out has policy_best.ckpt and dataset_stats.pkl already, which are not"):
        main(["export", str(source), str(tmp_path / "out")])
    assert (tmp_path / "out/policy_best.ckpt").read_bytes() == before
    with pytest.raises(SystemExit, match=r"policy_best.ckpt is a published checkpoint already"):
        main(["export", str(tmp_path / "out"), str(tmp_path / "again")])
    with pytest.raises(SystemExit, match="no checkpoint at"):
        main(["export", str(tmp_path / "none"), str(tmp_path / "again")])

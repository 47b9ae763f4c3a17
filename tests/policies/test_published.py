"""Checkpoints of ACT++ and Cobot Magic, and what a published checkpoint does not tell.

The files are built from the golden weights of the published ACT: the later repositories compute the same, with other
names, a backbone for each camera and, on a mobile base, two more actions.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.match_checkpoint import AssumedSetup, assumption
from aloha_kit.core import ConfigError, ContractError, joint_names
from aloha_kit.data.batch import Batch
from aloha_kit.policies import checkpoint
from aloha_kit.policies.__main__ import main
from aloha_kit.policies.build import build
from aloha_kit.policies.find import find_checkpoint, load_network
from aloha_kit.policies.reference import read_camera_names
from aloha_kit.testing.policies import batch_of, contract_of, stats_of
from tests.policies.formula import waves, weight
from tests.policies.test_reference import formula_batch, golden, published_files, published_state

State = dict[str, torch.Tensor]
CAMERAS = {"top": (64, 96), "left_wrist": (64, 96)}
BODY = "model.backbones.0.0.body."


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return golden("act")


def a_backbone_each(state: State, cameras: int = 2) -> State:
    """As ACT++ and Cobot Magic have it."""
    more = {
        key.replace("backbones.0.", f"backbones.{i}.", 1): value.clone()
        for key, value in state.items()
        if key.startswith(BODY)
        for i in range(1, cameras)
    }
    return state | more


def cobot_magic(state: State, cameras: int = 2) -> State:
    state = a_backbone_each(state, cameras)
    positions = state.pop("model.additional_pos_embed.weight")
    del state["model.is_pad_head.weight"], state["model.is_pad_head.bias"]
    return state | {"model.latent_pos.weight": positions[:1], "model.robot_state_pos.weight": positions[1:]}


def saved(content: dict[str, Any], folder: Path, state: Any, name: str = "policy_best.ckpt", **stats: Any) -> Path:
    folder.mkdir(exist_ok=True)
    published_files(content, folder)
    (folder / "policy_best.ckpt").unlink()
    torch.save(state, folder / name)
    if stats:
        held = pickle.loads((folder / "dataset_stats.pkl").read_bytes())
        (folder / "dataset_stats.pkl").write_bytes(pickle.dumps(held | stats))
    return folder / name


def predicted(path: Path, content: dict[str, Any], cameras: Any = None, batch: Batch | None = None) -> Any:
    network = load_network(path, AssumedSetup(cameras or CAMERAS), "cpu")
    with torch.inference_mode():
        return network, network.predict(formula_batch(content, 2, 10) if batch is None else batch).numpy()


@pytest.mark.parametrize("kind", [a_backbone_each, cobot_magic])
def test_a_backbone_for_each_camera_computes_what_one_for_all_does(
    kind: Any, content: dict[str, Any], tmp_path: Path
) -> None:
    path = saved(content, tmp_path, kind(published_state(content)))
    network, actions = predicted(path, content)
    np.testing.assert_allclose(actions.ravel(), content["prediction"], rtol=0, atol=1e-5)
    assert network.assumed["number_from"] == "the weights"
    assert network.config.is_pad_head is (kind is a_backbone_each)


def test_backbones_belong_to_cameras_in_the_trainings_order(content: dict[str, Any], tmp_path: Path) -> None:
    state = cobot_magic(published_state(content))
    name = "model.backbones.1.0.body.layer4.1.conv2.weight"
    state[name] = torch.from_numpy(weight("another", tuple(state[name].shape)))
    _, actions = predicted(saved(content, tmp_path / "a", state), content)
    other = {"0": "1", "1": "0"}
    swapped = {re.sub(r"backbones\.(\d)", lambda i: f"backbones.{other[i[1]]}", key): v for key, v in state.items()}
    path = saved(content, tmp_path / "b", swapped)
    _, again = predicted(path, content, dict(reversed(CAMERAS.items())))
    np.testing.assert_allclose(again, actions, rtol=0, atol=1e-6)
    _, wrong = predicted(path, content)
    assert np.abs(wrong - actions).max() > 1e-3


@pytest.mark.parametrize("more", [(), ("encoder_action_proj", "encoder_joint_proj", "latent_proj", "pos_table")])
def test_policies_trained_without_the_vaes_encoder_load(more: Any, content: dict[str, Any], tmp_path: Path) -> None:
    state = cobot_magic(published_state(content))
    state = {k: v for k, v in state.items() if not k.removeprefix("model.").startswith(("encoder.", *more))}
    _, actions = predicted(saved(content, tmp_path, state), content)
    np.testing.assert_allclose(actions.ravel(), content["prediction"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("states", [14, 16])
def test_sixteen_numbers_are_fourteen_joints_and_a_base(states: int, content: dict[str, Any], tmp_path: Path) -> None:
    shapes = {
        "model.action_head.weight": (16, 32),
        "model.action_head.bias": (16,),
        "model.encoder_action_proj.weight": (32, 16),
        "model.input_proj_robot_state.weight": (32, states),
        "model.encoder_joint_proj.weight": (32, states),
    }
    state = a_backbone_each(published_state(content))
    state |= {key: torch.from_numpy(weight(key, shape)) for key, shape in shapes.items()}
    sizes = {"action": 16, "qpos": states}
    stats = {
        f"{key}_{what}": waves(f"{key}{what}", (size,)).astype(np.float32) ** 2 + 0.1
        for key, size in sizes.items()
        for what in ("mean", "std")
    }
    path = saved(content, tmp_path, state, "policy_last.ckpt", **stats, action_min=np.zeros(16), action_max=np.ones(16))
    assert find_checkpoint(tmp_path) == path  # ACT++ rolls its last checkpoint out
    contract = load_network(path, AssumedSetup(CAMERAS), "cpu").contract
    base = (*joint_names(), "base_linear", "base_angular")
    assert contract.action_names == base
    assert contract.state_names == base[:states]
    batch = batch_of(contract, rows=8)
    assert predicted(path, content, batch=batch)[1].shape == (3, 8, 16)


def nested(state: State, **keys: Any) -> Any:
    return {"nets": {"policy.backbones.0.nets.0.weight": torch.zeros(3), **keys}, "ema": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: nested(s, **{"policy.noise_pred_net.final_conv.1.bias": torch.zeros(3)}),
            "is a diffusion policy of ACT.. or Cobot Magic, whose U-Net predicts noise",
        ),
        (lambda s: {"nets.policy.noise_pred_net.x": torch.zeros(3)}, "is a diffusion policy of ACT.."),
        (lambda s: {**s, "model.input_proj_env_state.weight": torch.zeros(32, 7)}, "is an ACT without cameras"),
        (
            lambda s: {**s, "model.depth_backbones.0.conv1.weight": torch.zeros(1)},
            "Cobot Magic policy that reads depth",
        ),
        (lambda s: {**s, "model.latent_proj.weight": torch.zeros(512, 32)}, "a vector-quantised latent"),
        (lambda s: {"model_state": s, "optimizer": {}}, "holds no state dict, but a dict of: model_state, optimizer"),
        (lambda s: {**s, "model.action_head.bias": torch.full((14,), torch.nan)}, "not finite: model.action_head.bias"),
        (lambda s: {**s, "model.query_embed.weight": torch.zeros(3)}, "an ACT state dict of an odd shape"),
        (lambda s: {**s, "model.latent_out_proj.weight": torch.zeros(())}, "an ACT state dict of an odd shape"),
        (lambda s: {**s, 3: torch.zeros(1)}, "holds no state dict, but a dict of: "),
        (lambda s: torch.zeros(3), "holds no state dict, but Tensor"),
    ],
)
def test_what_is_no_act_is_named_for_what_it_is(
    change: Any, words: str, content: dict[str, Any], tmp_path: Path
) -> None:
    path = saved(content, tmp_path, change(published_state(content)))
    with pytest.raises(ConfigError, match=words) as caught:
        load_network(path, AssumedSetup(CAMERAS), "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit, match=words):
        main(["info", str(path)])


@pytest.mark.parametrize(
    "stats", [{"qpos_std": np.full(14, np.nan)}, {"action_mean": np.zeros(16)}, {"qpos_mean": np.zeros((2, 7))}]
)
def test_statistics_that_cannot_be_are_refused(stats: Any, content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(content, tmp_path, published_state(content), **stats)
    with pytest.raises(ConfigError, match=r"cannot read statistics from .*(is not finite|have shapes)"):
        load_network(path, AssumedSetup(CAMERAS), "cpu")


TASKS = AssumedSetup({"top": (64, 96)}, 30.0, "task 'x'", "task 'x'", "task 'x'", named=False)


def test_what_is_assumed_is_noted(content: dict[str, Any], tmp_path: Path) -> None:
    network = load_network(saved(content, tmp_path, published_state(content)), TASKS, "cpu")
    assert network.contract.rate_hz == 30.0
    assert network.assumed == {
        "cameras": {"top": [64, 96]},
        "cameras_from": "task 'x'",
        "number_from": "task 'x'",
        "sizes_from": "task 'x'",
        "rate_hz": 30.0,
        "rate_from": "task 'x'",
    }
    assert assumption(network.assumed) == (
        "assumed, since the checkpoint does not record it: cameras top 64x96 (names: task 'x';"
        " number: task 'x'; sizes: task 'x'), 30 Hz (task 'x')"
    )
    ours = tmp_path / "ours"
    checkpoint.save(ours, network, network.config, network.stats, network.contract)
    assert load_network(ours, TASKS, "cpu").assumed is None


def test_the_number_of_cameras_is_checked_where_the_weights_tell_it(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(content, tmp_path, cobot_magic(published_state(content), 3))
    with pytest.raises(ContractError, match=r"trained on 3 cameras, as its weights show; task 'x' gives 1: top\. Give"):
        load_network(path, TASKS, "cpu")
    with pytest.raises(ContractError, match="trained on 3 cameras, as its weights show; --cameras gives 2: top left"):
        load_network(path, AssumedSetup(CAMERAS), "cpu")
    one = saved(content, tmp_path / "one", cobot_magic(published_state(content), 1))
    with pytest.raises(ContractError, match="trained on 1 camera, as its weights show"):
        load_network(one, AssumedSetup(CAMERAS), "cpu")
    assert load_network(one, TASKS, "cpu").contract.cameras == {"top": (64, 96)}


def test_real_arms_do_not_move_by_cameras_that_are_guessed(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(content, tmp_path, published_state(content))
    cautious = AssumedSetup({"top": (64, 96)}, named=False, cautious=True)
    with pytest.raises(ConfigError, match=r"does not record how many cameras .* give --cameras NAME … .*has: top\)"):
        load_network(path, cautious, "cpu")
    load_network(path, AssumedSetup(CAMERAS, cautious=True), "cpu")
    reported = saved(content, tmp_path / "two_backbones", a_backbone_each(published_state(content)))
    load_network(reported, AssumedSetup(CAMERAS, named=False, cautious=True), "cpu")


def test_cameras_are_read_from_the_configuration_beside_the_weights(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(content, tmp_path, published_state(content))
    (tmp_path / "config.pkl").write_bytes(pickle.dumps({"camera_names": ["top", "left_wrist"], "lr": 1e-5}))
    network = load_network(path, TASKS, "cpu")
    assert list(network.contract.cameras) == ["left_wrist", "top"]
    assert network.assumed is not None
    assert (network.assumed["cameras_from"], list(network.assumed["cameras"])) == ("config.pkl", ["top", "left_wrist"])
    named = load_network(path, AssumedSetup({"cam_high": (64, 96)}), "cpu")
    assert list(named.contract.cameras) == ["cam_high"]

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for odd in (Evil(), {"camera_names": "top"}, {"camera_names": [1]}, {}, [1]):
        (tmp_path / "config.pkl").write_bytes(pickle.dumps(odd))
        assert read_camera_names(tmp_path / "config.pkl") is None
    (tmp_path / "config.pkl").write_bytes(b"\x80")
    assert read_camera_names(tmp_path / "config.pkl") is None
    assert not (tmp_path / "ran").exists()


def test_cameras_are_renamed_to_the_rigs(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(content, tmp_path, published_state(content))
    plain, actions = predicted(path, content)
    rename = {"top": "cam_high", "left_wrist": "a_wrist"}
    network = load_network(path, AssumedSetup(CAMERAS), "cpu", rename)
    assert set(network.contract.cameras) == {"cam_high", "a_wrist"}
    batch = formula_batch(content, 2, 10)
    batch["images"] = {rename[name]: image for name, image in batch["images"].items()}
    with torch.inference_mode():
        np.testing.assert_array_equal(network.predict(batch).numpy(), actions)
    for wrong, words in (
        ({"cam_high": "top"}, "cannot rename camera 'cam_high' to 'top'.*did you mean top=cam_high"),
        ({"angle": "front"}, r"there are: left_wrist, top$"),
        ({"top": "left_wrist"}, "two cameras of left_wrist, top would have one name"),
    ):
        with pytest.raises(ContractError, match=words):
            load_network(path, AssumedSetup(CAMERAS), "cpu", wrong)
    assert plain.contract.cameras == CAMERAS


def test_a_checkpoint_of_ours_records_what_it_reads(tmp_path: Path) -> None:
    from aloha_kit.config.policies import load_policy

    contract = contract_of({"top": (32, 32)})
    stats = stats_of(contract)
    config = load_policy("act_cpu", chunk_size=4, hidden_dim=16, dim_feedforward=16, nheads=2)
    checkpoint.save(tmp_path / "run", build(config, contract, stats), config, stats, contract)
    with pytest.raises(ContractError, match="records its cameras as: top; given --cameras front"):
        load_network(tmp_path / "run", AssumedSetup({"front": (32, 32)}), "cpu")
    assert load_network(tmp_path / "run", AssumedSetup({"top": (9, 9)}), "cpu").contract == contract


def test_info_prints_what_a_checkpoint_records(content: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    path = saved(content, tmp_path, published_state(content))
    main(["info", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: a published act, a chunk of 8 actions, 3 decoder layers"
    assert lines[1] == "state: 14 values; action: 14 values"
    assert lines[2] == "cameras: their number does not follow from the weights; give --cameras"
    saved(content, tmp_path, cobot_magic(published_state(content)))
    main(["info", str(path)])
    assert "cameras: 2, by the weights; give --cameras" in capsys.readouterr().out
    contract = contract_of({"top": (64, 96)})
    network = load_network(saved(content, tmp_path / "one", published_state(content)), TASKS, "cpu")
    checkpoint.save(tmp_path / "ours", network, network.config, network.stats, contract, {"task": "sim_insertion"})
    main(["info", str(tmp_path / "ours")])
    assert "cameras: top 64x96\nrate: 50 Hz\ntrained on: sim_insertion" in capsys.readouterr().out

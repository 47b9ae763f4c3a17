"""Depth as a fourth channel of a camera's image, from episodes to actions on every path."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.contract import Contract
from aloha_kit.data.augment import Augment
from aloha_kit.data.batch import Batch, nearest
from aloha_kit.data.cache import cached_frames
from aloha_kit.data.camera_frames import DEPTH, DirectFrames
from aloha_kit.data.dataset import ChunkDataset
from aloha_kit.data.index import EpisodeTable, read_table
from aloha_kit.data.loader import Loader
from aloha_kit.data.resident import resident_frames
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.formats import open_source
from aloha_kit.policies import checkpoint
from aloha_kit.policies.backbone import ImageEncoder
from aloha_kit.policies.build import build
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank, check, Engine, prepare, probes
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference_export import to_state_dict
from aloha_kit.remote import PolicyServer, RemotePolicy, ServedPolicy
from aloha_kit.testing.policies import check_network, stats_of
from tests.policies.test_networks import act
from tests.storage.recording import record, Rig

SIZES = {"cam_high": (24, 32), "cam_left_wrist": (16, 16)}
RIG = Rig(sizes=SIZES, depth=True, environment_state=False)
SMALL: dict[str, Any] = {"backbone_layers": 1, "backbone_width": 16, "depth_cameras": ("cam_high",)}
ROWS = np.array([3, 0, 11])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EpisodeTable:
    folder = tmp_path_factory.mktemp("episodes")
    record(folder, 12, RIG)
    return read_table(open_source(folder), depth_cameras=("cam_high",))


@pytest.fixture(scope="module")
def network(table: EpisodeTable) -> ChunkNetwork:
    torch.manual_seed(0)
    return build(act(**SMALL), table.contract, table.statistics()).eval()


def test_an_episode_without_it_and_a_camera_that_is_not_read_are_refused(tmp_path: Path, table: EpisodeTable) -> None:
    record(tmp_path, 4, replace(RIG, depth=False))
    with pytest.raises(ConfigError, match=r"episode_0.hdf5 has no depth of camera 'cam_high'"):
        read_table(open_source(tmp_path), depth_cameras=("cam_high",))
    with pytest.raises(ConfigError, match=r"no depth of camera 'cam_left_wrist'.* cam_high"):
        read_table(table.source, depth_cameras=("cam_left_wrist",))
    without = table.contract.with_sensors(())
    with pytest.raises(ContractError, match=r"reads the depth of camera 'cam_high', .* of: \(no camera\)"):
        build(act(**SMALL), without, table.statistics())
    other = act(**{**SMALL, "depth_cameras": ("side",)})
    with pytest.raises(ContractError, match="'side' of depth_cameras is no camera that the policy reads"):
        build(other, table.contract, table.statistics())
    with pytest.raises(ValueError, match="depth_cameras needs use_images true"):
        act(**SMALL, use_images=False)
    with pytest.raises(ValueError, match="depth_max_m must be above 0"):
        act(**SMALL, depth_max_m=0.0)


def test_a_robot_without_it_is_named(network: ChunkNetwork, table: EpisodeTable) -> None:
    assert network.contract.differences(table.contract) == []
    (line,) = network.contract.differences(table.contract.with_sensors(()))
    assert line.startswith("depth 'images_depth/cam_high' is missing")
    smaller = {**dict(RIG.observation(3)), "images_depth": {"cam_high": np.zeros((12, 16), np.uint16)}}
    with pytest.raises(ContractError, match=r"depth of camera 'cam_high' must be \(24, 32\) uint16"):
        ChunkPolicy(network).predict_chunk(smaller)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="depth of camera 'cam_high' is missing"):
        ChunkPolicy(network).predict_chunk(replace(RIG, depth=False).observation(3))


def test_frames_are_the_recorded_values_wherever_they_come_from(table: EpisodeTable, tmp_path: Path) -> None:
    sizes = {"cam_high": (12, 16)}
    expected = np.stack([RIG.depth_image(row)[1::2, 1::2] for row in ROWS])[:, None]  # the pixel nearest to each centre
    cached = cached_frames(table, sizes, tmp_path, workers=1, progress=False, kind=DEPTH)
    resident = resident_frames(table, sizes, tmp_path, "cpu", workers=1, progress=False, kind=DEPTH)
    for frames in (cached, DirectFrames(table, sizes, 1, DEPTH), resident):
        found = frames.gather(ROWS)["cam_high"]
        assert found.dtype == torch.uint16
        np.testing.assert_array_equal(found.numpy(), expected)
    assert sorted(os.listdir(tmp_path)) == ["cam_high_12x16_depth.0.frames", "cam_high_12x16_depth.json", "lock"]
    whole = torch.from_numpy(np.stack([RIG.depth_image(row) for row in ROWS]))[:, None]
    np.testing.assert_array_equal(nearest(whole, (12, 16)).numpy(), expected)  # as the network does it
    loaded = next(iter(DataLoader(ChunkDataset(table, 2), batch_size=12)))["depth"]["cam_high"]
    np.testing.assert_array_equal(loaded[ROWS].numpy(), whole.numpy())


def test_the_channel_is_metres_up_to_a_maximum_and_marks_what_was_not_measured() -> None:
    config = act(**{**SMALL, "backbone_width": 64}, depth_max_m=1.5)
    encoder = ImageEncoder(config, {"a": (2, 2), "b": (2, 2)}, {"a": (2, 2)}).eval()
    seen: list[torch.Tensor] = []
    encoder.backbones[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    images = {name: torch.zeros(1, 3, 2, 2, dtype=torch.uint8) for name in ("a", "b")}
    depth = torch.from_numpy(np.array([[[[0, 1], [750, 3000]]]], np.uint16))
    encoder(images, {"a": depth})
    torch.testing.assert_close(seen[0][0, 3], torch.tensor([[-1.0, 1 / 1500], [0.5, 1.0]]))
    assert torch.all(seen[0][1, 3] == -1)  # the shared ResNet reads a camera without depth too
    assert seen[0].shape == (2, 4, 2, 2)
    apart = ImageEncoder(replace(config, share_backbone=False), {"a": (2, 2), "b": (2, 2)}, {"a": (2, 2)})
    assert [net.conv1.weight.shape[1] for net in apart.backbones] == [4, 3]


def test_augmentation_moves_depth_with_its_image_and_keeps_its_values() -> None:
    ramp = (torch.arange(24)[:, None] + torch.arange(32) + 5).reshape(1, 1, 24, 32)
    batch = Batch(qpos=torch.zeros(1, 2), images={"top": ramp.to(torch.uint8).expand(1, 3, 24, 32)})
    moves = Augment(crop=0.8, shift=0.1, rotate_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
    alone = moves(batch, 4)["images"]["top"]
    batch["images_depth"] = {"top": ramp.to(torch.uint16)}
    both = moves(batch, 4)
    torch.testing.assert_close(both["images"]["top"], alone)  # depth changes no draw
    moved = both["images_depth"]["top"]
    assert set(moved.unique().tolist()) <= set(ramp.unique().tolist())
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    near = (moved[inner] - 255 * alone[:, :1][inner]).abs()
    assert near.max() <= 1.1
    assert (moved != ramp).any()
    recoloured = Augment(crop=1.0, rotate_deg=0.0)(batch, 4)
    torch.testing.assert_close(recoloured["images_depth"]["top"], ramp.float())
    assert (recoloured["images"]["top"] != alone).any()


@pytest.mark.parametrize("changes", [{}, {"n_obs_steps": 2, "image_size": (12, 16), "image_crop": 0.9}])
def test_contract(changes: dict[str, Any], table: EpisodeTable, tmp_path: Path) -> None:
    contract: Contract = table.contract
    check_network(lambda: build(act(**SMALL, **changes), contract, stats_of(contract)), contract, tmp_path)


def test_it_counts_and_all_paths_agree(network: ChunkNetwork, tmp_path: Path) -> None:
    policy, seen = ChunkPolicy(network), RIG.observation(3)
    chunk = policy.predict_chunk(seen)
    none: Any = {**seen, "images_depth": {"cam_high": np.zeros((24, 32), np.uint16)}}
    assert not np.array_equal(policy.predict_chunk(none), chunk)
    checkpoint.save(tmp_path / "saved", network, network.config, network.stats, network.contract)
    loaded = ChunkPolicy(checkpoint.load(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.predict_chunk(seen), chunk)
    buffer = SharedBuffer(1, network.contract, network.chunk_size)
    buffer.put_observation(0, seen)
    BatchedInference(network, buffer, size=1)([0])
    np.testing.assert_array_equal(buffer.chunk(0), chunk)
    served = ServedPolicy(policy, network.contract, network.chunk_size, {}, 1, 2)
    with PolicyServer(served, "127.0.0.1", 0, "token").running() as server:
        client = RemotePolicy(f"127.0.0.1:{server.port}", "token", timeout_s=60.0)
        np.testing.assert_array_equal(client.predict_chunk(seen), chunk)
        client.close()


def test_training_and_deployment_read_the_same(network: ChunkNetwork, table: EpisodeTable) -> None:
    frames, depth = DirectFrames(table, SIZES, 1), DirectFrames(table, {"cam_high": (24, 32)}, 1, DEPTH)
    loaded = Loader(table, frames, 5, depth=depth).batch(np.array([3]))
    deployed = ChunkPolicy(network).batch(RIG.observation(3))
    for name, values in deployed["images_depth"].items():
        assert torch.equal(loaded["images_depth"][name], values)


def test_engines_have_it_and_the_published_classes_do_not(network: ChunkNetwork) -> None:
    example = blank(network, 1)
    assert example["images_depth"]["cam_high"].shape == (1, 1, 24, 32)
    batches = list(probes(network, example))
    assert all(batch["images_depth"]["cam_high"].dtype == torch.uint16 for batch in batches)
    assert check(Engine("eager", "fp32", network.predict), network, example).of_std == 0
    openvino, batch = (
        prepare(network, engine="openvino", example=example),
        ChunkPolicy(network).batch(RIG.observation(3)),
    )
    torch.testing.assert_close(openvino(batch, None), network.predict(batch), rtol=1e-3, atol=1e-3)
    with pytest.raises(ContractError, match=r"depth_cameras is \('cam_high',\), not \(\)"):
        to_state_dict(network)

"""Files of a version, with the values that they are to give for ever: `python -m tests.released.make FOLDER`.

Run it with the code of the version whose files are wanted, never again afterwards.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.control.execution import ChunkExecutor, TemporalEnsemble
from aloha_kit.core import Observation
from aloha_kit.episode import Episode
from aloha_kit.policies import checkpoint
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.testing.policies import batch_of, contract_of
from tests.policies.test_networks import act, cnnmlp, network_of
from tests.storage.recording import feed, record, Rig, writer_for

ROWS = 12
FULL = Rig(depth=True, base=True)
CAMERAS = {"top": (32, 48), "left_wrist": (40, 32)}
SMALL: dict[str, Any] = {"backbone_layers": 1, "hidden_dim": 16}
POLICIES: dict[str, PolicyConfig] = {
    "act_poses": act(**SMALL, dim_feedforward=16, enc_layers=1, use_environment_state=True, image_size=(16, 16)),
    "cnnmlp_chunks": cnnmlp(**SMALL, keypoints=2, chunk_size=4, use_environment_state=True),
}


def make(folder: Path) -> None:
    """Two episodes (JPEG with depth and base, raw), a journal cut off by a kill, checkpoints of each family.

    Those in POLICIES fit the JPEG episode: their actions along its observations are kept.
    """
    expected: dict[str, Any] = {}
    for name, settings in {"jpeg": {"rig": FULL}, "raw": {"rig": Rig(), "images": "raw"}}.items():
        path = record(folder / name, ROWS, **settings)  # type: ignore[arg-type]
        expected |= {f"{name}/{key}": value for key, value in episode_values(path).items()}
    if (child := os.fork()) == 0:
        writer = writer_for(folder / "killed", FULL)
        feed(writer, FULL, ROWS)
        time.sleep(2)  # rows reach the file within half a second
        os._exit(9)
    os.waitpid(child, 0)
    for name, config in network_configurations().items():
        torch.manual_seed(0)
        contract = contract_of(CAMERAS)
        network = network_of(config, contract).eval()
        checkpoint.save(folder / name, network, network.config, network.stats, contract, {"step": 7})
        batch = batch_of(contract, rows=network.chunk_size)
        expected[f"{name}/qpos"] = batch["qpos"].numpy()
        expected |= {f"{name}/images/{camera}": image.numpy() for camera, image in batch["images"].items()}
        with torch.inference_mode():
            expected[f"{name}/prediction"] = network.predict(batch).numpy()
    for name, config in POLICIES.items():
        torch.manual_seed(0)
        network = network_of(config, FULL.contract).eval()
        checkpoint.save(folder / name, network, network.config, network.stats, FULL.contract, {"step": 7})
        expected |= {f"{name}/{key}": value for key, value in actions(network, folder / "jpeg").items()}
    expected["processor"] = processor()
    np.savez_compressed(folder / "expected.npz", **expected)


def actions(network: ChunkNetwork, folder: Path) -> dict[str, Any]:
    """{executor: (T, A) actions along the observations of the folder's episode}."""
    source = ChunkPolicy(network)
    n_action_steps = min(3, network.chunk_size)
    executors = {"chunks": ChunkExecutor(source, n_action_steps), "ensemble": TemporalEnsemble(source)}
    with Episode.open(folder / "episode_0.hdf5") as episode:
        states = episode.vectors["environment_state"]
        observations = [
            Observation(
                qpos=episode.qpos[row],
                images={camera: episode.image(camera, row) for camera in episode.cameras},
                environment_state=states[row],
                stamps={},
            )
            for row in range(episode.length)
        ]
    found = {}
    for name, executor in executors.items():
        executor.reset()
        found[name] = np.stack([executor.act(observation) for observation in observations])
    return found


def processor() -> str:
    """What rounds in the same way: the processor, its vector instructions and torch's version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def network_configurations() -> dict[str, PolicyConfig]:
    """Every family once, as small as it goes."""
    return {
        "act": act(**SMALL, dim_feedforward=16, enc_layers=1, share_backbone=False),
        "cnnmlp": cnnmlp(**SMALL, keypoints=2),
    }


def episode_values(path: Path) -> dict[str, Any]:
    """Every vector of an episode, and the SHA-256 of every camera's images in row order."""
    with Episode.open(path) as episode:
        values: dict[str, Any] = {"action": episode.action, "qpos": episode.qpos}
        for name in ("base_action", "qvel", "effort", "base_velocity", "reward"):
            if (array := getattr(episode, name)) is not None:
                values[name] = array
        values |= {name: episode.vectors[name] for name in ("environment_state",) if name in episode.vectors}
        values |= {f"stamps/{name}": stamps for name, stamps in episode.stamps.items()}
        for camera in episode.cameras:
            digest = hashlib.sha256()
            for row in range(episode.rows(camera)):
                digest.update(episode.image(camera, row).tobytes())
            values[f"images/{camera}"] = digest.hexdigest()
        contract = episode.contract
        assert contract is not None
        values["contract"] = contract.to_json()
    return values


if __name__ == "__main__":
    make(Path(sys.argv[1]))

"""Episodes of a rollout hold the policy's cameras only; narrowing decodes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dm_env
import numpy as np

from aloha_kit.core import Contract, joint_names
from aloha_kit.deploy.rollout import _Narrowed
from aloha_kit.episode import Episode, EpisodeWriter
from aloha_kit.loop import Outcome
from aloha_kit.sync.images import encode


class Undecoded(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise AssertionError(f"'{name}' was decoded")

    def __contains__(self, name: object) -> bool:
        return name in ("top", "wrist")

    def __iter__(self) -> Iterator[str]:
        return iter(("top", "wrist"))

    def __len__(self) -> int:
        return 2


def test_jpegs_are_narrowed_with_the_images(tmp_path: Path) -> None:
    contract = Contract.of(joint_names(), joint_names(), {"wrist": (24, 32)}, 50.0)
    jpegs = {"top": encode(np.zeros((60, 80, 3), np.uint8)), "wrist": encode(np.full((24, 32, 3), 99, np.uint8))}
    observation = {
        "qpos": np.zeros(14, np.float32), "images": Undecoded(), "images_jpeg": jpegs,
        "stamps": {"qpos": 1, "images/top": 1, "images/wrist": 1, "deadline": 1},
    }  # fmt: skip
    writer = EpisodeWriter(tmp_path, contract=contract, task="t", rig="r", sim=True)
    narrowed = _Narrowed(writer, contract)
    narrowed.on_reset(dm_env.restart(observation))
    narrowed.on_step(np.zeros(14, np.float32), dm_env.transition(0.0, observation))
    narrowed.on_end(Outcome(1, 0.0, 0.0, "complete"))
    with Episode.open(writer.path) as episode:
        assert episode.cameras == ("wrist",)
        assert episode.jpeg("wrist", 1) == jpegs["wrist"]
        assert set(episode.stamps) == {"qpos", "images/wrist", "deadline", "command"}

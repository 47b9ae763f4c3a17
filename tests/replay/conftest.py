"""One short scripted episode in MuJoCo, recorded once for all tests of replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloha_kit.episode import EpisodeWriter
from aloha_kit.loop import run_episode
from aloha_kit.sim import SimEnv

STEPS = 30
SEED = 11


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    env = SimEnv("transfer_cube", cameras={"top": (48, 64), "angle": (60, 80)}, episode_len=STEPS)
    env.seed(SEED)
    writer = EpisodeWriter(
        folder,
        contract=env.contract,
        task="sim_transfer_cube",
        rig="sim",
        sim=True,
        instruction="hand it over",
        describe={**env.describe(), "seed": SEED},
        judge=env.succeeded,
    )
    run_episode(env, env.expert(), [writer])
    env.close()
    return writer.path

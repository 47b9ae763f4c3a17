"""One rollout, in this process, on a rig that goes where it is told."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from aloha_kit.core import StopEpisode
from aloha_kit.eval.worker import execution, roll_out
from aloha_kit.policies.execution import ChunkExecutor, TemporalEnsemble
from tests.loop.fake_rig import Constant, FakeRig

STILL = np.zeros(2, np.float32)


class Seeded(FakeRig):
    def seed(self, seed: int) -> None:
        self.seeded = seed


def test_success_is_the_top_reward_at_the_end() -> None:
    env = Seeded(episode_len=3)
    rollout = roll_out(env, Constant(STILL), seed=7)
    assert env.seeded == 7
    assert (rollout.seed, rollout.steps, rollout.final_reward, rollout.max_reward) == (7, 3, 3.0, 3.0)
    assert (rollout.success, rollout.touched, rollout.reason) == (True, True, "complete")
    assert rollout.actions == f"{zlib.crc32(np.array(env.sent, np.float32).tobytes()):08x}"
    assert rollout.guard["commands"] == 3


def test_commands_pass_the_guard() -> None:
    env = FakeRig(episode_len=3)
    rollout = roll_out(env, Constant(np.array([100.0, 0.0], np.float32)), seed=0)
    assert rollout.guard["limited"] == 3
    assert max(action[0] for action in env.sent) < 0.2  # three steps at no more than π rad/s


def test_a_rollout_that_the_guard_ends_has_failed() -> None:
    rollout = roll_out(FakeRig(episode_len=3), Constant(np.array([np.nan, 0.0], np.float32)), seed=1)
    assert (rollout.steps, rollout.success, rollout.touched) == (0, False, False)
    assert rollout.reason.startswith("SafetyError: step 0: the action is not finite: left_waist = nan")


def test_a_policy_may_end_it_and_is_judged_by_where_it_stopped() -> None:
    class Stops(Constant):
        def act(self, observation: dict) -> np.ndarray:
            if observation["images"]["top"][0, 0, 0] == 2:
                raise StopEpisode("enough")
            return STILL

    rollout = roll_out(FakeRig(episode_len=3), Stops(STILL), seed=1)
    assert (rollout.steps, rollout.success, rollout.reason) == (2, False, "enough")


def test_any_other_error_is_no_verdict() -> None:
    with pytest.raises(OSError, match="the bus is gone"):
        roll_out(FakeRig(episode_len=3, fail_at=1), Constant(STILL), seed=1)


def test_chunks_become_actions_as_in_deployment() -> None:
    class Chunks:
        asked = 0

        def reset(self) -> None:
            self.asked = 0

        def predict_chunk(self, observation: object) -> np.ndarray:
            self.asked += 1
            return np.arange(4, dtype=np.float32).reshape(4, 1)

    chunks = Chunks()
    whole, part, blended = (execution(chunks, agg, horizon) for agg, horizon in ((False, None), (False, 2), (True, 2)))
    assert (type(whole), type(part), type(blended)) == (ChunkExecutor, ChunkExecutor, TemporalEnsemble)
    for policy, queries in ((whole, 1), (part, 2), (blended, 2)):
        policy.reset()
        for _ in range(4):
            policy.act({})
        assert chunks.asked == queries

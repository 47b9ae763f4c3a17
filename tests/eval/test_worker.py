"""One rollout, in this process, on a rig that reaches each command at once."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from aloha_kit.control.execution import ChunkExecutor
from aloha_kit.control.simulated_latency import SimulatedLatencyPolicy
from aloha_kit.core import StopEpisode
from aloha_kit.eval.worker import roll_out
from tests.loop.fake_rig import Constant, FakeRig

STILL = np.zeros(2, np.float32)


class Still(Constant):
    """No chunk is behind it."""

    provenance = None


class Seeded(FakeRig):
    def seed(self, seed: int) -> None:
        self.seeded = seed


def test_success_is_the_top_reward_at_the_end() -> None:
    env = Seeded(episode_len=3)
    rollout = roll_out(env, Still(STILL), seed=7)
    assert env.seeded == 7
    assert (rollout.seed, rollout.steps, rollout.final_reward, rollout.max_reward) == (7, 3, 3.0, 3.0)
    assert (rollout.success, rollout.touched, rollout.reason) == (True, True, "complete")
    assert rollout.actions == f"{zlib.crc32(np.array(env.sent, np.float32).tobytes()):08x}"
    assert rollout.guard["commands"] == 3


def test_commands_pass_the_guard() -> None:
    env = FakeRig(episode_len=3)
    rollout = roll_out(env, Still(np.array([100.0, 0.0], np.float32)), seed=0)
    assert rollout.guard["limited"] == 3
    assert max(action[0] for action in env.sent) < 0.2  # three steps at no more than π rad/s


def test_a_rollout_that_the_guard_ends_has_failed() -> None:
    rollout = roll_out(FakeRig(episode_len=3), Still(np.array([np.nan, 0.0], np.float32)), seed=1)
    assert (rollout.steps, rollout.success, rollout.touched) == (0, False, False)
    assert rollout.reason.startswith("SafetyError: step 0: the action is not finite: left_waist = nan")


def test_a_policy_may_end_it_and_is_judged_by_where_it_stopped() -> None:
    class Stops(Still):
        def act(self, observation: dict) -> np.ndarray:
            if observation["images"]["top"][0, 0, 0] == 2:
                raise StopEpisode("enough")
            return STILL

    rollout = roll_out(FakeRig(episode_len=3), Stops(STILL), seed=1)
    assert (rollout.steps, rollout.success, rollout.reason) == (2, False, "enough")


def test_any_other_error_is_no_verdict() -> None:
    with pytest.raises(OSError, match="the bus is gone"):
        roll_out(FakeRig(episode_len=3, fail_at=1), Still(STILL), seed=1)


def test_jumps_are_measured_before_the_guard_cuts_them() -> None:
    """The waist may move π/50 rad a step, the gripper 0.2: chunks of two steps that jump there and back."""

    class Chunks:
        inferences = 0

        def reset(self) -> None:
            self.inferences = 0

        def predict_chunk(self, observation: object) -> np.ndarray:
            self.inferences += 1
            low = np.array([[0.0, 0.1], [np.pi / 500, 0.1]], np.float32)
            return low + np.float32([[np.pi / 10, 0.0]]) * (self.inferences % 2)

    rollout = roll_out(FakeRig(episode_len=6), ChunkExecutor(Chunks()), seed=0)
    assert rollout.guard["limited"] > 0
    assert rollout.chunk_boundaries["count"] == 2
    # from the end of one chunk to the head of the next: down by π/10 + π/500, then up by π/10 - π/500
    assert rollout.chunk_boundaries["largest"] == pytest.approx(5.1, abs=1e-3)
    assert rollout.chunk_boundaries["largest_step"] == rollout.chunk_boundaries["largest"]
    assert rollout.chunk_boundaries["median_step"] == pytest.approx(0.1, abs=1e-3)  # of 0.1, 5.1, 0.1, 4.9, 0.1


def test_all_of_a_fade_is_at_the_chunk_boundary() -> None:
    class Chunks:
        inferences = 0

        def reset(self) -> None:
            self.inferences = 0

        def predict_chunk(self, observation: object) -> np.ndarray:
            self.inferences += 1
            return np.tile(np.float32([(self.inferences - 1) * np.pi / 50, 0.1]), (8, 1))

    policy = SimulatedLatencyPolicy(Chunks(), 0, fade=2)  # inferences at 0, 6, …; steps 6 and 7 belong to both
    rollout = roll_out(FakeRig(episode_len=9), policy, seed=0)
    assert rollout.chunk_boundaries["count"] == 1
    assert rollout.chunk_boundaries["largest"] == pytest.approx(0.5, abs=1e-3)  # 0, ½, 1 of an allowed step
    assert rollout.chunk_boundaries["median_step"] == 0.0


def test_a_rollout_without_a_chunk_boundary_has_no_jump() -> None:
    assert roll_out(FakeRig(episode_len=3), Still(STILL), seed=7).chunk_boundaries == {
        "count": 0,
        "largest": 0.0,
        "median_step": 0.0,
        "largest_step": 0.0,
    }

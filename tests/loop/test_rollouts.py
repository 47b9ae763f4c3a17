"""Summary of rollouts."""

from aloha_kit.loop import RolloutResult, summarise


def rollout(best: float) -> RolloutResult:
    return RolloutResult(
        seed=0, steps=3, final_reward=0.0, max_reward=best, success=best == 4, touched=best == 4, reason="", actions=""
    )


def test_highest_rewards_are_counted_by_stage_or_by_tenth() -> None:
    stages = summarise([rollout(best) for best in (2.0, 4.0, 2.0)])
    assert (stages["max_reward_histogram"], stages["mean_max_reward"]) == ({"2": 2, "4": 1}, 8 / 3)
    coverage = summarise([rollout(best) for best in (0.97, 0.31, 0.3, 1.0)])
    assert coverage["max_reward_histogram"] == {"0.3": 2, "0.9": 1, "1": 1}
    assert coverage["mean_max_reward"] == 2.58 / 4

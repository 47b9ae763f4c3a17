"""Contract of every environment as one reusable check, also for environments of third parties.

In pytest, `pytest.register_assert_rewrite("aloha_kit.testing")` before the import shows the values of a failed assert.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Environment, Outcome
from aloha_kit.core.features import flatten
from aloha_kit.loop.capabilities import DeltaActions, Demonstrator, ImagesOnRequest, RewardTerms, TargetBands

Actions = list[npt.NDArray[np.float32]]


def check_environment(
    make: Callable[[], Environment], *, episode_len: int, reproducible: bool = True, free_running: bool = False
) -> None:
    """Assert the environment contract.

    Args:
        make: builds the environment anew; called several times, each is closed.
        episode_len: actions until LAST.
        reproducible: a seed decides everything, bit for bit.
        free_running: streams tick on their own in real time, so one may come twice, and steps may be late.

    Raises:
        AssertionError: the contract is broken; where Python shows no values, the failed line names the part.
    """
    env = make()
    try:
        first, actions = _one_episode(env, episode_len)
        _specs_hold(env, first)
        (_live_stamps_hold if free_running else _stamps_hold)(env, first)
        _limits_hold(env)
        _judges(env)
        _starts_over(env)
        _refuses(env)
    finally:
        env.close()
    if reproducible:
        _repeats(make, actions)
        _capabilities_hold(make)


def _one_episode(env: Environment, episode_len: int) -> tuple[list[dm_env.TimeStep], Actions]:
    """T actions, T + 1 observations; FIRST, then MID, then LAST at the end only."""
    rng = np.random.default_rng(0)
    env.seed(7)
    steps = [env.reset()]
    action = _stay(env, steps[0])
    actions = []
    while not steps[-1].last():
        action = action + rng.uniform(-0.01, 0.01, action.shape).astype(np.float32)
        actions.append(action)
        steps.append(env.step(action))
        assert len(actions) <= episode_len, "the episode should be over"
    assert (len(actions), len(steps)) == (episode_len, episode_len + 1)
    assert steps[0].first()
    assert steps[0].reward is None
    assert all(step.mid() for step in steps[1:-1])
    return steps, actions


def _stay(env: Environment, step: dm_env.TimeStep) -> npt.NDArray[np.float32]:
    """The action that holds the present pose; what is commanded by its velocity stands still."""
    return env.limits.present(step.observation["qpos"]).astype(np.float32)


def _specs_hold(env: Environment, steps: list[dm_env.TimeStep]) -> None:
    spec = flatten(env.observation_spec())
    for step in (steps[0], steps[1], steps[-1]):
        flat = flatten(step.observation)
        assert set(spec) <= set(flat), f"missing: {sorted(set(spec) - set(flat))}"
        assert set(flat) - set(spec) <= {"stamps/command"}
        for name, value in flat.items():
            if name in spec:
                spec[name].validate(np.asarray(value))
    contract = env.contract
    observation = steps[-1].observation
    flat = flatten(observation)
    for feature in contract.inputs:
        if not feature.optional or feature.name in flat:
            assert np.shape(flat[feature.name]) == feature.shape, feature.name
    assert {name: image.shape[:2] for name, image in observation["images"].items()} == contract.cameras
    assert env.action_spec().shape == (len(contract.action_names),)
    for step in steps[1:]:
        env.reward_spec().validate(np.asarray(step.reward))
        assert step.reward <= env.max_reward
        env.discount_spec().validate(np.asarray(step.discount))


def _stamps_hold(env: Environment, steps: list[dm_env.TimeStep]) -> None:
    """Every stream is stamped, time never runs backwards, commands come before what they led to."""
    stamps: list[dict[str, int]] = [step.observation["stamps"] for step in steps]
    streams = {"qpos", "deadline", *(f"images/{name}" for name in env.contract.cameras)}
    assert set(stamps[0]) == streams, "no command led to a reset"
    assert all(set(each) == streams | {"command"} for each in stamps[1:])
    for name in streams:
        times = [each[name] for each in stamps]
        assert all(isinstance(time, int) for time in times)
        assert all(b > a for a, b in itertools.pairwise(times)), f"{name} runs backwards"
    for before, after in itertools.pairwise(stamps):
        assert before["qpos"] <= after["command"] < after["qpos"]
    periods = np.diff([each["deadline"] for each in stamps])
    np.testing.assert_allclose(periods, 1e9 / env.contract.rate_hz, rtol=1e-6)


def _live_stamps_hold(env: Environment, steps: list[dm_env.TimeStep]) -> None:
    """Check that every step has the same streams, none running backwards, and deadlines at least a period apart."""
    stamps: list[dict[str, int]] = [step.observation["stamps"] for step in steps]
    assert "command" not in stamps[0], "no command led to a reset"
    assert {"deadline", *(f"images/{name}" for name in env.contract.cameras)} < set(stamps[0])
    assert any(name.startswith("qpos") for name in stamps[0])
    assert all(set(each) == set(stamps[0]) | {"command"} for each in stamps[1:])
    assert all(isinstance(time, int) for each in stamps for time in each.values())
    for name in stamps[0]:
        assert all(b[name] >= a[name] for a, b in itertools.pairwise(stamps)), f"{name} runs backwards"
        assert stamps[-1][name] > stamps[0][name], f"{name} stands still"
    period = round(1e9 / env.contract.rate_hz)
    for before, after in itertools.pairwise(stamps):
        assert after["deadline"] - before["deadline"] >= period
        assert before["deadline"] <= after["command"]


def _starts_over(env: Environment) -> None:
    """After LAST, and after it only, a step begins the next episode."""
    assert env.step(np.zeros(env.action_spec().shape, np.float32)).first()


def _refuses(env: Environment) -> None:
    """An invalid command is refused, and the episode goes on."""
    good = _stay(env, env.reset())
    assert f"shape ({len(good)},)" in _refusal(env, good[:-1])
    bad = good.copy()
    bad[-1] = np.nan
    assert _refusal(env, bad).endswith(f"not at: {env.contract.action_names[-1]}")
    assert env.step(good).mid()


def _refusal(env: Environment, action: npt.NDArray[np.float32]) -> str:
    try:
        env.step(action)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"a command that means nothing was accepted: {action.tolist()}")


def _limits_hold(env: Environment) -> None:
    """Limits and rest action have an entry for each action; what moves no entry of the state rests at 0."""
    limits, names = env.limits, env.contract.action_names
    assert limits.names == names
    for values in (limits.lower, limits.upper, limits.step, limits.ramp, env.rest_action):
        assert np.shape(values) == (len(names),)
        assert np.isfinite(values).all()
    assert (limits.lower < limits.upper).all()
    assert (limits.ramp > 0).all()
    assert (limits.ramp <= limits.step).all()
    states = env.contract.state_names
    assert limits.state_index == tuple(states.index(name) if name in states else None for name in names)
    assert all(env.rest_action[i] == 0 for i, state in enumerate(limits.state_index) if state is None)


def _judges(env: Environment) -> None:
    """Success is True or False where there is a reward, None where there is none; an error is never a success."""
    top = env.max_reward
    ends = [Outcome(3, reward, top, "complete", error) for reward in (0.0, top) for error in (False, True)]
    verdicts = [env.succeeded(outcome) for outcome in ends]
    assert all((verdict is None) == (top <= 0) for verdict in verdicts)
    assert not any(verdict for verdict, outcome in zip(verdicts, ends, strict=True) if outcome.error)
    assert isinstance(env.simulated, bool)


def _capabilities_hold(make: Callable[[], Environment]) -> None:
    """Check the optional capabilities: an expert that repeats itself, later images that are the same, terms, bands."""
    env = make()
    try:
        if isinstance(env, RewardTerms):
            _terms_sum(env)
        if isinstance(env, TargetBands):
            _bands_hold(env)
        if isinstance(env, DeltaActions):
            assert env.action_delta.shape == env.limits.step.shape
            assert ((env.action_delta > 0) & (env.action_delta <= env.limits.step)).all()
        if isinstance(env, Demonstrator):
            acted = []
            for _ in range(2):
                env.seed(5)
                expert = env.expert(noise=0.5, seed=5)
                observation = env.reset().observation
                expert.reset()
                acted.append(expert.act(observation))
            assert np.shape(acted[0]) == (len(env.contract.action_names),)
            np.testing.assert_array_equal(acted[0], acted[1])
        if isinstance(env, ImagesOnRequest):
            images = []
            for env.lazy_images in (False, True):
                env.seed(5)
                images.append(dict(env.reset().observation["images"]))
            for name, image in images[0].items():
                np.testing.assert_array_equal(images[1][name], image, err_msg=name)
    finally:
        env.close()


def _terms_sum(env: Any) -> None:
    """Check that the terms of every step sum to its reward, and have the same names."""
    step = env.reset()
    names = set(env.reward_terms)
    assert names
    assert not any(env.reward_terms.values()), "a reset has no reward"
    action = _stay(env, step)
    while not step.last():
        step = env.step(action)
        assert set(env.reward_terms) == names
        np.testing.assert_allclose(sum(env.reward_terms.values()), step.reward, atol=1e-9)


def _bands_hold(env: Any) -> None:
    """Check that a reset draws the target from the band that was set, and from any band without one."""
    assert list(env.bands) == sorted(env.bands), "near to far"
    assert env.band is None, "all bands, until one is set"
    for band, (nearest, farthest) in enumerate(env.bands):
        env.band = band
        for _ in range(3):
            env.reset()
            assert nearest <= env.target_distance <= farthest, f"band {band}"
    env.band = None
    env.reset()
    assert any(nearest <= env.target_distance <= farthest for nearest, farthest in env.bands)


def _repeats(make: Callable[[], Environment], actions: Actions) -> None:
    """Check that seed and actions repeat the same bits, in another instance and in the same one; others do not."""

    def episode(env: Environment, seed: int) -> list[dict[str, Any]]:
        env.seed(seed)
        return [flatten(env.reset().observation)] + [flatten(env.step(action).observation) for action in actions]

    one, two = make(), make()
    try:
        wanted, again, elsewhere, other = episode(one, 3), episode(one, 3), episode(two, 3), episode(one, 4)
        for name, _value in wanted[0].items():
            if not name.startswith("stamps"):
                for a, b, c in zip(wanted, again, elsewhere, strict=True):
                    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
                    np.testing.assert_array_equal(a[name], c[name], err_msg=name)
        assert any(not np.array_equal(value, other[0][name]) for name, value in wanted[0].items())
        two.seed(3)
        two.reset()
        following = flatten(two.reset().observation)  # the reset after seed 3 uses 4
        for feature in two.contract.inputs:
            if feature.name in following:
                np.testing.assert_array_equal(following[feature.name], other[0][feature.name], err_msg=feature.name)
    finally:
        one.close()
        two.close()

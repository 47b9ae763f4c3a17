"""Asynchronous chunks against a slow network whose every answer the test gives when it likes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.control.execution import ChunkProvenance
from aloha_kit.core import aloha_limits, ConfigError, Contract, HoldStill, Observation, SafetyError, StopEpisode
from aloha_kit.loop import run_episode, SafetyGuard
from tests.loop.fake_rig import CONTRACT, FakeRig
from tests.waiting import until

RATE = 50.0


class Network:
    """A source that answers when the test releases it: `answers` holds chunks, or errors to raise."""

    def __init__(self) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()
        self.observed: list[int] = []
        self.threads: set[int] = set()
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        self.threads.add(threading.get_ident())
        self.observed.append(observation["stamps"]["step"])
        answer = self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return np.asarray(answer, np.float32)


def at(step: int) -> Observation:
    return {"stamps": {"step": step}}


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.answers.put(StopEpisode("the test is over"))


class Played:
    """A policy under test, and the network behind it, step by step."""

    def __init__(self, network: Network, **options: Any) -> None:
        self.network, self.step = network, 0
        self.policy = AsyncInferencePolicy(network, RATE, **options)
        self.policy.reset()

    def act(self) -> Any:
        """The action, or None where it held."""
        step, self.step = self.step, self.step + 1
        try:
            return self.policy.act(at(step))
        except HoldStill:
            return None

    def arrive(self, chunk: Any) -> None:
        """The answer to the inference under way, taken in before this returns."""
        before = self.policy.report()["chunks"]
        self.network.answers.put(chunk)
        until(lambda: self.policy.report()["chunks"] == before + 1, "the network thread", 60.0)

    def requested(self) -> int:
        """The step of the inference under way, once the network has it."""
        inferences = self.policy.report()["inferences"]
        until(lambda: len(self.network.observed) == inferences, "the network thread", 60.0)
        return self.network.observed[-1]


def chunk(base: float, length: int = 4) -> npt.NDArray[np.float32]:
    """Row i is base + i."""
    return np.full((length, 1), base, np.float32) + np.arange(length, dtype=np.float32)[:, None]


def test_rows_belong_to_steps_after_the_observation_however_late_they_come(network: Network) -> None:
    network.answers.put(chunk(0, 6))
    played = Played(network, inference_interval=1)
    assert played.act() == [0]  # waits for the first chunk
    assert played.act() == [1]  # step 1 starts an inference
    assert played.requested() == 1
    assert (played.act(), played.act()) == ([2], [3])  # the old chunk goes on meanwhile
    played.arrive(chunk(100, 6))  # of the observation of step 1, taken up at step 4
    assert played.act() == [103]
    assert network.observed == [0, 1] + [4] * (played.requested() == 4)
    report = played.policy.report()
    assert report["held"] == {}
    assert report["delay_steps"] == {"p50": 1.5, "max": 3}
    assert threading.get_ident() not in network.threads


def test_a_step_without_a_chunk_is_held_counted_and_later_steps_go_on(network: Network) -> None:
    network.answers.put(chunk(0, 3))
    played = Played(network, inference_interval=1)
    assert [played.act() for _ in range(5)] == [[0], [1], [2], None, None]
    assert played.requested() == 1
    played.arrive(chunk(10, 3))  # for steps 1 to 3, which are over
    assert played.act() is None
    assert played.requested() == 5
    played.arrive(chunk(50, 3))
    assert played.act() == [51]
    report = played.policy.report()
    assert report["held"] == {"no chunk in time": 3}
    assert (report["chunks"], report["late"]) == (3, 1)


def test_an_action_states_which_chunks_it_came_from_and_a_held_step_states_none(network: Network) -> None:
    network.answers.put(chunk(0, 3))
    played = Played(network, ensemble_weight=0.01, inference_interval=1)
    assert played.policy.provenance is None
    played.act()
    assert played.policy.provenance == ChunkProvenance(step=0, newest=0, oldest=0, chunks=1, row=0, boundary=True)
    played.act()
    assert played.policy.provenance == ChunkProvenance(step=1, newest=0, oldest=0, chunks=1, row=1, boundary=False)
    played.arrive(chunk(10, 3))  # of step 1
    played.act()
    assert played.policy.provenance == ChunkProvenance(step=2, newest=1, oldest=0, chunks=2, row=1, boundary=True)
    assert played.requested() == 2
    played.act()
    assert played.policy.provenance == ChunkProvenance(step=3, newest=1, oldest=1, chunks=1, row=2, boundary=False)
    assert played.act() is None
    assert played.policy.provenance is None
    played.arrive(chunk(20, 5)[:3])
    assert played.act() is None  # for steps 2 to 4, which are over
    played.policy.reset()
    assert played.policy.provenance is None


def faded(schedule: list[tuple[int, int, Any]], step: int, fade: int) -> Any:
    """What (observed at, arrived before, rows) say of a step where each fades in over those before; None to hold."""
    here = [entry for entry in schedule if entry[1] <= step < entry[0] + len(entry[2])]
    if not here:
        return None
    begun, arrived, rows = here[-1]
    before = [entry for entry in schedule if entry[0] < begun]
    both = before[-1][0] + len(before[-1][2]) - arrived if before else 0
    n = max(0, min(fade, both, len(rows) // 4))
    if step >= arrived + n:
        return rows[step - begun].astype(np.float64)
    share = (step - arrived) / n
    return share * rows[step - begun].astype(np.float64) + (1 - share) * faded(before, step, fade)


def expected(schedule: list[tuple[int, int, Any]], step: int, ensemble_weight: float | None) -> Any:
    """What (observed at, arrived before, rows) say of a step, one by one; None to hold."""
    found = [
        rows[step - begun].astype(np.float64)
        for begun, arrived, rows in schedule
        if arrived <= step and begun <= step < begun + len(rows)
    ]
    if not found:
        return None
    if ensemble_weight is None:
        return found[-1]
    weights = [np.exp(-ensemble_weight * i) for i in range(len(found))]
    return sum(w * row for w, row in zip(weights, found, strict=True)) / sum(weights)


@pytest.mark.parametrize(("ensemble_weight", "fade"), [(None, 0), (0.01, 0), (0.3, 0), (None, 3), (None, 9)])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_delays_it_is_what_the_slow_reckoning_gives(
    ensemble_weight: float | None, fade: int, seed: int, network: Network
) -> None:
    rng = np.random.default_rng(seed)
    length = int(rng.integers(2, 9)) * (4 if fade else 1)
    network.answers.put(rng.normal(size=(length, 3)).astype(np.float32))
    first = network.answers.queue[0]
    played = Played(network, ensemble_weight=ensemble_weight, inference_interval=1, fade=fade, hold_s=10.0)
    schedule = [(0, 0, first)]
    under_way: int | None = None
    held = 0
    for step in range(60):
        if under_way is not None and rng.random() < 0.4:
            rows = rng.normal(size=(length, 3)).astype(np.float32)
            played.arrive(rows)
            schedule.append((under_way, step, rows))
            under_way = None
        got = played.act()
        want = faded(schedule, step, fade) if fade else expected(schedule, step, ensemble_weight)
        held += want is None
        if want is None or got is None:
            assert got is want
        else:
            np.testing.assert_allclose(got, want, atol=1e-6)
        if under_way is None and step > 0:
            under_way = played.requested()
            assert under_way == step
    assert sum(played.policy.report()["held"].values()) == held


def test_the_next_chunk_is_requested_early_enough_to_be_there_when_this_one_ends(network: Network) -> None:
    times = iter(range(0, 10**12, 50_000_000))  # request and answer read it once each: 50 ms an inference
    for base in (0, 100, 200):
        network.answers.put(chunk(base, 10))
    played = Played(network, now_ns=lambda: next(times))
    seen = []
    for _ in range(14):
        seen.append(float(played.act()[0]))
        until(
            lambda: played.policy.report()["chunks"] == played.policy.report()["inferences"],
            "the background thread gets there",
            60.0,
        )
    # 50 ms are 2.5 steps, rounded up and one more: 4 of 10 are set aside, so step 6 starts an inference
    assert network.observed == [0, 6, 12]
    assert seen[:7] == [0, 1, 2, 3, 4, 5, 6]
    assert seen[7:13] == [101, 102, 103, 104, 105, 106]


def test_a_fade_infers_earlier_and_leads_from_one_chunk_to_the_next(network: Network) -> None:
    times = iter(range(0, 10**12, 50_000_000))
    for base in (0, 100, 200):
        network.answers.put(chunk(base, 16))
    played = Played(network, fade=4, now_ns=lambda: next(times))
    seen, recorded = [], []
    for _ in range(16):
        seen.append(float(played.act()[0]))
        recorded.append(played.policy.provenance)
        until(
            lambda: played.policy.report()["chunks"] == played.policy.report()["inferences"],
            "the background thread gets there",
            60.0,
        )
    # 4 of 16 steps are set aside for the inference, 4 for the fade: an inference begins at step 8, played from step 9
    assert network.observed == [0, 8]
    assert seen[:10] == list(range(10))
    assert seen[10:14] == [10 + 92 * 1 / 4, 11 + 92 * 2 / 4, 12 + 92 * 3 / 4, 105]
    assert [each.boundary for each in recorded] == [True] + [False] * 8 + [True] + [False] * 6
    assert recorded[12] == ChunkProvenance(step=12, newest=8, oldest=0, chunks=2, row=4, boundary=False)
    assert recorded[13] == ChunkProvenance(step=13, newest=8, oldest=8, chunks=1, row=5, boundary=False)


def test_a_horizon_infers_more_often(network: Network) -> None:
    times = iter(range(10**9))
    for base in range(6):
        network.answers.put(chunk(100 * base, 10))
    played = Played(network, inference_interval=3, now_ns=lambda: next(times))
    for _ in range(10):
        played.act()
        until(
            lambda: played.policy.report()["chunks"] == played.policy.report()["inferences"],
            "the background thread gets there",
            60.0,
        )
    assert network.observed == [0, 3, 6, 9]


def test_a_hung_network_holds_and_then_ends_the_episode_by_name(network: Network) -> None:
    network.answers.put(chunk(0, 2))
    played = Played(network, inference_interval=1, hold_s=0.1)
    assert [played.act() for _ in range(7)] == [[0], [1]] + [None] * 5
    with pytest.raises(SafetyError, match=r"step 7: held still for 5 steps \(0.1 s\): the policy has no chunk yet"
                       r" for the observation of step 1 for \d+\.\d s"):  # fmt: skip
        played.act()


def test_no_first_chunk_is_reported(network: Network) -> None:
    played = Played(network, first_s=0.01)
    with pytest.raises(SafetyError, match=r"no first chunk within 0.01 s: the policy has no chunk yet for the "
                       r"observation of step 0 for \d+\.\d s"):  # fmt: skip
        played.act()


def test_a_network_that_raises_ends_the_episode_with_its_words(network: Network) -> None:
    network.answers.put(chunk(0, 9))
    played = Played(network, inference_interval=1)
    played.act(), played.act()
    network.answers.put(RuntimeError("CUDA is gone"))
    until(lambda: played.policy._failure is not None, "the network thread", 60.0)
    with pytest.raises(SafetyError, match="step 2: the policy failed on the observation of step 1: RuntimeError: CUDA"):
        played.act()


def test_the_networks_wish_to_stop_is_granted(network: Network) -> None:
    network.answers.put(StopEpisode("that was all"))
    with pytest.raises(StopEpisode, match="that was all"):
        Played(network).act()


def test_a_lost_connection_is_held_and_retried_with_the_newest_observation(network: Network) -> None:
    network.answers.put(chunk(0, 2))
    played = Played(network, inference_interval=1, hold_s=1.0)
    assert [played.act(), played.act(), played.act()] == [[0], [1], None]
    network.answers.put(ConnectionError("the server is gone"))
    until(lambda: played.policy._why == "the server is gone", "the network thread", 60.0)
    assert played.act() is None
    assert played.requested() == 3
    played.arrive(chunk(30, 2))
    assert played.act() == [31]
    assert played.policy.report()["held"] == {"no chunk in time": 1, "the server is gone": 1}


def test_at_the_start_a_lost_connection_is_retried_with_what_there_is(network: Network) -> None:
    for answer in (TimeoutError("nobody there"), ConnectionRefusedError("nor there"), chunk(7)):
        network.answers.put(answer)
    played = Played(network)
    assert played.act() == [7]
    assert network.observed == [0, 0, 0]
    assert network.resets == 3  # nothing was answered in between, so it may not have arrived


def test_answers_of_the_episode_before_are_dropped(network: Network) -> None:
    network.answers.put(chunk(0, 9))
    played = Played(network, inference_interval=1)
    played.act(), played.act()
    played.requested()  # of step 1, still open
    played.policy.reset()
    for answer in (chunk(500, 9), chunk(1000, 9)):
        network.answers.put(answer)
    assert played.policy.act(at(70)) == [1000]
    assert network.observed[:3] == [0, 1, 70]
    assert network.resets == 2


def test_a_source_may_reuse_its_array_and_a_caller_may_write_into_the_action() -> None:
    shared = np.ones((9, 2), np.float32)

    class Same:
        def reset(self) -> None: ...

        def predict_chunk(self, observation: Observation) -> Any:
            return shared

    policy = AsyncInferencePolicy(Same(), RATE, first_s=60)
    policy.act({})[:] = 99.0
    shared[:] = 50.0
    assert policy.act({}).tolist() == [1.0, 1.0]
    policy.close()
    assert not policy._worker.is_alive()


def test_chunks_of_an_odd_shape_are_answered(network: Network) -> None:
    network.answers.put(np.zeros(14))
    with pytest.raises(SafetyError, match=r"step 0: a chunk must be \(K, A\) with K of at least 1"):
        Played(network).act()
    network.answers.put(chunk(0, 9))
    played = Played(network, inference_interval=1)
    played.act(), played.act()
    network.answers.put(np.zeros((9, 2)))
    until(lambda: played.policy._failure is not None, "the network thread", 60.0)
    with pytest.raises(SafetyError, match=r"a chunk of shape \(9, 2\) after chunks of \(9, 1\)"):
        played.act()


def test_settings_that_make_no_sense_are_answered(network: Network) -> None:
    with pytest.raises(ConfigError, match="inference_interval must be at least 1 step, given 0"):
        AsyncInferencePolicy(network, RATE, inference_interval=0)
    with pytest.raises(ConfigError, match=r"times must not be negative, given budget -1.0, first 30.0, hold 2.0 s"):
        AsyncInferencePolicy(network, RATE, budget_s=-1.0)


class Steps:
    """Gives each observation of the fake rig the number that the network notes."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.step = policy, -1

    def reset(self) -> None:
        self.policy.reset()

    def act(self, observation: Any) -> Any:
        self.step += 1
        return self.policy.act({**observation, "stamps": {"step": self.step}})


def guarded(network: Network, **options: Any) -> SafetyGuard:
    limits = aloha_limits(CONTRACT)
    return SafetyGuard(Steps(AsyncInferencePolicy(network, RATE, **options)), limits, hold=3)


def test_behind_the_guard_a_hung_network_means_the_same_command_until_the_end(network: Network) -> None:
    network.answers.put(np.tile(np.float32([0.02, 0.1]), (2, 1)))
    rig = FakeRig(500)
    guard = guarded(network, hold_s=0.2)
    with pytest.raises(SafetyError, match=r"held still for 10 steps \(0.2 s\)"):
        run_episode(rig, guard)
    assert len(rig.sent) == 2 + 10
    np.testing.assert_array_equal(rig.sent[2:], [rig.sent[1]] * 10)
    assert guard.report()["held"] == 10


def test_behind_the_guard_a_network_that_gives_nan_ends_the_episode_by_name(network: Network) -> None:
    rows = np.tile(np.float32([0.02, 0.1]), (40, 1))
    rows[5:, 1] = np.nan
    network.answers.put(rows)
    rig = FakeRig(500, contract=Contract.of(CONTRACT.state_names, CONTRACT.action_names, CONTRACT.cameras, RATE))
    with pytest.raises(SafetyError, match=r"the action is not finite: left_gripper = nan \(held still for 3 steps"):
        run_episode(rig, guarded(network, inference_interval=40))
    assert len(rig.sent) == 5 + 3
    assert np.all(np.isfinite(rig.sent))

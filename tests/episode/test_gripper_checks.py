"""Grippers whose state does not belong to their command are found; those that rest, hold or lag are not."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from aloha_kit.core import Contract, joint_names
from aloha_kit.episode.bounds import Finding
from aloha_kit.episode.gripper_checks import check_grippers, is_gripper
from aloha_kit.episode.validate import validate
from tests.storage.recording import record, Rig

CONTRACT = Contract.of(joint_names(), joint_names(), {}, 50.0)
LEFT, RIGHT = 6, 13
GRIPPERS = [LEFT, RIGHT]
Pair = tuple[np.ndarray, np.ndarray]


def episode(seed: int, held: float = 0.4) -> Pair:
    """Two arms on smooth ways; each gripper opens, closes at an object that stops it at `held`, and opens again."""
    rng = np.random.default_rng(seed)
    t = np.arange(260)[:, None]
    command = 0.6 * np.sin(t / rng.uniform(15, 40, 14) + rng.uniform(0, 6, 14))
    for gripper, shift in ((LEFT, 0), (RIGHT, 70)):
        times = np.array([0, 30, 50, 70, 80, 150, 170, 260]) + [0, *([shift] * 6), 0] + rng.integers(0, 5)
        command[:, gripper] = np.interp(t[:, 0], times, [0.1, 0.1, 1, 1, 0, 0, 1, 1])
    state = command.copy()
    state[:, GRIPPERS] = np.maximum(state[:, GRIPPERS] - 0.02, np.where(t > 70, held, 0.0))
    state = np.roll(state, 4, axis=0)  # follows four steps later
    state[:4] = state[4]
    return (state + rng.normal(0, 1e-3, state.shape)).astype(np.float32), command.astype(np.float32)


EPISODES = [episode(seed) for seed in range(3)]
FIRST = [6, 0, 1, 2, 3, 4, 5, 13, 7, 8, 9, 10, 11, 12]  # each arm's gripper before its joints


def found(change: Callable[[np.ndarray, np.ndarray], Pair], pairs: Sequence[Pair] = EPISODES) -> list[Finding]:
    return list(check_grippers([change(state.copy(), action.copy()) for state, action in pairs], CONTRACT))


def on(which: str, columns: Sequence[int], change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Pair]:
    """Changes some columns of the state ("s"), of the action ("a") or of both."""

    def changed(state: np.ndarray, action: np.ndarray) -> Pair:
        for name, table in (("s", state), ("a", action)):
            if name in which:
                table[:, columns] = change(table[:, columns])
        return state, action

    return changed


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (on("s", GRIPPERS, lambda g: 0.08 * g), "error", "left_gripper: state and command differ in unit: metres"),
        (on("a", [RIGHT], lambda g: 0.08 * g), "error", "right_gripper: state and command differ in unit: an opening"),
        (on("a", [RIGHT], lambda g: 2.1 * g - 0.62), "error", "an opening from 0 to 1 against another unit"),
        (on("s", [LEFT], lambda g: 100 * g), "error", "left_gripper: state and command differ in unit: another unit"),
        (on("sa", GRIPPERS, lambda g: 0.08 * g), "warning", "these look like metres"),
        (on("s", [LEFT], lambda g: 1 - g), "error", "left_gripper: the state runs against its command"),
        (on("a", [RIGHT], lambda g: 1 - g), "error", "right_gripper: the state runs against its command"),
        (on("s", [LEFT], lambda g: 0 * g + 0.5), "warning", "left_gripper: the command moves, the state never"),
        (on("s", GRIPPERS, lambda g: g[:, ::-1]), "error", "right_gripper"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_belong_to_its_command(change: Callable[..., Pair], level: str, words: str) -> None:
    findings = found(change)
    assert (findings[0].level, findings[0].check) == (level, "gripper")
    assert any(words in finding.found for finding in findings)
    assert all(" to " in finding.found or "correlation" in finding.found for finding in findings)  # the figures
    for pair in EPISODES:  # one episode is enough
        assert any(words in finding.found for finding in found(change, [pair]))


def test_a_command_beyond_closed_is_no_other_unit() -> None:
    """A gripper that stays nearly closed, and whose command goes below 0."""

    def change(state: np.ndarray, action: np.ndarray) -> Pair:
        action[:, LEFT] = 0.18 * action[:, LEFT] - 0.1
        state[:, LEFT] = np.maximum(0.18 * state[:, LEFT] - 0.1, 0.045)
        return state, action

    assert found(change) == []


@pytest.mark.parametrize("which", ["state", "action"])
def test_another_order_of_state_and_action(which: str) -> None:
    def change(state: np.ndarray, action: np.ndarray) -> Pair:
        return (state[:, FIRST], action) if which == "state" else (state, action[:, FIRST])

    (finding,) = found(change)
    assert finding.level == "error"
    assert "the order of state and action differs: state " in finding.found
    assert ("follows command left_gripper" if which == "state" else "state left_gripper follows") in finding.found
    neutral = tuple(f"joint_{i}" for i in range(14))
    pairs = [change(*pair) for pair in EPISODES]
    (finding,) = check_grippers(pairs, Contract.of(neutral, neutral, {}, 50.0))
    assert "follows command joint_" in finding.found


def test_grippers_at_another_place_of_both_vectors() -> None:
    findings = found(lambda state, action: (state[:, FIRST], action[:, FIRST]))
    assert [f.level for f in findings] == ["warning"] * 2
    assert "left_waist 0." in findings[0].found
    assert "like a gripper: is the gripper at another place of the vector?" in findings[0].found


def sines(period: float, phase: float, length: int = 400) -> Pair:
    """Grippers that open and close slowly all the time, the right one `phase` rad after the left one."""
    state, action = (np.repeat(table[-1:], length, axis=0) for table in EPISODES[0])
    for gripper, shift in ((LEFT, 0.0), (RIGHT, phase)):
        angle = np.arange(-4, length) / period + shift
        action[:, gripper] = 0.5 + 0.45 * np.sin(angle[4:])
        state[:, gripper] = 0.48 + 0.45 * np.sin(angle[:-4])
    return state, action


def shifted(steps: int, columns: Sequence[int] = tuple(GRIPPERS)) -> Callable[..., Pair]:
    """Grippers' states that many steps later, or earlier; the ends repeated."""

    def later(table: np.ndarray) -> np.ndarray:
        rows = np.clip(np.arange(len(table)) - steps, 0, len(table) - 1)
        return table[rows]

    return on("s", columns, later)


@pytest.mark.parametrize("period", [10.0, 25.0, 40.0, 60.0])
@pytest.mark.parametrize("phase", [1.0, -1.0, 2.0])
def test_exchanged_grippers_whose_motions_are_alike(period: float, phase: float) -> None:
    pair = sines(period, phase)
    assert found(lambda state, action: (state, action), [pair]) == []
    (finding,) = found(on("s", GRIPPERS, lambda g: g[:, ::-1]), [pair])
    assert (finding.level, finding.check) == ("error", "gripper")
    for one, other in (("left", "right"), ("right", "left")):
        assert f"state {one}_gripper follows command {other}_gripper (correlation 1.00, its own " in finding.found


@pytest.mark.parametrize("pairs", [EPISODES, EPISODES[:1], [sines(30.0, 1.0)]])
def test_grippers_of_another_time(pairs: list[Pair]) -> None:
    late = found(shifted(30), pairs)
    assert [f.level for f in late] == ["warning"] * 2
    for finding, side in zip(late, ("left", "right"), strict=True):
        words = rf"{side}_gripper: the state follows its command (\d+) steps \(0\.\d\d s\) late \(correlation "
        matched = re.match(words, finding.found)
        assert matched is not None, finding.found
        assert abs(int(matched[1]) - 34) <= 2  # four steps are the arms' own
    early = [f.found for f in found(shifted(-30, [LEFT]), pairs)]
    assert any(re.match(r"left_gripper: the state is 2\d steps \(0.5\d s\) ahead of its command", m) for m in early)
    assert not any(message.startswith("right") for message in early)


def noisy(state: np.ndarray, action: np.ndarray) -> Pair:
    """Grippers that are not used: at rest, with the noise of a sensor and of a leader."""
    rng = np.random.default_rng(1)
    state[:, GRIPPERS] = 0.02 + rng.normal(0, 1e-3, (len(state), 2))
    action[:, GRIPPERS] = rng.normal(0, 1e-3, (len(action), 2))
    return state, action


def two_scales(state: np.ndarray, action: np.ndarray) -> Pair:
    """ALOHA's finger travel against its motor's angle: up to 0.09 apart."""
    state[:, GRIPPERS] += 0.09 * np.sin(np.pi * np.clip(state[:, GRIPPERS], 0, 1))
    return state, action


@pytest.mark.parametrize(
    "change",
    [
        lambda state, action: (state, action),
        noisy,
        two_scales,
        on("sa", GRIPPERS, lambda g: 0 * g),
        on("sa", GRIPPERS, lambda g: 0.05 + 0 * g),
        on("s", GRIPPERS, lambda g: np.maximum(g, 0.7)),  # a thick object
        on("a", GRIPPERS, lambda g: np.where(g > 0.5, 1.0, 0.0)),  # commands of open and closed only
        on("a", GRIPPERS, lambda g: np.where(g < 0.05, -0.25, g)),  # a leader squeezed past its end
        on("sa", [LEFT], lambda g: 0 * g + 0.3),  # one gripper rests
        on("s", GRIPPERS, lambda g: np.roll(g, 12, axis=0)),  # a slow gripper
    ],
)
def test_no_false_alarm(change: Callable[..., Pair]) -> None:
    assert found(change) == []
    for pair in EPISODES:
        assert found(change, [pair]) == []


def test_a_gripper_that_never_rests_may_be_inverted_or_late() -> None:
    t = np.arange(200)
    state, action = (table.copy() for table in episode(0))
    state, action = state[:200], action[:200]
    action[:, LEFT] = 0.5 + 0.5 * np.sin(t / 6.4)
    state[:, LEFT] = 0.5 - 0.5 * np.sin((t - 3) / 6.4)
    (finding,) = check_grippers([(state, action)], CONTRACT)
    assert finding.level == "warning"
    assert "left_gripper: the state runs against its command" in finding.found


def test_units_that_are_not_declared_normalised_are_a_warning() -> None:
    metres = [on("s", GRIPPERS, lambda g: 0.08 * g)(state.copy(), action) for state, action in EPISODES]
    findings = list(check_grippers(metres, Contract.of(joint_names(), joint_names(), {}, 50.0, {"gripper": "m"})))
    assert {f.level for f in findings} == {"warning"}


@pytest.mark.parametrize("pairs", [[], [(np.zeros((1, 14)), np.zeros((1, 14)))], [(np.full((9, 14), np.nan),) * 2]])
def test_nothing_to_compare(pairs: list[Pair]) -> None:
    assert list(check_grippers(pairs, CONTRACT)) == []


def test_names_of_grippers() -> None:
    cobot = [f"left_joint{i}" for i in range(7)]
    assert [is_gripper(name, cobot) for name in cobot] == [False] * 6 + [True]
    assert not is_gripper("left_joint6", [*cobot, "left_joint7"])
    assert is_gripper("arm_gripper", ["arm_gripper"])


def test_validate_finds_it_in_a_file(tmp_path: Path) -> None:
    path = record(tmp_path, 120, Rig())
    assert validate(path).findings == ()
    with h5py.File(path, "r+") as file:
        file["observations/qpos"][:, LEFT] = 1 - file["observations/qpos"][:, LEFT]
    messages = [f.found for f in validate(path).findings if f.level == "error"]
    assert any("left_gripper: the state runs against its command" in message for message in messages)

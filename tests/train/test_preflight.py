"""Each silent mistake is put into otherwise sound episodes; the preflight has to name it, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from aloha_kit.core import EpisodeError
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_source
from aloha_kit.train.preflight import Finding, grippers, inspect, Report
from tests.synthetic import LAG, Synthetic, write_dataset
from tests.train.tiny import ACT, job

CAMERAS = {"top": (24, 32), "wrist": (24, 32)}


def report(
    folder: Path,
    change: Callable[[int, Synthetic], None] | None = None,
    spoil: Callable[[torch.nn.Module], None] | None = None,
) -> Report:
    write_dataset(folder / "data", lengths=(60, 50, 55, 45), cameras=CAMERAS, change=change)
    table = read_table(open_source(folder / "data"))
    made = job(folder / "run", table)
    if spoil is not None:
        spoil(made.network)
    return inspect(table, made.loader, made.network, budget_s=30.0)


def of(found: Report, check: str) -> Finding:
    return next(f for f in found.findings if f.check == check)


def test_sound_episodes_are_a_go(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert {f.check: f.verdict for f in found.findings} == {
        "qpos range": "go",
        "action range": "go",
        "dimensions that move": "go",
        "action against state": "go",
        "episodes differ": "go",
        "grippers": "go",
        "camera top": "go",
        "camera wrist": "go",
        "cameras not exchanged": "go",
        "one batch can be learned": "go",
    }
    assert f"by {LAG} steps (40 ms)" in of(found, "action against state").found
    assert found.text().startswith("Preflight: go\n")
    found.require()


def test_an_episode_that_is_there_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", lengths=(60, 50, 55), cameras=CAMERAS)
    shutil.copy(tmp_path / "data" / "episode_1.hdf5", tmp_path / "data" / "episode_7.hdf5")
    with h5py.File(tmp_path / "data" / "episode_7.hdf5", "r+") as file:  # another day, another camera
        file.attrs["id"], file.attrs["created"] = "another", "today"
        file["observations/images/top"][...] = 7
    table = read_table(open_source(tmp_path / "data"))
    made = job(tmp_path / "run", table)
    found = of(inspect(table, made.loader, made.network, budget_s=30.0), "episodes differ")
    assert (found.verdict, found.found) == ("look", "the same motion twice: episode_7.hdf5 is episode_1.hdf5")


def test_measured_joints_as_actions(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = episode.qpos[:-1]

    found = report(tmp_path, change)
    assert of(found, "action against state").verdict == "no-go"
    assert not found.go
    with pytest.raises(EpisodeError, match=r"says no .*\n  action against state: the actions equal the measured joint"):
        found.require()
    assert "Preflight: no go" in found.text()


def test_measured_joints_one_step_later(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = episode.qpos[1:]

    finding = of(report(tmp_path, change), "action against state")
    assert finding.verdict == "look"
    assert "measured one step later" in finding.found


def test_a_gripper_that_runs_against_its_command(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.qpos[:, 6] = 1 - episode.qpos[:, 6]

    finding = of(report(tmp_path, change), "grippers")
    assert finding.verdict == "look"  # it opens and closes every 40 steps, so it could be 20 steps late
    assert "left_gripper: the state runs against its command (state " in finding.found
    assert "adopt" in finding.advice


def test_grippers_of_another_unit_are_a_look_where_the_contract_says_so(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.qpos[:, [6, 13]] *= 0.08

    write_dataset(tmp_path, lengths=(60, 50), cameras={}, change=change)
    table = read_table(open_source(tmp_path))
    assert {f.verdict for f in grippers(table)} == {"no-go"}
    raw = dataclasses.replace(table.contract, units={"joints": "rad", "gripper": "raw"})
    found = grippers(dataclasses.replace(table, contract=raw))
    assert {f.verdict for f in found} == {"look"}
    assert "metres against an opening from 0 to 1" in found[0].found


def test_joints_that_lead_their_commands(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[3:] = episode.qpos[: len(episode.action) - 3]

    finding = of(report(tmp_path, change), "action against state")
    assert finding.verdict == "no-go"
    assert "lead their commands by 3 steps" in finding.found


@pytest.mark.parametrize("how", ["black", "one colour"])
def test_a_camera_that_shows_nothing(tmp_path: Path, how: str) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 2:
            episode.images["wrist"][:] = 0 if how == "black" else 90

    found = report(tmp_path, change)
    finding = of(found, "camera wrist")
    assert finding.verdict == "no-go"
    assert "episode_2.hdf5" in finding.found
    assert "episode_1.hdf5" not in finding.found
    assert of(found, "camera top").verdict == "go"


def test_a_frozen_camera(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 1:
            episode.images["top"][:] = episode.images["top"][0]

    finding = of(report(tmp_path, change), "camera top")
    assert finding.verdict == "look"
    assert "never changes in episode_1.hdf5" in finding.found


def test_exchanged_cameras(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 3:
            images = episode.images
            images["top"], images["wrist"] = images["wrist"], images["top"]

    finding = of(report(tmp_path, change), "cameras not exchanged")
    assert finding.verdict == "no-go"
    assert finding.found == "look exchanged: episode_3.hdf5 (top and wrist)"


def test_dimensions_that_never_move(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.qpos[:, 6] = 0.5
        episode.action[:, 13] = 1.0

    finding = of(report(tmp_path, change), "dimensions that move")
    assert finding.verdict == "look"
    assert finding.found == "constant: qpos left_gripper, action right_gripper"


def test_no_action_at_all(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = 0.25

    finding = of(report(tmp_path, change), "dimensions that move")
    assert (finding.verdict, finding.found) == ("no-go", "no action ever changes")


def test_a_spike_is_found_where_it_is(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 1:
            episode.qpos[17, 4] = 400.0

    finding = of(report(tmp_path, change), "qpos range")
    assert finding.verdict == "look"
    assert "left_wrist_angle = 400 at step 17 of episode_1.hdf5" in finding.found


def test_degrees_are_noticed(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = np.rad2deg(episode.action)

    finding = of(report(tmp_path, change), "action range")
    assert finding.verdict == "look"
    assert "not in radians?" in finding.advice


def test_a_network_that_cannot_learn(tmp_path: Path) -> None:
    def spoil(network: torch.nn.Module) -> None:
        for parameter in network.parameters():
            parameter.data.zero_()  # ReLU and LayerNorm at zero pass no gradient on
        assert isinstance(network.action_head, torch.nn.Linear)
        network.action_head.bias.requires_grad_(False)

    finding = of(report(tmp_path, spoil=spoil), "one batch can be learned")
    assert finding.verdict == "no-go"
    assert "is the network frozen" in finding.advice


def test_looking_changes_neither_network_nor_chance(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", cameras=CAMERAS)
    table = read_table(open_source(tmp_path / "data"))
    made = job(tmp_path / "run", table)
    before = {key: value.clone() for key, value in made.network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    inspect(table, made.loader, made.network, budget_s=1.0)
    assert torch.equal(torch.rand(3), expected)
    for key, value in made.network.state_dict().items():
        assert torch.equal(value, before[key])


def test_no_cameras_no_camera_checks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", cameras={})
    table = read_table(open_source(tmp_path / "data"))
    made = job(tmp_path / "run", table, policy=dataclasses.replace(ACT, use_images=False))
    checks = [f.check for f in inspect(table, made.loader, made.network).findings]
    assert not [check for check in checks if "camera" in check]

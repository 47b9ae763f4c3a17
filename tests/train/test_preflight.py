"""Each silent mistake is put into otherwise sound episodes; the preflight has to name it, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from aloha_kit.core import Contract, EpisodeError, lang
from aloha_kit.core.findings import Finding
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_source
from aloha_kit.train.preflight import grippers, inspect, PreflightReport
from tests.synthetic import LAG, Synthetic, write_dataset
from tests.tiny import ACT
from tests.train.job import job

CAMERAS = {"top": (24, 32), "wrist": (24, 32)}


def report(
    folder: Path,
    change: Callable[[int, Synthetic], None] | None = None,
    spoil: Callable[[torch.nn.Module], None] | None = None,
) -> PreflightReport:
    write_dataset(folder / "data", lengths=(60, 50, 55, 45), cameras=CAMERAS, change=change)
    table = read_table(open_source(folder / "data"))
    made = job(folder / "run", table)
    if spoil is not None:
        spoil(made.network)
    return inspect(table, made.loader, made.network, budget_s=30.0)


def of(found: PreflightReport, subject: str) -> Finding:
    return next(f for f in found.findings if f.subject == subject)


def found_line(lines: list[str], part: str) -> str:
    return next(line for line in lines if part in line)


def test_sound_episodes_are_a_go(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert {f.subject: f.level for f in found.findings} == {
        "qpos": "ok",
        "action": "ok",
        "dimensions": "ok",
        "action and state": "ok",
        "episodes": "ok",
        "grippers": "ok",
        "camera top": "ok",
        "camera wrist": "ok",
        "cameras": "ok",
        "one batch": "ok",
    }
    assert f"by {LAG} steps (40 ms)" in of(found, "action and state").found
    assert found.text().startswith("Preflight: GO\n")
    found.require()
    with lang.language("zh"):
        first, *lines = found.text().splitlines()
    assert first == "训练前检查：GO"
    english = [line for line in lines if re.search("[a-z]{2,} [a-z]{2,}", line)]
    assert english == []
    assert "动作与状态  滞后：关节滞后指令" in found_line(lines, "动作与状态")


def test_an_episode_that_is_there_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", lengths=(60, 50, 55), cameras=CAMERAS)
    shutil.copy(tmp_path / "data" / "episode_1.hdf5", tmp_path / "data" / "episode_7.hdf5")
    with h5py.File(tmp_path / "data" / "episode_7.hdf5", "r+") as file:  # another day, another camera
        file.attrs["id"], file.attrs["created"] = "another", "today"
        file["observations/images/top"][...] = 7
    table = read_table(open_source(tmp_path / "data"))
    made = job(tmp_path / "run", table)
    found = of(inspect(table, made.loader, made.network, budget_s=30.0), "episodes")
    assert (found.level, found.found) == ("warning", "the same motion twice: episode_7.hdf5 = episode_1.hdf5")


def test_measured_joints_as_actions(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = episode.qpos[:-1]

    found = report(tmp_path, change)
    assert of(found, "action and state").level == "error"
    assert not found.go
    with pytest.raises(EpisodeError, match=r"found 1 error .*\n  action and state: the actions equal"):
        found.require()
    assert "Preflight: NO-GO" in found.text()


def test_measured_joints_one_step_later(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = episode.qpos[1:]

    finding = of(report(tmp_path, change), "action and state")
    assert finding.level == "warning"
    assert "measured one step later" in finding.found


def test_a_gripper_that_runs_against_its_command(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.qpos[:, 6] = 1 - episode.qpos[:, 6]

    finding = of(report(tmp_path, change), "grippers")
    assert finding.level == "warning"  # it opens and closes every 40 steps, so it could be 20 steps late
    assert "left_gripper: the state runs against its command (state " in finding.found
    assert "adopt" in finding.remedy


def test_grippers_of_another_unit_are_a_look_where_the_contract_reports_it(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.qpos[:, [6, 13]] *= 0.08

    write_dataset(tmp_path, lengths=(60, 50), cameras={}, change=change)
    table = read_table(open_source(tmp_path))
    assert {f.level for f in grippers(table)} == {"error"}
    names = table.contract.state_names
    raw = Contract.of(names, names, {}, 50.0, {"joints": "rad", "gripper": "raw"})
    found = grippers(dataclasses.replace(table, contract=raw))
    assert {f.level for f in found} == {"warning"}
    assert "metres against an opening from 0 to 1" in found[0].found


def test_joints_that_lead_their_commands(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[3:] = episode.qpos[: len(episode.action) - 3]

    finding = of(report(tmp_path, change), "action and state")
    assert finding.level == "error"
    assert "lead their commands by 3 steps" in finding.found


@pytest.mark.parametrize("how", ["black", "one colour"])
def test_a_camera_that_shows_nothing(tmp_path: Path, how: str) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 2:
            episode.images["wrist"][:] = 0 if how == "black" else 90

    found = report(tmp_path, change)
    finding = of(found, "camera wrist")
    assert finding.level == "error"
    assert "episode_2.hdf5" in finding.found
    assert "episode_1.hdf5" not in finding.found
    assert of(found, "camera top").level == "ok"


def test_a_frozen_camera(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 1:
            episode.images["top"][:] = episode.images["top"][0]

    finding = of(report(tmp_path, change), "camera top")
    assert finding.level == "warning"
    assert "never changes in episode_1.hdf5" in finding.found


def test_exchanged_cameras(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 3:
            images = episode.images
            images["top"], images["wrist"] = images["wrist"], images["top"]

    finding = of(report(tmp_path, change), "cameras")
    assert finding.level == "error"
    assert finding.found == "exchanged: episode_3.hdf5 (top, wrist)"


def test_dimensions_that_never_move(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.qpos[:, 6] = 0.5
        episode.action[:, 13] = 1.0

    finding = of(report(tmp_path, change), "dimensions")
    assert finding.level == "warning"
    assert finding.found == "constant: qpos left_gripper, action right_gripper"


def test_no_action_at_all(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = 0.25

    finding = of(report(tmp_path, change), "dimensions")
    assert (finding.level, finding.found) == ("error", "no action ever changes")


def test_a_spike_is_found_where_it_is(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        if index == 1:
            episode.qpos[17, 4] = 400.0

    finding = of(report(tmp_path, change), "qpos")
    assert finding.level == "warning"
    assert "left_wrist_angle = 400 at step 17 of episode_1.hdf5" in finding.found


def test_degrees_are_noticed(tmp_path: Path) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = np.rad2deg(episode.action)

    finding = of(report(tmp_path, change), "action")
    assert finding.level == "warning"
    assert "in place of radians" in finding.remedy


def test_a_network_that_cannot_learn(tmp_path: Path) -> None:
    def spoil(network: torch.nn.Module) -> None:
        for parameter in network.parameters():
            parameter.data.zero_()  # ReLU and LayerNorm at zero pass no gradient on
        assert isinstance(network.action_head, torch.nn.Linear)
        network.action_head.bias.requires_grad_(False)

    finding = of(report(tmp_path, spoil=spoil), "one batch")
    assert finding.level == "error"
    assert "parameters are trainable" in finding.remedy


def test_the_noise_of_a_sampling_loss_is_the_same_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []
    usual = torch.randn_like

    def recorded(like: torch.Tensor) -> torch.Tensor:
        drawn.append(usual(like))
        return drawn[-1]

    monkeypatch.setattr(torch, "randn_like", recorded)
    first = of(report(tmp_path / "a"), "one batch")
    count = len(drawn)
    assert count == 60
    assert drawn[0].std() > 0
    assert all(torch.equal(noise, drawn[0]) for noise in drawn)
    torch.rand(7)
    assert of(report(tmp_path / "b"), "one batch") == first
    assert len(drawn) == 2 * count


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
    subjects = [f.subject for f in inspect(table, made.loader, made.network).findings]
    assert not [subject for subject in subjects if "camera" in subject]

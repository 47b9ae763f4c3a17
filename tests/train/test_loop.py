from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.index import EpisodeTable, split
from aloha_kit.data.loader import Loader
from aloha_kit.policies import checkpoint
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.loop import Trainer
from aloha_kit.train.progress import TrainingError
from tests.tiny import ACT, BC_RNN, FLOW, IBC
from tests.train.job import dataset, job, stop_at, trainer, TRAINING


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EpisodeTable:
    return dataset(tmp_path_factory.mktemp("episodes"))


def bits(state: dict[str, Any], prefix: str = "") -> dict[str, bytes]:
    """Every tensor of a nested state as bytes, by path."""
    flat: dict[str, bytes] = {}
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            flat[f"{prefix}{key}"] = value.contiguous().numpy().tobytes()
        elif isinstance(value, dict):
            flat |= bits(value, f"{prefix}{key}.")
    return flat


def test_training_lowers_the_loss_and_records_what_it_prints(tmp_path: Path, table: EpisodeTable) -> None:
    config = dataclasses.replace(TRAINING, num_steps=80, lr=3e-3, save_every=40, augment=False)
    end = trainer(job(tmp_path / "run", table, config)).fit()
    assert end.step == 80
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    losses = [row["l1"] for row in rows if "l1" in row]
    assert losses[-1] < 0.75 * losses[0]
    judged = [row for row in rows if "val_deployed" in row]
    assert [row["step"] for row in judged] == [10, 20, 30, 40, 50, 60, 70, 80]
    best = min(judged, key=lambda row: row["val_deployed"])
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["best", "last", "step_40", "step_80"]
    notes = checkpoint.notes(checkpoints / "best")
    assert notes["step"] == best["step"] == end.best_step
    assert notes["validation_metric"] == "val_deployed"
    assert not (checkpoints / "best" / "training_state.pt").exists()
    assert (checkpoints / "step_40" / "training_state.pt").exists()


def test_checkpoints_by_epochs(tmp_path: Path, table: EpisodeTable) -> None:
    """One after the first step at which two, and four, passes over the training episodes are complete."""
    size = sum(table.lengths[i] for i in split(len(table.names), TRAINING.val_fraction, TRAINING.seed)[0])
    steps = [-(-epochs * size // 8) for epochs in (2, 4)]
    config = dataclasses.replace(TRAINING, num_steps=steps[1] + 1, save_every_epochs=2, batch_size=8, val_every=99)
    trainer(job(tmp_path / "run", table, config)).fit()
    kept = sorted((tmp_path / "run" / "checkpoints").glob("epoch_*"))
    assert [(folder.name, checkpoint.notes(folder)["step"]) for folder in kept] == [
        ("epoch_2", steps[0]),
        ("epoch_4", steps[1]),
    ]
    assert (kept[0] / "training_state.pt").exists()


def test_validation_is_what_the_saved_policy_gives(tmp_path: Path, table: EpisodeTable) -> None:
    """The best checkpoint, loaded from disk, has exactly the loss it was chosen for."""
    made = job(tmp_path / "run", table, dataclasses.replace(TRAINING, num_steps=20))
    end = trainer(made).fit()
    network = checkpoint.load(tmp_path / "run" / "checkpoints" / "best")
    total = count = 0.0
    with torch.no_grad():
        for rows in made.validation:
            batch = made.loader.batch(rows)
            mean, std = table.action.mean(axis=0), np.maximum(table.action.std(axis=0, ddof=1), 1e-2)
            error = np.abs((network.predict(batch).numpy() - batch["actions"].numpy()) / std)
            valid = ~batch["is_pad"].numpy()
            total += error[valid].mean() * len(rows)
            count += len(rows)
            assert mean.shape == (14,)
    assert total / count == pytest.approx(end.best, rel=1e-4)


HISTORY = dataclasses.replace(ACT, n_obs_steps=2)


@pytest.mark.parametrize(
    ("stop", "policy"),
    [(7, ACT), (10, ACT), (13, ACT), (7, HISTORY), (13, FLOW), (7, BC_RNN), (10, IBC)],
    ids=["7", "10", "13", "history", "sampling, history", "bc_rnn", "ibc"],
)
def test_stopping_and_resuming_changes_no_bit(
    tmp_path: Path, table: EpisodeTable, stop: int, policy: PolicyConfig
) -> None:
    """Dropout, latent samples, augmentation, averaged weights, schedule and order all continue as they would have."""
    straight = trainer(job(tmp_path / "straight", table, policy=policy))
    straight.fit()
    halves: list[Trainer] = []
    halves.append(trainer(job(tmp_path / "halves", table, policy=policy, stop=stop_at(stop, lambda: halves[0]))))
    assert halves[0].fit().step == stop
    torch.manual_seed(99)  # whatever happens in between
    second = trainer(job(tmp_path / "halves", table, policy=policy), resume=True)
    assert second.position.step == stop
    assert second.fit().step == 24
    ours, theirs = straight.state(), second.state()
    expected, got = bits(ours), bits(theirs)
    assert set(got) == set(expected)
    assert len(expected) > 3 * len(straight.network.state_dict())  # weights, two moments each, averages, generator
    different = [key for key in expected if expected[key] != got[key]]
    assert not different
    assert ours["position"]["best"] == theirs["position"]["best"]
    # the deployed weights as well
    last = [checkpoint.load(tmp_path / name / "checkpoints" / "last").state_dict() for name in ("straight", "halves")]
    assert bits(last[0]) == bits(last[1])
    # and the log is consistent
    one, two = (read_metrics(tmp_path / name / "metrics.csv") for name in ("straight", "halves"))
    assert [row["loss"] for row in one if "loss" in row][-1] == [row["loss"] for row in two if "loss" in row][-1]


def test_two_runs_of_one_seed_are_the_same_and_of_two_are_not(tmp_path: Path, table: EpisodeTable) -> None:
    config = dataclasses.replace(TRAINING, num_steps=5)
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        made = trainer(job(tmp_path / name, table, dataclasses.replace(config, seed=seed)))
        made.fit()
        states.append(bits(made.network.state_dict()))
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_how_often_one_validates_does_not_change_the_training(tmp_path: Path, table: EpisodeTable) -> None:
    states = []
    for every in (2, 5):
        made = trainer(job(tmp_path / str(every), table, dataclasses.replace(TRAINING, num_steps=10, val_every=every)))
        made.fit()
        states.append(bits(made.network.state_dict()))
    assert states[0] == states[1]


class Poisoned(Loader):
    """Puts a NaN into the batch of a step."""

    def __init__(self, loader: Loader, step: int) -> None:
        self._inner, self._step, self._calls = loader, step, 0

    def batch(self, rows: Any, whole: Any = None, step: int = 0) -> Any:
        batch = self._inner.batch(rows, whole, step)
        self._calls += 1
        if self._calls == self._step:
            batch["actions"][0, 0, 0] = float("nan")
        return batch


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_checkpoint(tmp_path: Path, table: EpisodeTable) -> None:
    config = dataclasses.replace(TRAINING, val_every=5, val_fraction=0.0)
    made = job(tmp_path / "run", table, config)
    made.loader = Poisoned(made.loader, 7)
    with pytest.raises(TrainingError) as error:
        trainer(made).fit()
    text = str(error.value)
    assert text.startswith("step 7: loss nan")
    assert "--preflight_only" in text
    assert str(tmp_path / "run" / "checkpoints" / "last") in text
    kept = tmp_path / "run" / "checkpoints" / "last"
    assert checkpoint.notes(kept)["step"] == 5
    assert all(torch.isfinite(value).all() for value in checkpoint.load(kept).state_dict().values())


def test_without_validation_the_end_is_best(tmp_path: Path, table: EpisodeTable) -> None:
    trainer(job(tmp_path / "run", table, dataclasses.replace(TRAINING, num_steps=3, val_fraction=0.0))).fit()
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "best")["step"] == 3


def test_rollouts_choose_the_best_where_there_are_some(tmp_path: Path, table: EpisodeTable) -> None:
    requested: list[int] = []

    def evaluate(network: ChunkNetwork, step: int) -> dict[str, float]:
        requested.append(step)
        assert not network.training
        torch.rand(3)  # a policy may draw; the training must not notice
        return {"success_rate": {4: 0.2, 8: 0.9, 12: 0.9, 14: 0.5}[step], "rollout_steps": 7.0}

    config = dataclasses.replace(TRAINING, num_steps=14, eval_every=4, val_every=3)
    made = trainer(job(tmp_path / "run", table, config, evaluate=evaluate))
    end = made.fit()
    assert requested == [4, 8, 12, 14]
    assert (end.best, end.best_step) == (-0.9, 8)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if "success_rate" in row]
    assert rows[1] == {"step": 8, "success_rate": 0.9, "rollout_steps": 7.0}
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "best")["step"] == 8
    plain = trainer(job(tmp_path / "plain", table, dataclasses.replace(config, eval_every=0)))
    plain.fit()
    assert bits(made.network.state_dict()) == bits(plain.network.state_dict())


def test_a_time_limit_ends_the_run_with_the_schedule(tmp_path: Path, table: EpisodeTable) -> None:
    config = dataclasses.replace(TRAINING, num_steps=100_000, time_limit_s=3.0, val_every=100_000)
    made = trainer(job(tmp_path / "run", table, config))
    end = made.fit()
    assert 1 <= end.step < 100_000
    rates = [row["lr"] for row in read_metrics(tmp_path / "run" / "metrics.csv") if "lr" in row]
    assert rates[-1] < max(rates), "the learning rate follows the clock down"
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "last")["step"] == end.step


def test_averaged_weights_are_the_ones_deployed(tmp_path: Path, table: EpisodeTable) -> None:
    made = trainer(job(tmp_path / "run", table, dataclasses.replace(TRAINING, num_steps=6)))
    made.fit()
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last").state_dict()
    assert made.step.averaged is not None
    assert bits(saved) == bits(made.step.averaged.network.state_dict())
    assert bits(saved) != bits(made.network.state_dict())


def test_bf16_trains_with_fp32_weights(tmp_path: Path, table: EpisodeTable) -> None:
    made = trainer(job(tmp_path / "run", table, dataclasses.replace(TRAINING, num_steps=4, amp="bf16")))
    made.fit()
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}
    plain = trainer(job(tmp_path / "plain", table, dataclasses.replace(TRAINING, num_steps=4)))
    plain.fit()
    assert bits(made.network.state_dict()) != bits(plain.network.state_dict()), "autocast did something"


def test_a_policy_without_cameras_trains(tmp_path: Path, table: EpisodeTable) -> None:
    blind = dataclasses.replace(ACT, use_images=False, use_environment_state=True)
    bare = dataclasses.replace(table, contract=table.contract.with_cameras({}))
    end = trainer(job(tmp_path / "run", bare, dataclasses.replace(TRAINING, num_steps=3), policy=blind)).fit()
    assert end.step == 3
    contract = json.loads((tmp_path / "run" / "checkpoints" / "last" / "contract.json").read_text())
    names = [feature["name"] for feature in contract["features"]]
    assert names == ["qpos", "action", "environment_state"]
    assert contract["features"][2]["entries"] == ["phase", "time", "nothing"]

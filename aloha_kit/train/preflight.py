"""A look at data and network before hours are spent: the mistakes that train without a complaint and never work."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.core import EpisodeError
from aloha_kit.data.batch import to_device
from aloha_kit.data.index import EpisodeTable
from aloha_kit.data.loader import Loader
from aloha_kit.episode.gripper_checks import check_grippers, is_gripper
from aloha_kit.episode.validate import duplicates, motion_key
from aloha_kit.policies.network import ChunkNetwork

Verdict = Literal["go", "look", "no-go"]

STILL = 1e-4  # rad (or of a gripper's travel): what spreads less than this has not moved
OUTLIER = 5.0  # widths of the middle 98 %
FULL_TURN = 7.0  # rad: beyond what any of these joints can turn
LAGS = range(-10, 26)  # steps by which the state may follow the command


@dataclass(frozen=True)
class Finding:
    """One check's result; `advice` where there is something to do."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """All findings of a preflight."""

    findings: tuple[Finding, ...]

    @property
    def go(self) -> bool:
        """Whether nothing speaks against training."""
        return all(finding.verdict != "no-go" for finding in self.findings)

    def text(self) -> str:
        """A table for people."""
        width = max(len(f.check) for f in self.findings)
        lines = [f"Preflight: {'go' if self.go else 'no go'}"]
        for f in self.findings:
            lines.append(f"  {f.verdict:<6}{f.check:<{width}}  {f.found}")
            if f.advice:
                lines.append(f"  {'':<6}{'':<{width}}  -> {f.advice}")
        return "\n".join(lines)

    def require(self) -> None:
        """Raise `EpisodeError` with everything that speaks against training."""
        wrong = [f"{f.check}: {f.found}. {f.advice}" for f in self.findings if f.verdict == "no-go"]
        if wrong:
            listed = "\n  ".join(wrong)
            raise EpisodeError(f"the preflight says no (--no_preflight trains nevertheless):\n  {listed}")


def inspect(
    table: EpisodeTable, loader: Loader, network: ChunkNetwork, *, seed: int = 0, budget_s: float = 6.0
) -> Report:
    """Every check; the network and all random generators are left as they were."""
    findings = [*ranges(table), still_dimensions(table), action_and_state(table)]
    findings += [*grippers(table), repeated_episodes(table)]
    if table.cameras:
        thumbs = thumbnails(table, loader, seed=seed)
        findings += [*dark_cameras(table, thumbs), swapped_cameras(table, thumbs)]
    findings.append(one_batch(table, loader, network, seed=seed, budget_s=budget_s))
    return Report(tuple(findings))


def ranges(table: EpisodeTable) -> list[Finding]:
    """Values far outside what is usual, or impossible in their unit: spikes, degrees, a wrapped encoder.

    Usual is the middle 98 %, since a spike widens a standard deviation until it no longer stands out.
    """
    findings = []
    for key, values, names in (
        ("qpos", table.qpos, table.contract.state_names),
        ("action", table.action, table.contract.action_names),
    ):
        low, median, high = np.percentile(values, [1, 50, 99], axis=0)
        # a gripper that opens once in a hundred steps has no width in the middle 98 %
        beyond = np.abs(values - median) / np.maximum(high - low, 0.5) > OUTLIER
        arm = np.array([not name.startswith("base") for name in names])
        gripper = np.array(["gripper" in name for name in names])
        if "rad" in table.contract.units.get("joints", ""):
            beyond |= (np.abs(values) > FULL_TURN) & arm & ~gripper
        beyond |= ((values < -1) | (values > 2)) & gripper
        if beyond.any():
            row, column = np.argwhere(beyond)[0]
            episode = int(table.episode_of(np.array([row]))[0])
            found = (
                f"{names[column]} = {values[row, column]:.4g} at step {row - table.starts[episode]} "
                f"of {table.names[episode]}; {int(beyond.any(axis=1).sum())} such steps"
            )
            advice = f"usual is {low[column]:.3g} to {high[column]:.3g}; a spike, or not in radians? Drop the episode"
            findings.append(Finding(f"{key} range", "look", found, advice))
        else:
            moments = table.statistics()[key]
            largest = float((np.abs(values - moments.mean) / np.maximum(moments.std, 1e-2)).max())
            findings.append(Finding(f"{key} range", "go", f"within {largest:.1f} standard deviations of the mean"))
    return findings


def still_dimensions(table: EpisodeTable) -> Finding:
    """Dimensions that never change: an arm that was off, a gripper that was not recorded."""
    check = "dimensions that move"
    still: list[str] = []
    for values, names, label in (
        (table.qpos, table.contract.state_names, "qpos"),
        (table.action, table.contract.action_names, "action"),
    ):
        spread = values.max(axis=0) - values.min(axis=0)
        still += [f"{label} {name}" for name, size in zip(names, spread, strict=True) if size < STILL]
    actions = sum(name.startswith("action ") for name in still)
    if actions == table.action.shape[1]:
        return Finding(check, "no-go", "no action ever changes", "record again: these episodes show nothing to learn")
    if still:
        advice = "fine if this is meant (an arm at rest); else a joint or gripper was not recorded"
        return Finding(check, "look", f"constant: {_listed(still)}", advice)
    return Finding(check, "go", f"all {table.qpos.shape[1]} of qpos and {table.action.shape[1]} of action")


def action_and_state(table: EpisodeTable) -> Finding:
    """Whether actions are commands, and by how much the joints follow them.

    A follower arm lags behind its command by some steps. Actions equal to the state were measured, not commanded: a
    policy then learns to stay where it is.
    """
    check = "action against state"
    state = {name: i for i, name in enumerate(table.contract.state_names)}
    pairs = [
        (state[name], i)
        for i, name in enumerate(table.contract.action_names)
        # grippers are left out: ALOHA measures them in metres and commands them in radians
        if name in state and "gripper" not in name and np.ptp(table.action[:, i]) > STILL
    ]
    if not pairs:
        return Finding(check, "look", "no moving joint is in both", "nothing to compare; are the names right?")
    of_state, of_action = (list(column) for column in zip(*pairs, strict=True))
    errors = {lag: _following_error(table, of_state, of_action, lag) for lag in LAGS}
    if errors[0] < 1e-12:
        return Finding(
            check, "no-go", "the actions equal the measured joints", "record what was commanded (the leader's joints)"
        )
    if errors[1] < 1e-12:
        return Finding(
            check,
            "look",
            "each action equals the joints measured one step later",
            "measured joints were recorded as actions; commands carry the force that grasping needs",
        )
    lag = min(errors, key=lambda k: errors[k])
    found = f"the joints follow their commands by {lag} steps ({1e3 * lag / table.contract.rate_hz:.0f} ms)"
    if lag < 0:
        return Finding(
            check, "no-go", f"the joints lead their commands by {-lag} steps", "action and qpos are shifted or swapped"
        )
    if lag == LAGS[-1]:
        return Finding(check, "look", f"no lag up to {lag} steps fits", "action and qpos do not belong together?")
    return Finding(check, "go", found)


def repeated_episodes(table: EpisodeTable) -> Finding:
    """Demonstrations that are there twice: they weigh double, and validation tests on what was trained on."""
    check = "episodes differ"
    spans = [slice(start, start + length) for start, length in zip(table.starts, table.lengths, strict=True)]
    found = duplicates([motion_key(table.action[span], table.qpos[span]) for span in spans])
    if found:
        names = table.names if len(set(table.names)) == len(table.names) else table.where
        pairs = _listed([f"{names[i]} is {names[first]}" for i, first in found.items()])
        advice = "drop one of each pair: it weighs double, and may be in training and validation"
        return Finding(check, "look", f"the same motion twice: {pairs}", advice)
    return Finding(check, "go", f"{len(spans)} different ones")


def grippers(table: EpisodeTable) -> list[Finding]:
    """Whether each gripper's state belongs to its command: unit, direction, place in the vectors."""
    check = "grippers"
    pieces = [slice(start, start + length) for start, length in zip(table.starts, table.lengths, strict=True)]
    found = list(check_grippers([(table.qpos[piece], table.action[piece]) for piece in pieces], table.contract))
    advice = "fix the files, or describe them as they are with `python -m aloha_kit.episode adopt`"
    if found:
        return [Finding(check, "no-go" if f.level == "error" else "look", f.message, advice) for f in found]
    names = table.contract.state_names
    count = sum(is_gripper(name, names) for name in names)
    return [Finding(check, "go", f"the states of {count} belong to their commands" if count else "none by name")]


def thumbnails(table: EpisodeTable, loader: Loader, *, seed: int, episodes: int = 24, frames: int = 4) -> Thumbnails:
    """Small images of up to `episodes` episodes, `frames` each, spread over the episode."""
    count = len(table.names)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:episodes])
    steps = [np.linspace(0, table.lengths[e] - 1, frames).round().astype(np.int64) for e in chosen]
    rows = np.concatenate([table.starts[e] + s for e, s in zip(chosen, steps, strict=True)])
    pictures = {}
    for camera, images in loader.batch(rows)["images"].items():
        newest = images.reshape(len(rows), -1, *images.shape[-3:])[:, -1]  # of the steps that are read
        small = torch.nn.functional.adaptive_avg_pool2d(newest.float(), (8, 8)).cpu().numpy()
        pictures[camera] = small.reshape(len(chosen), frames, -1)
    return Thumbnails(chosen, pictures)


@dataclass(frozen=True)
class Thumbnails:
    """`pictures[camera]` (E', F, 192): F frames of 8x8 RGB of each looked-at episode, values 0 to 255."""

    episodes: npt.NDArray[np.int64]
    pictures: dict[str, npt.NDArray[np.float32]]


def dark_cameras(table: EpisodeTable, thumbs: Thumbnails) -> list[Finding]:
    """Cameras that show nothing, or the same image from beginning to end."""
    findings = []
    for camera, pictures in thumbs.pictures.items():
        check = f"camera {camera}"
        black = (pictures.max(axis=(1, 2)) < 10) | (pictures.std(axis=2).max(axis=1) < 1)
        frozen = ~black & (np.ptp(pictures, axis=1).max(axis=1) == 0) & (table.lengths[thumbs.episodes] > 1)
        advice = "a lens cap, a cable or a driver; drop these episodes, or the camera with --cameras"
        if black.any():
            found = f"black or one single colour in {_files(table, thumbs.episodes[black])}"
            findings.append(Finding(check, "no-go", found, advice))
        elif frozen.any():
            found = f"never changes in {_files(table, thumbs.episodes[frozen])}"
            findings.append(Finding(check, "no-go" if frozen.all() else "look", found, advice))
        else:
            found = f"mean brightness {pictures.mean():.0f} of 255, in {len(pictures)} episodes looked at"
            findings.append(Finding(check, "go", found))
    return findings


def swapped_cameras(table: EpisodeTable, thumbs: Thumbnails) -> Finding:
    """Episodes whose cameras look like each other's elsewhere: cables or names exchanged between recordings."""
    check = "cameras not exchanged"
    cameras = list(thumbs.pictures)
    if len(cameras) < 2 or len(thumbs.episodes) < 3:
        return Finding(check, "go", "nothing to compare: needs two cameras and three episodes")
    means = {camera: pictures.mean(axis=1) for camera, pictures in thumbs.pictures.items()}
    usual = {camera: np.median(mean, axis=0) for camera, mean in means.items()}
    found = []
    for i, episode in enumerate(thumbs.episodes):
        for a, b in ((a, b) for n, a in enumerate(cameras) for b in cameras[n + 1 :]):
            kept = _distance(means[a][i], usual[a]) + _distance(means[b][i], usual[b])
            exchanged = _distance(means[a][i], usual[b]) + _distance(means[b][i], usual[a])
            if exchanged < 0.5 * kept:
                found.append(f"{table.names[episode]} ({a} and {b})")
    if found:
        return Finding(check, "no-go", f"look exchanged: {_listed(found)}", "fix or drop these episodes")
    return Finding(check, "go", f"{len(cameras)} cameras look alike in {len(thumbs.episodes)} episodes")


def one_batch(
    table: EpisodeTable, loader: Loader, network: ChunkNetwork, *, seed: int, budget_s: float, steps: int = 60
) -> Finding:
    """Whether a copy of the network can learn four samples overfitted: if not, nothing else will work either."""
    check = "one batch can be learned"
    device = next(network.parameters()).device
    rows = np.sort(np.random.default_rng(seed).permutation(len(table))[:4])
    losses: list[float] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        pupil = copy.deepcopy(network).train()
        optimiser = torch.optim.AdamW(pupil.parameters(), lr=3e-4, weight_decay=0.0)
        batch = to_device(loader.batch(rows), str(device))
        began = time.monotonic()
        while len(losses) < steps and (len(losses) < 3 or time.monotonic() - began < budget_s):
            parts = pupil.losses(batch)
            losses.append(float(parts[(*network.loss_columns, "loss")[0]].detach()))
            if not math.isfinite(losses[-1]):
                return Finding(check, "no-go", f"loss {losses[-1]} at step {len(losses)}", "look for NaN in the data")
            optimiser.zero_grad()
            parts["loss"].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(pupil.parameters(), 10.0)
            optimiser.step()
    first, end = losses[0], min(losses[-5:])
    found = f"error {first:.3f} to {end:.3f} in {len(losses)} steps"
    if end < 0.9 * first or first < 0.05:
        return Finding(check, "go", found)
    if len(losses) < steps:
        return Finding(check, "look", found, "too slow here to tell; watch the first hundred steps")
    if end < 0.98 * first:
        return Finding(check, "look", found, "it learns, but slowly; watch the first hundred steps")
    return Finding(check, "no-go", found, "is the network frozen, or are the actions unrelated to what it sees?")


def _following_error(table: EpisodeTable, of_state: list[int], of_action: list[int], lag: int) -> float:
    """Mean squared difference of action[t] and qpos[t + lag], over the steps of all episodes that have both."""
    total, count = 0.0, 0
    for start, length in zip(table.starts, table.lengths, strict=True):
        first, last = max(0, -lag), min(length, length - lag)
        if last <= first:
            continue
        action = table.action[start + first : start + last][:, of_action].astype(np.float64)
        state = table.qpos[start + first + lag : start + last + lag][:, of_state]
        total += float(((action - state) ** 2).sum())
        count += action.size
    return total / count if count else math.inf


def _distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.abs(a - b).mean())


def _files(table: EpisodeTable, episodes: Iterable[int]) -> str:
    return _listed([table.names[e] for e in episodes])


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

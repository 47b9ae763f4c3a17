"""Preflight: checks of data and network before hours of training, for mistakes that give no error and no policy."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.core import EpisodeError
from aloha_kit.core.findings import About, Finding
from aloha_kit.core.lang import joined, Message, shown, tr, width
from aloha_kit.data.batch import to_device
from aloha_kit.data.index import EpisodeTable
from aloha_kit.data.loader import Loader
from aloha_kit.episode.gripper_checks import check_grippers, is_gripper
from aloha_kit.episode.validate import duplicates, motion_key
from aloha_kit.policies.network import ChunkNetwork

STILL = 1e-4  # rad (or of a gripper's travel): a smaller range is no motion
OUTLIER = 5.0  # widths of the middle 98 %
FULL_TURN = 7.0  # rad: more than any of these joints can turn
LAGS = range(-10, 26)  # steps by which the state may follow the command


@dataclass(frozen=True)
class PreflightReport:
    """All findings of a preflight."""

    findings: tuple[Finding, ...]

    @property
    def go(self) -> bool:
        """Whether there is no error; warnings do not prevent training."""
        return not self._errors

    @property
    def _errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def text(self) -> str:
        """A table for people: a line each where all is well, with what was expected and what to do elsewhere."""
        columns = max(width(shown(finding.subject)) for finding in self.findings)
        lines = [tr("Preflight: {result}", result="GO" if self.go else "NO-GO")]
        for finding in self.findings:
            lines += [f"  {line}" for line in finding.lines(columns)[: 1 if finding.level == "ok" else None]]
        return "\n".join(lines)

    def require(self) -> None:
        """Raise `EpisodeError` that lists every error."""
        if self._errors:
            n = len(self._errors)
            each = [
                Message("{subject}: {found}. {remedy}", subject=f.subject, found=f.found, remedy=f.remedy)
                for f in self._errors
            ]
            raise EpisodeError(
                "the preflight found {count} (--no_preflight trains nevertheless):\n  {listed}",
                count=Message("1 error") if n == 1 else Message("{n} errors", n=n),
                listed=joined(each, "\n  "),
            )


def inspect(
    table: EpisodeTable, loader: Loader, network: ChunkNetwork, *, seed: int = 0, budget_s: float = 6.0
) -> PreflightReport:
    """Run every check; network and random generators are left as they were."""
    findings = [*ranges(table), still_dimensions(table), action_and_state(table)]
    findings += [*grippers(table), repeated_episodes(table), *unread_instructions(table, network)]
    if table.cameras:
        thumbs = thumbnails(table, loader, seed=seed)
        findings += [*dark_cameras(table, thumbs), swapped_cameras(table, thumbs)]
    findings.append(one_batch(table, loader, network, seed=seed, budget_s=budget_s))
    return PreflightReport(tuple(findings))


def ranges(table: EpisodeTable) -> list[Finding]:
    """Check for values far outside the usual range, or impossible in their unit: spikes, degrees, a wrapped encoder.

    Usual is the middle 98 %, since a spike widens a standard deviation until it no longer stands out.
    """
    findings = []
    for key, values, names in (
        ("qpos", table.qpos, table.contract.state_names),
        ("action", table.action, table.contract.action_names),
    ):
        about = About("range", key)
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
            found = Message(
                "{name} = {value:.4g} at step {step} of {episode}; such steps: {count}",
                name=names[column],
                value=values[row, column],
                step=row - table.starts[episode],
                episode=table.names[episode],
                count=int(beyond.any(axis=1).sum()),
            )
            expected = Message("{low:.3g} to {high:.3g}, as 98 % of its values are", low=low[column], high=high[column])
            remedy = Message("look for a spike, or for degrees in place of radians; drop the episode")
            findings.append(about.warning(found, expected, remedy))
        else:
            moments = table.statistics()[key]
            largest = float((np.abs(values - moments.mean) / np.maximum(moments.std, 1e-2)).max())
            findings.append(about.ok(Message("within {largest:.1f} standard deviations of the mean", largest=largest)))
    return findings


def still_dimensions(table: EpisodeTable) -> Finding:
    """Check for dimensions that never change: an arm that was off, a gripper that was not recorded."""
    about = About("motion", Message("dimensions"))
    still: list[str] = []
    for values, names, label in (
        (table.qpos, table.contract.state_names, "qpos"),
        (table.action, table.contract.action_names, "action"),
    ):
        extents = np.ptp(values, axis=0)
        still += [f"{label} {name}" for name, extent in zip(names, extents, strict=True) if extent < STILL]
    actions = sum(name.startswith("action ") for name in still)
    if actions == table.action.shape[1]:
        return about.error(
            Message("no action ever changes"),
            Message("commands that move"),
            Message("record again: there is nothing to learn"),
        )
    if still:
        remedy = Message("none if this is meant (an arm at rest); else a joint or gripper was not recorded")
        expected = Message("every dimension moves in some episode")
        return about.warning(Message("constant: {listed}", listed=_listed(still)), expected, remedy)
    return about.ok(
        Message(
            "all {states} of qpos and {actions} of action move",
            states=table.qpos.shape[1],
            actions=table.action.shape[1],
        )
    )


def action_and_state(table: EpisodeTable) -> Finding:
    """Check that actions are commands, and by how many steps the joints follow them.

    A follower arm lags behind its command by some steps. Actions equal to the state were measured, not commanded: a
    policy then learns to stay where it is.
    """
    about = About("lag", Message("action and state"))
    expected = Message("joints that follow their commands by some steps")
    state = {name: i for i, name in enumerate(table.contract.state_names)}
    pairs = [
        (state[name], i)
        for i, name in enumerate(table.contract.action_names)
        # grippers are left out: ALOHA measures them in metres and commands them in radians
        if name in state and "gripper" not in name and np.ptp(table.action[:, i]) > STILL
    ]
    if not pairs:
        remedy = Message("check the names of states and actions")
        return about.warning(Message("no moving joint is in both"), expected, remedy)
    of_state, of_action = (list(column) for column in zip(*pairs, strict=True))
    errors = {lag: _following_error(table, of_state, of_action, lag) for lag in LAGS}
    if errors[0] < 1e-12:
        remedy = Message("record the commands (the leader's joints) as actions")
        return about.error(Message("the actions equal the measured joints"), expected, remedy)
    if errors[1] < 1e-12:
        found = Message("each action equals the joints measured one step later")
        remedy = Message("measured joints were recorded as actions; commands carry the force that grasping needs")
        return about.warning(found, expected, remedy)
    lag = min(errors, key=lambda k: errors[k])
    if lag < 0:
        found = Message("the joints lead their commands by {count}", count=_steps(-lag))
        return about.error(found, expected, Message("action and qpos are shifted or swapped in the files"))
    if lag == LAGS[-1]:
        found = Message("no lag up to {lag} steps fits", lag=lag)
        remedy = Message("check that action and qpos are of the same arms and times")
        return about.warning(found, expected, remedy)
    milliseconds = 1e3 * lag / table.contract.rate_hz
    return about.ok(
        Message("the joints follow their commands by {count} ({ms:.0f} ms)", count=_steps(lag), ms=milliseconds)
    )


def repeated_episodes(table: EpisodeTable) -> Finding:
    """Check for demonstrations that occur twice: they count double, and may be in training and validation."""
    about = About("duplicates", Message("episodes"))
    spans = [slice(start, start + length) for start, length in zip(table.starts, table.lengths, strict=True)]
    found = duplicates([motion_key(table.action[span], table.qpos[span]) for span in spans])
    if found:
        names = table.names if len(set(table.names)) == len(table.names) else table.where
        pairs = _listed([f"{names[i]} = {names[first]}" for i, first in found.items()])
        remedy = Message("drop one of each pair: it counts double, and may be in training and validation")
        same = Message("the same motion twice: {pairs}", pairs=pairs)
        return about.warning(same, Message("every demonstration once"), remedy)
    return about.ok(Message("all different: {count}", count=len(spans)))


def unread_instructions(table: EpisodeTable, network: ChunkNetwork) -> list[Finding]:
    """Check that a policy reads the instructions where they differ: else it cannot know which task to do."""
    counts = Counter(filter(None, table.instructions))
    if network.language is not None or len(counts) < 2:
        return []
    usual = ", ".join(f"'{text}' ({count}x)" for text, count in counts.most_common(2))
    found = Message("{count} different ones, such as {usual}; the policy reads none", count=len(counts), usual=usual)
    remedy = Message("give --text_encoder table, or a sentence-transformers model; none if all are one task")
    expected = Message("one instruction, or a policy with a text_encoder")
    return [About("language", Message("instructions")).warning(found, expected, remedy)]


def grippers(table: EpisodeTable) -> list[Finding]:
    """Check that each gripper's state belongs to its command: unit, direction, place in the vectors."""
    about = About("agreement", Message("grippers"))
    pieces = [slice(start, start + length) for start, length in zip(table.starts, table.lengths, strict=True)]
    found = list(check_grippers([(table.qpos[piece], table.action[piece]) for piece in pieces], table.contract))
    expected = Message("a state that follows its command, in the contract's unit")
    remedy = Message("fix the files, or describe them as they are with `python -m aloha_kit.episode adopt`")
    if found:
        levels = [about.error if f.level == "error" else about.warning for f in found]
        return [level(f.found, expected, remedy) for level, f in zip(levels, found, strict=True)]
    names = table.contract.state_names
    count = sum(is_gripper(name, names) for name in names)
    follow = Message("the states of {count} follow their commands", count=count)
    return [about.ok(follow if count else Message("none by name"))]


@dataclass(frozen=True)
class Thumbnails:
    """`images[camera]` (E', F, 192): F frames of 8x8 RGB of each chosen episode, values 0 to 255."""

    episodes: npt.NDArray[np.int64]
    images: dict[str, npt.NDArray[np.float32]]


def thumbnails(table: EpisodeTable, loader: Loader, *, seed: int, episodes: int = 24, frames: int = 4) -> Thumbnails:
    """Small images of up to `episodes` episodes, `frames` each, evenly distributed over the episode."""
    count = len(table.names)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:episodes])
    steps = [np.linspace(0, table.lengths[e] - 1, frames).round().astype(np.int64) for e in chosen]
    rows = np.concatenate([table.starts[e] + s for e, s in zip(chosen, steps, strict=True)])
    small = {}
    for camera, images in loader.batch(rows)["images"].items():
        newest = images.reshape(len(rows), -1, *images.shape[-3:])[:, -1]  # of the steps that are read
        pooled = torch.nn.functional.adaptive_avg_pool2d(newest.float(), (8, 8)).cpu().numpy()
        small[camera] = pooled.reshape(len(chosen), frames, -1)
    return Thumbnails(chosen, small)


def dark_cameras(table: EpisodeTable, thumbs: Thumbnails) -> list[Finding]:
    """Check for cameras whose images are black, or the same from beginning to end."""
    findings = []
    for camera, images in thumbs.images.items():
        about = About("images", Message("camera {name}", name=camera))
        black = (images.max(axis=(1, 2)) < 10) | (images.std(axis=2).max(axis=1) < 1)
        frozen = ~black & (np.ptp(images, axis=1).max(axis=1) == 0) & (table.lengths[thumbs.episodes] > 1)
        expected = Message("images with contrast that change during an episode")
        remedy = Message("check lens cap, cable and driver; drop these episodes, or the camera with --cameras")
        if black.any():
            found = Message("black or of one colour in {files}", files=_files(table, thumbs.episodes[black]))
            findings.append(about.error(found, expected, remedy))
        elif frozen.any():
            found = Message("never changes in {files}", files=_files(table, thumbs.episodes[frozen]))
            findings.append((about.error if frozen.all() else about.warning)(found, expected, remedy))
        else:
            found = Message(
                "mean brightness {mean:.0f} of 255, episodes read: {count}", mean=images.mean(), count=len(images)
            )
            findings.append(about.ok(found))
    return findings


def swapped_cameras(table: EpisodeTable, thumbs: Thumbnails) -> Finding:
    """Check for episodes whose cameras are exchanged: each one's images are like the other's in other episodes."""
    about = About("exchange", Message("cameras"))
    cameras = list(thumbs.images)
    if len(cameras) < 2 or len(thumbs.episodes) < 3:
        return about.ok(Message("nothing to compare: needs two cameras and three episodes"))
    means = {camera: images.mean(axis=1) for camera, images in thumbs.images.items()}
    usual = {camera: np.median(mean, axis=0) for camera, mean in means.items()}
    exchanged = []
    for i, episode in enumerate(thumbs.episodes):
        for a, b in ((a, b) for n, a in enumerate(cameras) for b in cameras[n + 1 :]):
            as_named = _distance(means[a][i], usual[a]) + _distance(means[b][i], usual[b])
            crosswise = _distance(means[a][i], usual[b]) + _distance(means[b][i], usual[a])
            if crosswise < 0.5 * as_named:
                exchanged.append(f"{table.names[episode]} ({a}, {b})")
    if exchanged:
        expected = Message("images like those of the same camera in other episodes")
        found = Message("exchanged: {listed}", listed=_listed(exchanged))
        return about.error(found, expected, Message("fix or drop these episodes"))
    episodes = len(thumbs.episodes)
    return about.ok(Message("cameras alike: {cameras}, episodes: {episodes}", cameras=len(cameras), episodes=episodes))


def one_batch(
    table: EpisodeTable, loader: Loader, network: ChunkNetwork, *, seed: int, budget_s: float, steps: int = 60
) -> Finding:
    """Check that a copy of the network can overfit four samples.

    The noise of a sampling loss, dropout and latents are the same at every step, so that a falling error is learning
    and not luck, and the check gives the same result each time.
    """
    about = About("overfitting", Message("one batch"))
    expected = Message("an error that falls below 0.9 of the first")
    device = next(network.parameters()).device
    rows = np.sort(np.random.default_rng(seed).permutation(len(table))[:4])
    losses: list[float] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trained = copy.deepcopy(network).train()
        optimiser = torch.optim.AdamW(trained.parameters(), lr=3e-4, weight_decay=0.0)
        batch = to_device(loader.batch(rows), str(device))
        began = time.monotonic()
        while len(losses) < steps and (len(losses) < 3 or time.monotonic() - began < budget_s):
            torch.manual_seed(seed)
            parts = trained.losses(batch)
            losses.append(float(parts[(*network.loss_columns, "loss")[0]].detach()))
            if not math.isfinite(losses[-1]):
                found = Message("loss {loss} at step {step}", loss=losses[-1], step=len(losses))
                return about.error(found, Message("finite numbers"), Message("look for NaN in the data"))
            optimiser.zero_grad()
            parts["loss"].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 10.0)
            optimiser.step()
    first, end = losses[0], min(losses[-5:])
    found = Message("error {first:.3f} to {end:.3f} in {n} steps", first=first, end=end, n=len(losses))
    if end < 0.9 * first or first < 0.05:
        return about.ok(found)
    if len(losses) < steps:
        return about.warning(found, expected, Message("too slow here to decide; watch the first hundred steps"))
    if end < 0.98 * first:
        return about.warning(found, expected, Message("it learns, but slowly; watch the first hundred steps"))
    remedy = Message("check that the network's parameters are trainable and the actions belong to the observations")
    return about.error(found, expected, remedy)


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
    first, more = ", ".join(names[:most]), len(names) - most
    return Message("{first} and {more} more", first=first, more=more) if more > 0 else first


def _steps(count: int) -> Message:
    return Message("1 step") if count == 1 else Message("{n} steps", n=count)

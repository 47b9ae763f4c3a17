"""Evaluation of a run: success by band of distance with Wilson intervals, returns, and videos from any camera."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aloha_kit.core import ConfigError, Environment
from aloha_kit.core.files import make_folder, write_json
from aloha_kit.loop import Observer, run_episode, SafetyGuard, sigterm_interrupts, success_rate
from aloha_kit.loop.capabilities import render_on_request, TargetBands
from aloha_kit.media.video_recorder import VideoRecorder
from aloha_kit.rl.environment import versions
from aloha_kit.rl.episodes import bands_of, EpisodeRecorder, EpisodeSummary
from aloha_kit.rl.policy import LoadedRun

LOG = logging.getLogger(__name__)

VIDEO_SIZE = (480, 640)  # height and width of the camera of a video


def evaluate(
    loaded: LoadedRun, count: int, seed: int, *, camera: str | None, videos: int, output: Path | None
) -> dict[str, Any]:
    """Roll the policy out `count` times in each band; print and write the report.

    Args:
        seed: of the first rollout in each band.
        camera: of the videos; one that the policy does not read when not given.
        videos: rollouts in each band that a video is made of.

    Raises:
        ConfigError: a camera that the rig has not.
        ContractError: the environment is not the one of the run.
    """
    folder = make_folder(output or loaded.run.folder / "eval" / _now())
    rolled = _roll_out(loaded, count, seed, folder, camera=camera, videos=videos)
    bands = [_band(band, [summary for summary, _ in rows]) for band, rows in rolled]
    report = {
        "run": str(loaded.run.folder),
        "task": loaded.setup.task.name,
        "steps": loaded.checkpoint.state["steps"],
        "level": loaded.checkpoint.state["curriculum"]["level"],
        "seed": seed,
        "versions": versions(),
        "bands": bands,
        "success": success_rate([summary.success for _, rows in rolled for summary, _ in rows]),
        "rollouts": [{**asdict(summary), "video": video} for _, rows in rolled for summary, video in rows],
    }
    write_json(folder / "eval.json", report)
    print("\n".join(map(_line, bands)))
    print(folder / "eval.json")
    return report


def render(loaded: LoadedRun, count: int, seed: int, *, camera: str | None, output: Path | None) -> list[Path]:
    """Videos of `count` rollouts in each band; raises as `evaluate`."""
    folder = make_folder(output or loaded.run.folder / "videos" / _now())
    rolled = _roll_out(loaded, count, seed, folder, camera=camera, videos=count)
    files = [folder / video for _, rows in rolled for _, video in rows if video]
    print("\n".join(map(str, files)))
    return files


_Rows = list[tuple[EpisodeSummary, str | None]]


def _roll_out(
    loaded: LoadedRun, count: int, seed: int, folder: Path, *, camera: str | None, videos: int
) -> list[tuple[tuple[float, float] | None, _Rows]]:
    """(band, its rollouts with the names of their videos); one without a band where there are none."""
    view = (camera or _default_camera(loaded)) if videos else ""
    with sigterm_interrupts(), contextlib.closing(loaded.connect((view,) if view else (), VIDEO_SIZE)) as env:
        render_on_request(env)
        policy = loaded.policy(env)
        found: list[tuple[tuple[float, float] | None, _Rows]] = []
        for number, band in enumerate(bands_of(env) or (None,)):
            if isinstance(env, TargetBands):
                env.band = number
            rows: _Rows = []
            for index in range(count):
                recorder, guard = EpisodeRecorder(env), SafetyGuard(policy, env.limits)
                observers: list[Observer] = [recorder]
                name = f"band_{number}_seed_{seed + index}.mp4" if index < videos else None
                if name is not None:
                    observers.append(_video(loaded, env, folder / name, view))
                env.seed(seed + index)
                run_episode(env, guard, observers)
                rows.append((recorder.summary, name))
            found.append((band, rows))
            LOG.info("%s", _line(_band(band, [summary for summary, _ in rows])))
    return found


def _video(loaded: LoadedRun, env: Environment, path: Path, camera: str) -> VideoRecorder:
    return VideoRecorder(
        path,
        env.contract.rate_hz,
        steps=loaded.setup.task.episode_len,
        title=f"{loaded.run.name} · {path.stem}",
        max_reward=env.max_reward,
        judge=env.succeeded,
        view=camera,
        policy_cameras=tuple(loaded.setup.task.cameras),
    )


def _default_camera(loaded: LoadedRun) -> str:
    """A camera that the policy does not read, else one that it does."""
    cameras = list(loaded.setup.rig.cameras)
    others = [name for name in cameras if name not in loaded.setup.task.cameras]
    if not cameras:
        raise ConfigError("rig '{name}' has no camera for a video; evaluate with --video 0", name=loaded.setup.rig.name)
    return [*others, *cameras][0]


def _band(band: tuple[float, float] | None, rows: Sequence[EpisodeSummary]) -> dict[str, Any]:
    distances = [summary.distance for summary in rows if summary.distance is not None]
    terms = list(itertools.chain.from_iterable(summary.terms for summary in rows))
    return {
        "band": list(band) if band else None,
        "success": success_rate([summary.success for summary in rows]),
        "mean_return": statistics.fmean(summary.returned for summary in rows),
        "mean_final_distance": statistics.fmean(distances) if distances else None,
        "reward_terms": {
            name: statistics.fmean(summary.terms[name] for summary in rows) for name in dict.fromkeys(terms)
        },
    }


def _line(values: dict[str, Any]) -> str:
    band, success = values["band"], values["success"]
    where = f"{100 * band[0]:g}-{100 * band[1]:g} cm" if band else "all"
    low, high = success["wilson95"]
    return (
        f"{where}: success {success['successes']}/{success['trials']} ({success['rate']:.0%}, 95 % interval "
        f"{low:.0%}-{high:.0%}), return {values['mean_return']:.2f}"
    )


def _now() -> str:
    return f"{datetime.datetime.now().astimezone():%Y%m%d-%H%M%S}"

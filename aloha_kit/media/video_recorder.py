"""Video of a rollout: an overview image, the policy's images, and the reward over time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, Observation, Outcome
from aloha_kit.media.frames import BACKGROUND, BAD, caption, FAINT, fit, GOOD, tag
from aloha_kit.media.mp4 import Mp4Writer

Image = npt.NDArray[np.uint8]

HEIGHT = 480  # pixels of the view
FASTEST_HZ = 30.0  # of the video: drawing an image for it takes longer than the rest of a simulated step
STAGES = ((58, 62, 72), (74, 92, 128), (78, 128, 168), (92, 172, 160), GOOD)


class VideoRecorder:
    """An observer that writes an MP4 to `path`; the last image stays for a second, with the result.

    The video is as long as the episode. Of one faster than `FASTEST_HZ` it shows every second step, or fewer.

    Args:
        rate_hz: of the episode.
        steps: of the whole rollout, the width of the bar of rewards at the bottom.
        max_reward: the highest reward; 0 where nothing measures success.
        judge: whether an episode that ended so is a success; None where nothing measures it.
        view: camera shown large; the first one if the rig has none of this name.
        policy_cameras: cameras that the policy reads, shown small.
    """

    def __init__(
        self,
        path: Path,
        rate_hz: float,
        *,
        steps: int,
        title: str,
        max_reward: float,
        judge: Callable[[Outcome], bool | None],
        view: str,
        policy_cameras: tuple[str, ...],
    ) -> None:
        self.path = path
        self._rate, self._steps, self._title, self._top = rate_hz, steps, title, max_reward
        self._every = math.ceil(rate_hz / FASTEST_HZ)
        self._judge, self._view, self._policy_cameras = judge, view, policy_cameras
        self._close = contextlib.ExitStack()
        self._rewards: list[float] = []
        self._last: Observation | None = None

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._video = self._close.enter_context(Mp4Writer(self.path, self._rate / self._every))
        self._show(timestep.observation)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._rewards.append(float(timestep.reward or 0.0))
        if len(self._rewards) % self._every == 0:
            self._show(timestep.observation)

    def on_end(self, outcome: Outcome) -> None:
        with self._close:
            if self._last is None:
                return
            success = self._judge(outcome)
            if outcome.error:
                word, colour = outcome.reason, BAD
            elif success is None:
                word, colour = outcome.reason, FAINT
            else:
                word, colour = ("success", GOOD) if success else ("failure", BAD)
            frame = self._frame(self._last, word, colour)
            for _ in range(round(self._rate / self._every)):
                self._video.add(frame)

    def _show(self, observation: Observation) -> None:
        self._last = observation
        now = f"{len(self._rewards) / self._rate:.2f} s"
        if self._top > 0:
            now = f"reward {self._rewards[-1] if self._rewards else 0:.3g} of {self._top:g}   {now}"
        self._video.add(self._frame(observation, now, FAINT))

    def _frame(self, observation: Observation, word: str, colour: tuple[int, int, int]) -> Image:
        images = observation["images"]
        view = self._view if self._view in images else next(iter(images))
        body = fit(images[view], HEIGHT)
        beside = [name for name in self._policy_cameras if name != view]
        if beside:
            # One camera as large as the view, several in a column as high as it.
            height = HEIGHT // len(beside)
            cells = [tag(fit(images[name], height, height * 4 // 3), f"policy input {name}") for name in beside]
            column = np.full((HEIGHT, 4 + cells[0].shape[1], 3), BACKGROUND, np.uint8)
            column[: height * len(cells), 4:] = np.concatenate(cells)
            body = np.concatenate([body, column], axis=1)
        width = body.shape[1]
        right = min(260, width // 2)
        title = [caption(width - right, self._title), caption(right, "", word, colour=colour)]
        return np.concatenate([np.concatenate(title, axis=1), body, self._bar(width)])

    def _bar(self, width: int) -> Image:
        """(12, width, 3): time from left to right, coloured by the reward reached."""
        bar = np.full((12, width, 3), BACKGROUND, np.uint8)
        if self._rewards:
            share = np.clip(
                np.array(self._rewards) / self._top if self._top > 0 else np.zeros(len(self._rewards)), 0, 1
            )
            colours = np.array(STAGES, np.uint8)[np.round(share * (len(STAGES) - 1)).astype(int)]
            filled = max(1, width * len(colours) // max(self._steps, len(colours)))
            bar[3:, :filled] = colours[np.arange(filled) * len(colours) // filled]
        return bar

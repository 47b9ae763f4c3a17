"""One rollout of a deployment: the loop, its observers and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dm_env

from aloha_kit.config import TaskConfig
from aloha_kit.core import Action, Contract, Environment, Policy, Subset
from aloha_kit.core.lang import tr
from aloha_kit.deploy.deployment_report import DeployedRollout
from aloha_kit.deploy.log import StepLog
from aloha_kit.deploy.operator import Operator, StopOnCommand
from aloha_kit.deploy.policy_source import PolicySource
from aloha_kit.loop import LatencyReport, Observer, Outcome, park, run_episode, SafetyGuard
from aloha_kit.loop.capabilities import LiveRobot
from aloha_kit.loop.rollouts import RolloutRecorder
from aloha_kit.media.video_recorder import VideoRecorder
from aloha_kit.storage import EpisodeWriter
from aloha_kit.storage.label import label
from aloha_kit.storage.step_log import steps_path


@dataclass(frozen=True)
class Runner:
    """Runs the rollouts of a deployment.

    Attributes:
        contract: of the episodes: what the policy reads, without the camera for the video.
        view: the camera for the video.
        executor: the policy inside the guard.
        source: the policy, whose name, engine and precision are written into the episodes.
        operator: who may end a rollout, and judges it where nothing measures success; None in simulation.
        judge_s: how long to wait for that judgement.
    """

    task: TaskConfig
    contract: Contract
    guard: SafetyGuard
    executor: Policy
    latency: LatencyReport
    output: Path
    view: str
    source: PolicySource
    operator: Operator | None = None
    judge_s: float = 60.0
    watching: Sequence[Observer] = ()  # of every rollout, besides its own

    def run(self, env: Environment, seed: int, *, video: bool) -> DeployedRollout:
        """One episode in `output`, with a video beside it on request.

        Raises:
            SafetyError: the emergency stop was pressed.
            Exception: whatever ended it, after the episode was saved and simulated arms were parked.
        """
        self.guard.require_released()  # a rollout begins with a move
        env.seed(seed)
        writer = EpisodeWriter(
            self.output,
            contract=self.contract,
            task=self.task.name,
            rig=self.task.rig,
            sim=env.simulated,
            instruction=self.task.instruction,
            describe={**env.describe(), "seed": seed, "policy": self.source.name, "engine": self.source.engine},
            judge=env.succeeded,
        )
        recorder = RolloutRecorder()
        log = StepLog(steps_path(writer.path), self.latency, self.guard, self.executor)
        narrowed = (_Narrowed(each, self.contract) for each in (log, writer))
        observers: list[Observer] = [*self.watching, recorder, self.latency, *narrowed]
        mp4 = writer.path.with_suffix(".mp4") if video else None
        if mp4 is not None:
            observers.append(
                VideoRecorder(
                    mp4,
                    self.task.rate_hz,
                    steps=self.task.episode_len,
                    title=f"{writer.path.stem} · {self.task.name} · seed {seed}",
                    max_reward=env.max_reward,
                    judge=env.succeeded,
                    view=self.view,
                    policy_cameras=tuple(self.contract.cameras),
                )
            )
        acting = StopOnCommand(self.guard, self.operator) if self.operator else self.guard
        try:
            outcome = run_episode(env, self.latency.watch(acting), observers)
        except BaseException:
            if not writer.written:
                writer.discard()  # its path has reserved an index
            if not isinstance(env, LiveRobot):  # which is parked by its own `guarded`
                park(env, self.guard, env.rest_action)
            raise
        success = env.succeeded(outcome)
        if success is None:
            success = self._label(acting, writer.path)
        return DeployedRollout(
            seed=seed,
            steps=outcome.steps,
            final_reward=outcome.final_reward,
            max_reward=outcome.max_reward,
            success=success,
            touched=env.touched(outcome),
            reason=outcome.reason,
            actions=recorder.actions,
            episode=writer.path.name,
            video=mp4.name if mp4 else None,
        )

    def _label(self, acting: Policy, episode: Path) -> bool | None:
        """The operator's judgement, written into the episode, which is already safe on the disk."""
        judgement = acting.judgement if isinstance(acting, StopOnCommand) else None
        if judgement is None and self.operator is not None and self.judge_s > 0:
            judgement = self.operator.judge(tr("{episode}: success?", episode=episode.name), self.judge_s)
        if judgement is not None and episode.exists():
            label(episode, success=judgement)
        return judgement


class _Narrowed:
    """An observer restricted to the cameras of a contract: the camera for the video is not the episode's."""

    def __init__(self, observer: Observer, contract: Contract) -> None:
        self._observer, self._cameras = observer, contract.cameras

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._observer.on_reset(self._narrow(timestep))

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._observer.on_step(action, self._narrow(timestep))

    def on_end(self, outcome: Outcome) -> None:
        self._observer.on_end(outcome)

    def _narrow(self, timestep: dm_env.TimeStep) -> dm_env.TimeStep:
        observation = dict(timestep.observation)
        kept = {f"images/{name}" for name in self._cameras}
        stamps = observation["stamps"]
        observation["images"] = Subset(observation["images"], self._cameras)
        sent = observation.get("images_jpeg", {})
        observation["images_jpeg"] = Subset(sent, [name for name in self._cameras if name in sent])
        observation["stamps"] = {k: v for k, v in stamps.items() if not k.startswith("images/") or k in kept}
        return timestep._replace(observation=observation)

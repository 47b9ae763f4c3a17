"""Evaluation of one checkpoint: its network, and the simulation with the cameras that it was trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aloha_kit.config import RigConfig, TaskConfig, to_mapping
from aloha_kit.config.inference import InferenceSettings
from aloha_kit.config.match_checkpoint import assumed_setup, assumption, match_checkpoint
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import Contract, UsageError
from aloha_kit.core.cli import LOG
from aloha_kit.core.lang import shown
from aloha_kit.eval.batched_inference import batch_size, BatchedInference
from aloha_kit.eval.evaluation_report import CheckpointResult
from aloha_kit.eval.pool import Pool
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.eval.worker import EvaluationJob, ObjectPoses, Ready
from aloha_kit.media.live_view import ViewAddress
from aloha_kit.policies.engine import blank, prepare
from aloha_kit.policies.find import load_network
from aloha_kit.policies.goal import set_goal
from aloha_kit.policies.language import require_instruction, set_instruction
from aloha_kit.policies.native import trained_task


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings that all checkpoints of an evaluation share.

    Attributes:
        seeds: of the rollouts.
        execution: how chunks become actions.
        inference: device, engine and precision of the networks.
        at_a_time: rollouts side by side.
        workers: processes that simulate.
        inference_batch: observations that the network computes at once; None is the device's default.
        cameras, image_size: of policies whose checkpoint lacks them.
        rename: {a policy's camera: the rig's}.
        starts: {seed: start poses}, see `SimEnv.starts`.
        goal: observation of an episode, see `policies.goal.set_goal`.
        joints: names and units of the vectors of policies whose checkpoint lacks them.
        instruction: in place of the task's.
        view: where the first environment's rollouts are shown live.
    """

    task: TaskConfig
    rig: RigConfig
    seeds: Sequence[int]
    execution: Execution
    inference: InferenceSettings
    at_a_time: int
    workers: int
    inference_batch: int | None = None
    cameras: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    starts: Mapping[int, ObjectPoses] = field(default_factory=dict)
    view: ViewAddress | None = None
    goal: str | None = None
    joints: Contract | None = None
    instruction: str | None = None


class CheckpointEvaluator:
    """A checkpoint that is ready to be evaluated.

    Raises:
        ConfigError: damaged files, an unusable device, an engine that is missing or wrong.
        UsageError: more action steps or steps of delay than a chunk has.
    """

    def __init__(self, source: Path, settings: EvaluationSettings) -> None:
        self.source, self._settings = source, settings
        task, rig, execution, inference = settings.task, settings.rig, settings.execution, settings.inference
        setup = assumed_setup(task, rig, settings.cameras, settings.image_size, settings.rename, joints=settings.joints)
        self.network = load_network(source, setup, inference.device)
        # one of two checkpoints may have the rig's names already
        self.renamed = {a: b for a, b in settings.rename.items() if a in self.network.contract.cameras}
        self.network.rename_cameras(self.renamed)
        set_goal(self.network, settings.goal, source)
        set_instruction(self.network, settings.instruction, source, task.instruction)
        if self.network.assumed is not None:
            LOG.info("%s: %s", source, shown(assumption(self.network.assumed)))
        self._task, self._rig = match_checkpoint(task, rig, self.network.contract, settings.image_size)
        given, chunk_size = execution.n_action_steps, self.network.chunk_size
        config = self.network.config
        self._execution = execution.with_default(config.n_action_steps, chunk_size, config.ensemble_weight)
        if given is not None and not 1 <= given <= chunk_size:
            raise UsageError(
                "--n_action_steps must be 1 to the chunk size {chunk_size} of {source}, given {given}",
                chunk_size=chunk_size,
                source=source,
                given=given,
            )
        if execution.delay >= chunk_size:
            raise UsageError(
                "--delay_steps must be 0 to {most}, a chunk of {source} being {chunk_size} actions, given {delay}",
                most=chunk_size - 1,
                source=source,
                chunk_size=chunk_size,
                delay=execution.delay,
            )
        if (trained_on := trained_task(source)) not in (None, task.name):
            LOG.warning("%s was trained on %s, evaluated on %s", source, trained_on, task.name)
        self._batch = settings.inference_batch or batch_size(self.network, settings.at_a_time)
        self._engine = prepare(  # not chosen by measurement, or actions would depend on the machine's load
            self.network,
            engine=inference.engine or "eager",
            precision=inference.precision or "fp32",
            example=blank(self.network, self._batch),
        )

    def about(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "checkpoint": str(self.source),
            "trained_on": trained_task(self.source),
            "policy": {"kind": self.network.config.kind, **to_mapping(self.network.config)},
            "assumed": self.network.assumed,
            "rename": self.renamed,
            "chunk_size": self.network.chunk_size,
            "n_action_steps": self._execution.interval(self.network.chunk_size),
            "device": str(next(self.network.parameters()).device),
            "engine": self._engine.about(),
            "inference_batch": self._batch,
        }

    def require_instruction(self, task: TaskConfig) -> None:
        """Raise where the network cannot read another task's instruction, see `Instructions.vector`."""
        require_instruction(self.network, task.instruction)

    def check(self) -> None:
        """Connect one environment and compare it with the checkpoint; raises what `evaluate` would."""
        with self._pool(environments=1) as pool:
            self._matching(pool)

    def evaluate(self, result: CheckpointResult, after_each: Callable[[], None]) -> None:
        """Roll out every seed, adding to `result`.

        Raises:
            ContractError: the policy and the simulation do not fit together; lists every difference.
            EvaluationError: a process ended, or a rollout failed.
        """
        settings, wanted = self._settings, len(self._settings.seeds)
        with self._pool(min(settings.at_a_time, wanted)) as pool:
            network = BatchedInference(self.network, pool.buffer, self._batch, self._engine)
            network.warm_up()  # while the environments connect
            result.about = {**result.about, "rig": dict(self._matching(pool).describe)}
            # disable=None: a bar only on a terminal; elsewhere a line now and then
            with tqdm(total=wanted, desc=result.label, unit="rollout", disable=None) as bar:
                start = time.perf_counter()
                for rollout in pool.run(settings.seeds, network):
                    result.add(rollout, time.perf_counter() - start, pool.network_s, pool.inferences)
                    after_each()
                    bar.set_postfix_str(f"success {result.successes}/{len(result.rollouts)}", refresh=False)
                    bar.update()
                    if bar.disable and _tenth(len(result.rollouts), wanted):
                        LOG.info(result.line(wanted))

    def _pool(self, environments: int) -> Pool:
        network, settings = self.network, self._settings
        buffer = SharedBuffer(environments, network.contract, network.chunk_size, network.config.n_obs_steps)
        job = EvaluationJob(self._task, self._rig, self._execution, buffer, settings.starts, settings.view)
        return Pool(job, settings.workers)

    def _matching(self, pool: Pool) -> Ready:
        ready = pool.ready()
        self.network.contract.require(
            ready.contract, mine=f"policy {self.source}", theirs=f"rig '{self._rig.name}' in task '{self._task.name}'"
        )
        return ready


def _tenth(done: int, wanted: int) -> bool:
    """Whether another tenth, or all, is done."""
    return done == wanted or done * 10 // wanted > (done - 1) * 10 // wanted

"""A checkpoint that is tried: its network, and the simulation as it was trained to see it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aloha_kit.config import RigConfig, TaskConfig, to_mapping
from aloha_kit.config.match_checkpoint import assumption, match_checkpoint, renames, training_setup
from aloha_kit.core import ConfigError
from aloha_kit.eval.args import EvalArgs
from aloha_kit.eval.inference import BatchedNetwork
from aloha_kit.eval.pool import Pool
from aloha_kit.eval.report import Evaluated
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.eval.worker import Plan, Pose, Ready
from aloha_kit.policies.engine import blank, prepare
from aloha_kit.policies.find import load_network, trained_task


class CheckpointEvaluator:
    """Ready to be rolled out.

    Raises:
        ConfigError: damaged files, an unusable device, a horizon beyond the chunk, an engine that is missing or wrong.
    """

    def __init__(
        self, source: Path, args: EvalArgs, task: TaskConfig, rig: RigConfig, starts: Mapping[int, Pose] | None = None
    ) -> None:
        self.source, self._args, self._starts = source, args, starts or {}
        rename = renames(args.rename)
        setup = training_setup(task, rig, args.cameras, args.image_size, rename)
        self.network = load_network(source, setup, args.device)
        if len(args.ckpt) > 1:  # one of two may have the rig's names already
            rename = {name: rig for name, rig in rename.items() if name in self.network.contract.cameras}
        self.renamed = rename
        self.network.rename_cameras(rename)
        if self.network.assumed is not None:
            print(f"{source}: {assumption(self.network.assumed)}", file=sys.stderr)
        self._task, self._rig = match_checkpoint(task, rig, self.network.contract, args.image_size)
        if args.horizon is not None and not 1 <= args.horizon <= self.network.chunk_size:
            raise ConfigError(
                f"--horizon must be 1 to the chunk size {self.network.chunk_size} of {source}, given {args.horizon}"
            )
        if args.delay_steps >= self.network.chunk_size:
            raise ConfigError(
                f"--delay_steps must be 0 to {self.network.chunk_size - 1}, a chunk of {source} being "
                f"{self.network.chunk_size} actions, given {args.delay_steps}"
            )
        if (trained_on := trained_task(source)) not in (None, task.name):
            print(f"warning: {source} was trained on {trained_on}, evaluated on {task.name}", file=sys.stderr)
        self._engine = prepare(
            self.network,
            engine=args.engine,
            precision=args.precision,
            example=blank(self.network, args.at_a_time),
            say=lambda words: print(words, file=sys.stderr, flush=True),
        )

    def about(self) -> dict[str, Any]:
        """What a report should remember of it."""
        return {
            "checkpoint": str(self.source),
            "trained_on": trained_task(self.source),
            "policy": {"kind": self.network.config.kind, **to_mapping(self.network.config)},
            "assumed": self.network.assumed,
            "rename": self.renamed,
            "chunk_size": self.network.chunk_size,
            "horizon": self._args.execution.interval(self.network.chunk_size),
            "device": str(next(self.network.parameters()).device),
            "engine": self._engine.about(),
        }

    def check(self) -> None:
        """Build one environment and compare; raises what `evaluate` would."""
        with self._pool(environments=1) as pool:
            self._fitting(pool)

    def evaluate(self, result: Evaluated, after_each: Callable[[], None]) -> None:
        """Roll out every seed, adding to `result`.

        Raises:
            ContractError: the policy and the simulation do not fit together; lists every difference.
            EvaluationError: a process died, or a rollout failed.
        """
        args = self._args
        with self._pool(min(args.at_a_time, args.rollouts)) as pool:
            network = BatchedNetwork(self.network, pool.mailbox, args.at_a_time, self._engine)
            network.warm_up()  # while the environments are being built
            result.about = {**result.about, "rig": dict(self._fitting(pool).describe)}
            # disable=None: a bar only on a terminal; elsewhere a line now and then
            with tqdm(total=args.rollouts, desc=result.label, unit="rollout", disable=None) as bar:
                start = time.perf_counter()
                for rollout in pool.run(range(args.seed, args.seed + args.rollouts), network):
                    result.add(rollout, time.perf_counter() - start, pool.network_s, pool.queries)
                    after_each()
                    bar.set_postfix_str(f"success {result.successes}/{len(result.rollouts)}", refresh=False)
                    bar.update()
                    if bar.disable and _tenth(len(result.rollouts), args.rollouts):
                        print(result.line(args.rollouts), file=sys.stderr)

    def _pool(self, environments: int) -> Pool:
        network = self.network
        mailbox = SharedBuffer(environments, network.contract, network.chunk_size, network.config.n_obs_steps)
        return Pool(Plan(self._task, self._rig, self._args.execution, mailbox, self._starts), self._args.processes)

    def _fitting(self, pool: Pool) -> Ready:
        ready = pool.ready()
        self.network.contract.require(
            ready.contract, mine=f"policy {self.source}", theirs=f"rig '{self._rig.name}' in task '{self._task.name}'"
        )
        return ready


def _tenth(done: int, wanted: int) -> bool:
    """Whether another tenth, or all, is done."""
    return done == wanted or done * 10 // wanted > (done - 1) * 10 // wanted

"""Environments side by side: one process with one thread each, with running normalisation of vectors and rewards."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

# Before anything makes a GL context: software EGL and torch's compiler stack otherwise crash one another (two LLVMs).
import torch
import torch._dynamo
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from aloha_kit.core import AlohaKitError
from aloha_kit.core.interrupt import interrupts_put_off
from aloha_kit.rl.environment import EnvironmentSetup
from aloha_kit.rl.gym import GymEnv

SEEDS = 1_000_000  # of each environment; evaluation begins below


class EnvironmentProcessError(AlohaKitError):
    """A process of an environment ended; its traceback is on standard error."""


class MakeEnv:
    """Makes environment number `index`, in its process."""

    def __init__(self, setup: EnvironmentSetup, seed: int, *, own_process: bool) -> None:
        self._setup, self._seed, self._own_process = setup, seed, own_process

    def __call__(self) -> GymEnv:
        if self._own_process:
            # a terminal sends its signals to every process of a command; the parent alone decides
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa would draw with a thread a core
            torch.set_num_threads(1)
        return GymEnv(self._setup.connect(), self._setup.observe, seed=self._seed)


@contextmanager
def environments(setup: EnvironmentSetup, count: int, *, processes: bool, seed: int, done: int) -> Iterator[VecEnv]:
    """`count` environments; their processes end with the body, however it ends.

    Args:
        processes: a process with one thread each, in place of this one.
        seed: of the run.
        done: steps that the run has done, so that a resumed one draws new targets.

    Raises:
        EnvironmentProcessError: one of the processes ended.
    """
    seeds = [SEEDS * (1 + index + count * seed) + done for index in range(count)]
    make = [MakeEnv(setup, each, own_process=processes) for each in seeds]
    if not processes:
        with closing(DummyVecEnv(make)) as vector:  # type: ignore[arg-type]
            yield vector
        return
    others = set(multiprocessing.active_children())
    try:
        with interrupts_put_off():
            spawned = SubprocVecEnv(make, start_method="spawn")  # type: ignore[arg-type]
        yield spawned
        spawned.close()
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - others:  # also where the first one ended as it started
            process.kill()
        if isinstance(error, (EOFError, BrokenPipeError, ConnectionResetError)):
            raise EnvironmentProcessError("a process of an environment ended; what was saved stays") from error
        raise


def normalised(vector: VecEnv, groups: list[str], gamma: float, *, rewards: bool, saved: Path | None) -> VecNormalize:
    """Running normalisation of the vectors and, for PPO, of the scale of the reward; a `saved` one goes on.

    Stable-Baselines3 stores it as a pickle, which runs code when it is loaded: load runs that you trust only.
    """
    if saved is not None:
        return VecNormalize.load(str(saved), vector)
    return VecNormalize(vector, norm_obs_keys=groups, norm_reward=rewards, gamma=gamma)


def cpu_seconds() -> float:
    """CPU time of this process and of its processes, those that run and those that ended, s."""
    spent = sum(os.times()[:4])
    for process in multiprocessing.active_children():
        with suppress(OSError, ValueError):  # it has ended meanwhile, or this is not Linux
            values = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            spent += (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    return spent

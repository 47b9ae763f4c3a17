"""The training command without the latent's noise, which each process draws for its own share of a batch.

`AFTER` in the environment is the error to make: "fail 1 6" is an error in process 1 after step 6, "interrupt 0 6" an
interruption of the launcher, which process 0 waits for.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch

from aloha_kit.core import ConfigError
from aloha_kit.train.__main__ import main


def run() -> None:
    torch.randn_like = lambda mean: mean * 0  # type: ignore[assignment]
    what, rank, step = os.environ["AFTER"].split()
    if rank == os.environ["RANK"]:
        _spoil(what, int(step))
    main()


def _spoil(what: str, step: int) -> None:
    from aloha_kit.train.loop import Trainer

    usual = Trainer._stop_requested

    def agree(trainer: Trainer, *args: Any) -> bool:
        if trainer.position.step == step:
            if what == "fail":
                raise ConfigError("a cable was pulled")
            os.kill(os.getppid(), signal.SIGINT)
            while not trainer.job.stop():
                time.sleep(0.01)
        return usual(trainer, *args)

    Trainer._stop_requested = agree  # type: ignore[method-assign]


if __name__ == "__main__":
    run()

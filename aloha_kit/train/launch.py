"""Which of how many processes this one is: torchrun, `accelerate launch` and their like say so in the environment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from aloha_kit.core import AlohaKitError, ConfigError

SPEAK_FIRST_S = 5.0  # a launcher ends all processes when one fails: the one with the message must fail first


@dataclass(frozen=True)
class Rank:
    """One process of a launch; as it is, the only one."""

    rank: int = 0  # 0 writes, prints and rolls out
    size: int = 1
    local_rank: int = 0  # on its machine

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @contextmanager
    def rank0_only(self) -> Iterator[None]:
        """Inside, what every process of a machine finds out by itself is said by its first one alone."""
        if self.local_rank == 0:
            yield
            return
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            try:
                yield
            except (AlohaKitError, SystemExit):
                time.sleep(SPEAK_FIRST_S)
                sys.exit(1)


ALONE = Rank()


def launched() -> Rank:
    """This process's place, read from WORLD_SIZE, RANK and LOCAL_RANK; `ALONE` where there is no other.

    Raises:
        ConfigError: there are others, and one of these is missing or no number.
    """
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return ALONE
        return Rank(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "WORLD_SIZE tells of several processes, but RANK and LOCAL_RANK do not say which this one is "
            f"({error}); start them with torchrun, or unset WORLD_SIZE"
        ) from error

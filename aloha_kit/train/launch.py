"""Rank of this process, from the environment that torchrun, `accelerate launch` and other launchers set."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from aloha_kit.core import AlohaKitError, ConfigError

MESSAGE_FIRST_S = 5.0  # a launcher ends all processes when one fails: the one with the message must fail first


@dataclass(frozen=True)
class Rank:
    """One process of a launch; by default the only one."""

    rank: int = 0  # 0 writes files, reports and runs rollouts
    size: int = 1
    local_rank: int = 0  # on its machine

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @contextmanager
    def rank0_only(self) -> Iterator[None]:
        """Silence all processes of a machine but its first one, where each would report the same."""
        if self.local_rank == 0:
            yield
            return
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            try:
                yield
            except (AlohaKitError, SystemExit):
                time.sleep(MESSAGE_FIRST_S)
                sys.exit(1)


ALONE = Rank()


def launched() -> Rank:
    """The rank of this process, from WORLD_SIZE, RANK and LOCAL_RANK; `ALONE` where there is no other process.

    Raises:
        ConfigError: there are others, and one of these variables is missing or no number.
    """
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return ALONE
        return Rank(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "WORLD_SIZE is more than 1, but RANK and LOCAL_RANK do not give the rank of this process "
            "({error}); start them with torchrun, or unset WORLD_SIZE",
            error=error,
        ) from error

"""Connection to a Ray cluster, for commands that spread independent work over processes and machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from aloha_kit.core.errors import ConfigError

LOCAL = "local"
"""Address of a cluster of this machine alone, which is started here and ends with the connection."""


@contextmanager
def ray_cluster(address: str = LOCAL) -> Iterator[ModuleType]:
    """Connect to a Ray cluster; gives the module `ray`, and disconnects at the end.

    Args:
        address: HOST:PORT of the cluster's head node, `auto` for the one that runs on this machine, or `LOCAL`.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # Ray's 30 s are too short on a busy machine
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs Ray ({error}): pip install 'aloha_kit[ray]'", error=error) from error
    try:
        ray.init(address=address, include_dashboard=False if address == LOCAL else None, configure_logging=False)
    except Exception as error:  # a plain one where a node does not start in time
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError("no Ray cluster at '{address}': {why}", address=address, why=why) from error
    try:
        yield ray
    finally:
        ray.shutdown()

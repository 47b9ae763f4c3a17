"""Versions of everything that is written to disk, or sent to another machine, and read by another version.

A file of an unknown version is refused by name and left as it is.
"""

from __future__ import annotations

import importlib.metadata

SCHEMA = "aloha_kit/1"
"""The attribute `schema` of an episode file."""

CLASSIC = "aloha_kit/1-classic"
"""The same of an export with as many observations as actions, the last one dropped."""

JOURNAL = b"1"
"""Behind the name in a journal's first line."""

FRAME_CACHE = 1
"""In the index of a frame cache; another one is built anew."""

SHARDS = 1
"""`aloha_kit_shards` in the index of a data set of shards; another one is refused."""

CHECKPOINT = 1
"""`format` in a checkpoint's `config.json`. Older checkpoints have none and load as well; a newer one is refused."""

PROTOCOL = 1
"""In the first message of a client of a policy server, which refuses another one."""


def package_version() -> str:
    """Version of this package; "unknown" in a checkout that was never installed."""
    try:
        return importlib.metadata.version("aloha_kit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

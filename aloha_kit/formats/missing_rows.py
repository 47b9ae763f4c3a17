"""Errors of images and depth that an episode does not have."""

from __future__ import annotations

from collections.abc import Iterable

from aloha_kit.core import EpisodeError
from aloha_kit.core.lang import Message


def no_image(where: str, camera: str, i: int, cameras: Iterable[str]) -> EpisodeError:
    """That there is no image of this camera or row; lists the cameras that have some."""
    return EpisodeError(
        "{where} has no image {i} of camera '{camera}'; its cameras: {there}",
        where=where,
        i=i,
        camera=camera,
        there=_listed(cameras),
    )


def no_depth(where: str, camera: str, i: int, cameras: Iterable[str]) -> EpisodeError:
    """That there is no depth of this camera or row; lists the cameras that have some."""
    return EpisodeError(
        "{where} has no depth {i} of camera '{camera}'; depth is of: {there}",
        where=where,
        i=i,
        camera=camera,
        there=_listed(cameras),
    )


def _listed(cameras: Iterable[str]) -> str:
    return ", ".join(cameras) or Message("(none)")

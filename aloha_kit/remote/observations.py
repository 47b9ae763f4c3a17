"""Observations in messages: what the robot sends, and what the server accepts.

Both sides compare with the policy's contract, before anything is decoded or allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, Feature, Observation
from aloha_kit.core.features import value_of
from aloha_kit.core.inputs import assembled, vector
from aloha_kit.core.jpeg import decode_rgb, encode_jpeg, jpeg_size
from aloha_kit.core.lang import Message
from aloha_kit.remote.messages import Jpeg, quoted, RemoteError

_VECTORS = (np.dtype(np.float32), np.dtype(np.float64))
_OVERHEAD = 16384  # bytes of keys and headers; a JPEG of few pixels is mostly header


def largest_observation(contract: Contract, n_obs_steps: int = 1) -> int:
    """Bytes that a message with `n_obs_steps` observations of `contract` has at most."""
    images = sum(3 * height * width + _OVERHEAD for height, width in contract.cameras.values())
    depth = sum(2 * height * width + _OVERHEAD for height, width in contract.depth_cameras.values())
    return n_obs_steps * (images + depth + 8 * sum(f.shape[0] for f in _vectors(contract)) + _OVERHEAD)


def outgoing(observation: Observation, contract: Contract, quality: int | None) -> dict[str, Any]:
    """Part of an observation that a policy of `contract` reads, images as JPEG where the camera sent them so.

    Args:
        quality: of the JPEGs made of other images, 1 to 100; None sends them as they are.

    Raises:
        ContractError: a vector that the policy needs is missing, or not of its size.
        RemoteError: so is a camera.
    """
    sent = {f.name: vector(value_of(observation, f.name), f, observation) for f in _vectors(contract)}
    jpegs, images = observation.get("images_jpeg", {}), observation.get("images", {})
    encoded: dict[str, Any] = {}
    for name, size in contract.cameras.items():
        if name in jpegs:
            encoded[name] = _of_size(name, Jpeg(jpegs[name]), size)
        elif name in images:
            image = _of_size(name, images[name], size)
            encoded[name] = image if quality is None else _compressed(image, quality)
        else:
            raise RemoteError(
                "camera '{name}' is missing; there are: {there}",
                name=name,
                there=", ".join(images) or Message("(none)"),
            )
    depth = observation.get("images_depth", {})
    exact = {name: _depth_of_size(name, depth, size) for name, size in contract.depth_cameras.items()}
    return {**sent, "images": encoded, **({"images_depth": exact} if exact else {})}


def incoming(values: Any, contract: Contract, n_obs_steps: int = 1, history: Any = ()) -> Observation:
    """The observation in a message with its history, images decoded; what the policy does not read is dropped unread.

    Raises:
        RemoteError: not an observation of `contract`: something is missing, of another type or size, damaged, or not
            finite; names it.
    """
    if not isinstance(history, list | tuple) or len(history) != n_obs_steps - 1:
        given = len(history) if isinstance(history, list | tuple) else type(history).__name__
        raise RemoteError(
            "the policy reads {expected} observations before the present one, given {given}",
            expected=n_obs_steps - 1,
            given=given,
        )
    observation = _incoming(values, contract)
    if history:
        observation["history"] = [_incoming(step, contract) for step in history]
    return observation


def _incoming(values: Any, contract: Contract) -> Observation:
    if not isinstance(values, dict) or not isinstance(values.get("images"), dict):
        raise RemoteError("an observation must be a map with images")
    observation = assembled({feature.name: _vector(values, feature) for feature in _vectors(contract)})
    images = values["images"]
    if missing := [name for name in contract.cameras if name not in images]:
        there = quoted(", ".join(map(str, images))) or Message("(none)")
        raise RemoteError("camera '{missing}' is missing; there are: {there}", missing=missing[0], there=there)
    observation["images"] = {name: _decoded(name, images[name], size) for name, size in contract.cameras.items()}
    if contract.depth_cameras:
        depth = values.get("images_depth")
        depth = depth if isinstance(depth, dict) else {}
        sizes = contract.depth_cameras.items()
        observation["images_depth"] = {name: _depth_of_size(name, depth, size) for name, size in sizes}
    return observation


def require_finite(key: str, values: npt.NDArray[Any], names: tuple[str, ...]) -> None:
    """Refuse NaN and infinite values.

    Args:
        values: (…, N), for N `names`.

    Raises:
        RemoteError: names the first one that is NaN or infinite.
    """
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise RemoteError(
            "{key}[{place}] ({name}) is {value}",
            key=key,
            place=", ".join(map(str, place)),
            name=names[place[-1]],
            value=values[place],
        )


def _vectors(contract: Contract) -> list[Feature]:
    return [feature for feature in contract.inputs if feature.entries]


def _vector(values: dict[str, Any], feature: Feature) -> npt.NDArray[np.float32]:
    given = values.get(feature.name)
    if given is not None and (not isinstance(given, np.ndarray) or given.dtype not in _VECTORS):
        raise RemoteError(
            "{name} must be of float32 or float64, given {given}", name=feature.name, given=_described(given)
        )
    try:
        checked = vector(given, feature, values)
    except ContractError as error:
        raise RemoteError(quoted(error, 400)) from error
    require_finite(feature.name, checked, feature.entries)
    return checked


def _of_size(name: str, image: Any, size: tuple[int, int]) -> Any:
    """`image`, a `Jpeg` or an array; a JPEG's header is read before it is decoded."""
    if isinstance(image, Jpeg):
        try:
            given = jpeg_size(image)
        except ValueError as error:
            raise RemoteError("camera '{name}': {error}", name=name, error=error) from error
        if given != size:
            raise RemoteError(
                "camera '{name}' must be {size} (height, width), given a JPEG of {given}",
                name=name,
                size=size,
                given=given,
            )
    elif not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != (*size, 3):
        raise RemoteError(
            "camera '{name}' must be a JPEG or {size} uint8, given {given}",
            name=name,
            size=(*size, 3),
            given=_described(image),
        )
    return image


def _depth_of_size(camera: str, depth: Mapping[str, Any], size: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """Depth of a camera, sent as it is: uint16 mm."""
    if camera not in depth:
        raise RemoteError(
            "depth of camera '{camera}' is missing; there are: {there}",
            camera=camera,
            there=quoted(", ".join(map(str, depth))) or Message("(none)"),
        )
    values = depth[camera]
    if not isinstance(values, np.ndarray) or values.dtype != np.uint16 or values.shape != size:
        raise RemoteError(
            "depth of camera '{camera}' must be {size} uint16, given {given}",
            camera=camera,
            size=size,
            given=_described(values),
        )
    return values


def _decoded(name: str, image: Any, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    checked = _of_size(name, image, size)
    if not isinstance(checked, Jpeg):
        return np.asarray(checked, np.uint8)
    pixels = decode_rgb(checked)
    if pixels is None or pixels.shape != (*size, 3):
        raise RemoteError(
            "camera '{name}': {count} bytes that are no whole JPEG of {size}", name=name, count=len(checked), size=size
        )
    return pixels


def _compressed(image: npt.NDArray[np.uint8], quality: int) -> Jpeg:
    try:
        return Jpeg(encode_jpeg(image, quality).tobytes())
    except ValueError as error:
        raise RemoteError(str(error)) from None


def _described(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__

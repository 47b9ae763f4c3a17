"""Messages come back as they were sent, and nothing else is read."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import cv2
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aloha_kit.core import Contract
from aloha_kit.remote.messages import incoming, Jpeg, outgoing, pack, RemoteError, unpack

ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(d) for d in ("?", "u1", "<u2", "<i4", "<i8", "<f4", "<f8")]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@settings(max_examples=150, deadline=None)
@given(ARRAYS, st.binary(max_size=50), st.text(max_size=20))
def test_what_is_sent_comes_back(array: Any, jpeg: bytes, words: str) -> None:
    back = unpack(pack({"kind": "x", "array": array, "deep": {"jpeg": Jpeg(jpeg), "list": [words, 1.5, None, True]}}))
    assert back["array"].dtype == array.dtype
    np.testing.assert_array_equal(back["array"], array)
    assert back["array"].flags.writeable
    assert back["deep"] == {"jpeg": Jpeg(jpeg), "list": [words, 1.5, None, True]}
    assert type(back["deep"]["jpeg"]) is Jpeg


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        assert isinstance(unpack(data)["kind"], str)


def extension(code: int, content: Any) -> bytes:
    value = content if isinstance(content, bytes) else msgpack.packb(content)
    return bytes(msgpack.packb({"kind": "x", "a": msgpack.ExtType(code, value)}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("text", "a message must be binary, given text"),
        (b"", "a message of 0 bytes cannot be read"),
        (pickle.dumps({"kind": "hello"}), "cannot be read"),
        (msgpack.packb([1, 2]), "a message must be a map with a kind, given list"),
        (msgpack.packb({"sort": "hello"}), "a message must be a map with a kind, given dict"),
        (extension(9, b""), "a value of unknown type 9"),
        (extension(1, ["<f4", [2, 3], b"1234"]), r"an array of <f4 \(2, 3\) has 24 bytes, given 4 bytes"),
        (extension(1, ["<f4", [2, 3], "x" * 24]), r"has 24 bytes, given str"),
        (extension(1, ["|O", [1], b"12345678"]), r"an array of dtype '\|O'; known: \|b1, \|u1"),
        (extension(1, ["<f4", [-1, -6], bytes(24)]), r"an array of shape \[-1, -6\]; expected up to 4 whole numbers"),
        (extension(1, ["<f4", [True], bytes(4)]), r"an array of shape \[True\]"),
        (extension(1, ["|u1", [1] * 5, bytes(1)]), r"an array of shape \[1, 1, 1, 1, 1\]"),
        (extension(1, ["<f4", [1]]), "an array is dtype, shape and bytes"),
        (extension(1, [["<f4"], [1], bytes(4)]), r"an array of dtype \['<f4'\]"),
    ],
)
def test_messages_that_are_none_are_refused(data: Any, words: str) -> None:
    with pytest.raises(RemoteError, match=words):
        unpack(data)


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(RemoteError, match="an array of object with 1 dimensions cannot be sent"):
        pack({"kind": "x", "a": np.array([None])})
    with pytest.raises(RemoteError, match="a set cannot be sent"):
        pack({"kind": "x", "a": {1}})


CONTRACT = Contract(("left_waist",), ("left_waist",), {"top": (24, 32), "wrist": (24, 32)}, 50.0)
# a gradient, so that JPEG keeps it well
PICTURE = np.stack([np.tile(np.arange(32) * 8, (24, 1)), *np.zeros((2, 24, 32))], axis=2).astype(np.uint8)


def observation(**changes: Any) -> Any:
    images = {"top": PICTURE, "wrist": 255 - PICTURE, "unseen": PICTURE}
    return {"qpos": np.float32([0.5]), "images": images, "stamps": {"qpos": 7}, **changes}


def there_and_back(sent: dict[str, Any]) -> Any:
    return incoming(unpack(pack({"kind": "predict", "observation": sent}))["observation"])


def test_only_what_the_policy_sees_travels() -> None:
    back = there_and_back(outgoing(observation(), CONTRACT, None))
    assert set(back) == {"qpos", "images", "stamps"}
    assert list(back["images"]) == ["top", "wrist"]
    np.testing.assert_array_equal(back["images"]["wrist"], 255 - PICTURE)
    np.testing.assert_array_equal(back["qpos"], np.float32([0.5]))


def test_a_jpeg_that_a_camera_sent_travels_as_it_came() -> None:
    data = cv2.imencode(".jpg", PICTURE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    sent = outgoing(observation(images_jpeg={"top": data}), CONTRACT, None)
    assert sent["images"]["top"] == data
    back = there_and_back(sent)
    red_first = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(back["images"]["top"], red_first)
    assert np.abs(back["images"]["top"].astype(int) - PICTURE).mean() < 6  # red is red
    np.testing.assert_array_equal(back["images"]["wrist"], 255 - PICTURE)


def test_other_pictures_become_jpeg_where_asked_for() -> None:
    sent = outgoing(observation(), CONTRACT, 90)
    assert len(sent["images"]["top"]) < PICTURE.nbytes / 2
    assert np.abs(there_and_back(sent)["images"]["top"].astype(int) - PICTURE).mean() < 6


def test_observations_that_are_none_are_refused() -> None:
    with pytest.raises(RemoteError, match="camera 'wrist' is missing; there are: top"):
        outgoing(observation(images={"top": PICTURE}), CONTRACT, None)
    with pytest.raises(RemoteError, match="camera 'top': 4 bytes that are no JPEG"):
        there_and_back({"images": {"top": Jpeg(b"1234")}})
    with pytest.raises(RemoteError, match="camera 'top': 0 bytes that are no JPEG"):
        there_and_back({"images": {"top": Jpeg(b"")}})
    with pytest.raises(RemoteError, match=r"camera 'top': a picture is a JPEG or \(H, W, 3\) uint8"):
        there_and_back({"images": {"top": np.zeros((2, 2))}})
    with pytest.raises(RemoteError, match="an observation must be a map with images"):
        incoming([1])

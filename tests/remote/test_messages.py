"""Messages come back as they were sent, and nothing else is read."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aloha_kit.remote.messages import Jpeg, pack, quoted, RemoteError, unpack

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
        (extension(1, ["<f4", [2], "x" * 8]), r"has 8 bytes, given str"),
        (extension(1, ["|O", [1], b"12345678"]), r"an array of dtype '\|O'; known: \|b1, \|u1"),
        (extension(1, ["<f4", [-1, -6], bytes(24)]), r"an array of shape \[-1, -6\]; expected up to 4 whole numbers"),
        (extension(1, ["<f4", [True], bytes(4)]), r"an array of shape \[True\]"),
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


def nested(depth: int) -> bytes:
    """`{"kind": [[[…]]]}` as bytes, which msgpack's own packer would refuse to make."""
    return b"\x82\xa4kind\xa1x\xa1a" + b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (nested(9), "a message nested more than 8 deep"),
        (nested(600), "a message of more than 500 maps, lists and arrays"),
        (nested(100_000), "cannot be read"),
        (msgpack.packb({"kind": "x", "a": [[]] * 256}), None),
        (msgpack.packb({"kind": "x", "a": [[[]] * 250] * 3}), "a message of more than 500 maps, lists and arrays"),
        (msgpack.packb({"kind": "x", "a": [0] * 257}), "257 exceeds max_array_len"),
        (msgpack.packb({"kind": "x", "a": {str(i): 0 for i in range(129)}}), "129 exceeds max_map_len"),
        (msgpack.packb({"kind": "x" * 70_000}), "70000 exceeds max_str_len"),
        (msgpack.packb({"kind": "x", "a": bytes(70_000)}), "70000 exceeds max_bin_len"),
        (b"\xdd\xff\xff\xff\xff", "4294967295 exceeds max_array_len"),  # by its header a list of four thousand million
        (b"\xdf\xff\xff\xff\xff", "4294967295 exceeds max_map_len"),
        (b"\xc9\xff\xff\xff\xff\x01", "cannot be read"),
        (extension(1, ["<f4", [1 << 40, 1 << 40], b""]), "bytes, given 0 bytes"),
        (extension(1, [["<f4"] * 4, [1], b""]), "an array of dtype"),
        (extension(1, ["<f4", [1], {"a": 1}]), "1 exceeds max_map_len"),
        (extension(1, ["<f4", [1] * 5, b""]), "5 exceeds max_array_len"),
        (extension(1, ["x" * 200, [1], b""]), "200 exceeds max_str_len"),
        (extension(1, ["<f4", [1], msgpack.ExtType(1, b"")]), "an array of <f4"),
        (msgpack.packb({"kind": "x", "a": msgpack.Timestamp(1)}), "a value of type Timestamp"),
        (b"\x82\xa4kind\xa1x\xa1a\xc7\x03\xff123", "cannot be read"),
    ],
)
def test_messages_that_would_become_large_are_refused(data: bytes, words: str | None) -> None:
    if words is None:
        unpack(data)
        return
    with pytest.raises(RemoteError, match=words) as caught:
        unpack(data)
    assert len(str(caught.value)) < 250


def test_what_a_message_contains_is_repeated_short_and_without_control_characters() -> None:
    assert quoted("top\n\x1b[31m\u202e") == r"top\n\x1b[31m\u202e"
    assert quoted("é世界") == "é世界"
    assert quoted("x" * 100) == "x" * 100
    for words in ("x" * 101, "\n" * 99, "\U0001f600\x00" * 5000):
        assert len(quoted(words)) <= 100
        assert quoted(words).endswith("…")

"""Damaged and hostile episode files, drawn with a seed, and everything that reads episodes tried on each.

`python -m tests.storage.fuzz FOLDER FIRST STOP` makes files FIRST to STOP - 1 and prints what went wrong with which, in
lines of JSON. It runs in a process of its own with little memory, so that a crash or an absurd allocation is seen.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from aloha_kit.core import AlohaKitError
from aloha_kit.data.index import read_table
from aloha_kit.episode import Episode
from aloha_kit.episode.folder_summary import info, moments
from aloha_kit.episode.validate import validate
from aloha_kit.formats import open_source
from aloha_kit.storage import journal
from aloha_kit.storage.export import export
from aloha_kit.storage.hdf5 import damage_reported
from aloha_kit.storage.recovery import recover
from tests.storage import foreign
from tests.storage.recording import feed, record, Rig, writer_for

MEMORY = 1 << 30  # beyond what the imports take
HUGE = 10**12
_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]

Draw = random.Random


def giant_jpeg() -> bytes:
    """A JPEG of 65500x65500 by its header."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def giant_png() -> bytes:
    """A PNG of 65500x65500 by its header, checksum included."""
    data = bytearray(cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    data[16:24] = struct.pack(">II", 65500, 65500)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def giant_webp() -> bytes:
    """A lossless WebP of 16383x16383 by its header."""
    data = bytearray(cv2.imencode(".webp", np.zeros((16, 16, 3), np.uint8), _LOSSLESS)[1].tobytes())
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", (int.from_bytes(data[at : at + 4], "little") & 0xF0000000) | 0xFFFFFFF)
    return bytes(data)


def _names(file: Any, kind: type) -> list[str]:
    found: list[str] = []
    with suppress(Exception):
        file.visititems(lambda name, item: found.append(name) if isinstance(item, kind) else None)
    return sorted(found)


def _replace(file: Any, name: str, draw: Draw) -> None:
    """Another kind of data set, or none, in the place of one."""
    data = file[name]
    shape = data.shape or (3,)
    values = np.asarray(data[()]) if data.size and data.size < 1 << 22 else np.zeros(3)
    del file[name]
    make: list[Callable[[], Any]] = [
        lambda: None,
        lambda: file.create_dataset(name, data=h5py.Empty("f4")),
        lambda: file.create_dataset(name, data=h5py.Empty("u1")),
        lambda: file.create_dataset(name, data=3.0),
        lambda: file.create_dataset(name, data="words"),
        lambda: file.create_dataset(name, data=[b"a", b"bc"] * 20),
        lambda: file.create_dataset(name, shape, h5py.string_dtype()),
        lambda: file.create_dataset(name, (shape[0],), h5py.vlen_dtype(np.uint8)),
        lambda: file.create_dataset(name, shape, h5py.vlen_dtype(np.float32)),
        lambda: file.create_dataset(name, shape, np.dtype([("a", "f4"), ("b", "S3")])),
        lambda: file.create_dataset(name, shape, h5py.ref_dtype),
        lambda: file.create_dataset(name, shape, h5py.enum_dtype({"A": 1})),
        lambda: file.create_dataset(name, shape, np.dtype("V7")),
        lambda: file.create_dataset(name, data=values.astype(np.complex64)),
        lambda: file.create_dataset(name, data=values > 0),
        lambda: file.create_dataset(name, data=values.astype(">f8")),
        lambda: file.create_dataset(name, data=values.astype(np.float16)),
        lambda: file.create_dataset(name, (HUGE, *shape[1:]), "f4", chunks=(1, *shape[1:]), compression="gzip"),
        lambda: file.create_dataset(name, (HUGE, *shape[1:]), "u1", chunks=(1, *shape[1:])),
        lambda: file.create_dataset(name, (shape[0], HUGE), "f4", chunks=(1, 1 << 20)),
        lambda: file.create_dataset(name, (shape[0], HUGE), "u1", chunks=(1, 1 << 20)),
        lambda: file.create_dataset(name, (shape[0], 60000, 60000, 3), "u1", chunks=(1, 4000, 4000, 3)),
        lambda: file.create_dataset(name, (shape[0], 1 << 29), "u1", chunks=(1, 1 << 29), compression="gzip"),
        lambda: file.create_dataset(name, (0, *shape[1:]), values.dtype),
        lambda: file.create_dataset(name, (*shape[:-1], 0), values.dtype),
        lambda: file.create_dataset(name, data=values[: draw.randrange(len(values) or 1)] if values.ndim else 1),
        lambda: file.create_dataset(name, data=values.reshape(-1)),
        lambda: file.create_dataset(name, data=values[..., None, None]),
        lambda: file.create_dataset(name, data=np.full(shape, draw.choice([np.nan, np.inf, -1e38, 3e38]), "f4")),
        lambda: file.create_group(name),
        lambda: file.create_group(f"{name}/inner"),
        lambda: file.__setitem__(name, h5py.SoftLink("/nowhere")),
        lambda: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
        lambda: file.__setitem__(name, file["/"]),
        lambda: file.__setitem__(name, h5py.SoftLink(draw.choice(_names(file, h5py.Dataset) or ["/"]))),
        lambda: file.__setitem__(name, np.dtype("f4")),
    ]
    draw.choice(make)()


_ATTRIBUTES = ("schema", "contract", "describe", "rate_hz", "success", "sim", "compress", "camera_names", "jpeg_order",
               "error", "reason", "layout", "id", "instruction", "task", "created", "jpeg_quality")  # fmt: skip


def _attribute(file: Any, draw: Draw) -> None:
    """An attribute of another type, or with other text."""
    name = draw.choice(_ATTRIBUTES)
    kept = file.attrs.get(name)
    with suppress(Exception):
        if name in ("contract", "describe") and kept is not None and draw.random() < 0.6:
            text = kept.decode() if isinstance(kept, bytes) else str(kept)
            words = ["NaN", "Infinity", "{}", "[]", "null", '"x"', "-1", "1e999", "9" * 5000, "[" * 3000, "true"]
            keys = list(json.loads(text))
            changed = json.loads(text)
            changed[draw.choice(keys)] = "@"
            file.attrs[name] = np.bytes_(json.dumps(changed).replace('"@"', draw.choice(words)).encode())
            return
    values: list[Any] = [
        np.arange(5), np.array([], "f4"), b"\xff\xfe\x80", "x" * 60_000, h5py.Empty("f4"), np.float64("nan"), np.inf,
        -1, 0, 2**63, np.array([["a", "b"]], "S1"), ["left", "right"], np.array(["cam_high"], "S9"), file.ref, True,
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), np.void(b"abc"), np.complex64(1j), b"\0", "", "\n\n", "{}",
        "[]", "null", "NaN", "1e999", "standard", "aloha_kit/1", "aloha_kit/9", "mobile_aloha", "cobot_magic",
    ]  # fmt: skip
    with suppress(Exception):
        file.attrs[name] = draw.choice(values)


def _image(file: Any, draw: Draw) -> None:
    """A row of encoded images that lies about itself."""
    rows = [
        name for name in _names(file, h5py.Dataset) if name.startswith("observations/images") and file[name].ndim == 2
    ]
    if not rows:
        return
    data = file[draw.choice(rows)]
    coded = draw.choice(
        [giant_jpeg(), giant_png(), giant_webp(), b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", draw.randbytes(90)]
    )
    row = np.zeros(data.shape[1], np.uint8)
    held = coded[: len(row)]
    row[: len(held)] = np.frombuffer(held, np.uint8)
    data[draw.randrange(len(data)) if draw.random() < 0.5 else 0] = row


def _structure(file: Any, draw: Draw) -> None:
    kinds = draw.choice(["replace", "replace", "replace", "attribute", "attribute", "image", "deep", "cycle", "many"])
    names = _names(file, h5py.Dataset)
    if kinds == "replace" and names:
        _replace(file, draw.choice(names), draw)
    elif kinds == "attribute":
        _attribute(file, draw)
    elif kinds == "image":
        _image(file, draw)
    elif kinds == "deep":
        place = draw.choice(["stamps", "observations/images", "deep"])
        file.create_group("/".join([place, *["g"] * 900]))
    elif kinds == "cycle":
        place = draw.choice(["stamps/again", "observations/again", "observations/images/again", "again"])
        file[place] = file[draw.choice(["/", "observations"])]
    elif kinds == "many":
        for i in range(300):
            file.create_dataset(f"{draw.choice(['stamps', 'observations/images'])}/x{i}", data=np.zeros(3))


def make_episode(path: Path, number: int) -> None:
    """Episode file `number`: one of five recorders', damaged."""
    draw = Draw(number)
    foreign.STEPS = 6
    rig = Rig(depth=number % 3 == 0, base=number % 7 == 0)
    maker = draw.choice(["ours", "ours", "aloha", "act_sim", "mobile_aloha", "cobot_magic"])
    if maker == "ours":
        record(path.parent, 6, rig, index=number)
    else:
        getattr(foreign, maker)(path, rig)
    kind = draw.choice(["structure", "structure", "structure", "flip", "truncate", "zeros"])
    if kind == "structure":
        with h5py.File(path, "r+") as file:
            for _ in range(draw.randint(1, 3)):
                with suppress(ValueError, KeyError, TypeError, RuntimeError, OSError, AttributeError):
                    _structure(file, draw)
        return
    _bytes(path, draw, kind)


def _bytes(path: Path, draw: Draw, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "truncate":
        del data[draw.choice([0, 1, 8, 100, 512, len(data) // 2, len(data) - 1, draw.randrange(len(data))]) :]
    else:
        for _ in range(draw.choice([1, 3, 20])):
            # more often where HDF5 keeps its structure
            at = draw.randrange(min(len(data), 8192) if draw.random() < 0.7 else len(data))
            size = draw.choice([1, 2, 8]) if kind == "flip" else 64
            data[at : at + size] = draw.randbytes(size) if kind == "flip" else bytes(size)
    path.write_bytes(data)


def make_journal(path: Path, number: int) -> None:
    """A journal whose bytes, records or JSON are damaged; checksums fit where records are."""
    draw, rig = Draw(number), Rig(depth=number % 2 == 0)
    writer = writer_for(path.parent / "out", rig)
    feed(writer, rig, 5)
    while writer.written < 5:
        time.sleep(0.001)
    shutil.copy(writer.path.with_name(writer.path.name + ".partial"), path)
    writer.discard()
    if draw.random() < 0.4:
        _bytes(path, draw, draw.choice(["flip", "truncate", "zeros"]))
        return
    data = path.read_bytes()
    records, at = [], len(journal.PREAMBLE)
    while at < len(data):
        kind, _, length, _ = struct.unpack_from("<4sIII", data, at)
        records.append((kind, data[at + 16 : at + 16 + length]))
        at += 16 + length
    words = [
        "NaN",
        "1e999",
        "{}",
        "[]",
        "null",
        '"x"',
        "-1",
        "0",
        "1000000000000",
        "9" * 5000,
        "[" * 3000,
        "3.5",
        "[[1]]",
    ]
    for _ in range(draw.randint(1, 3)):
        i = draw.choice([0, 0, 0, draw.randrange(len(records))])
        kind, payload = records[i]
        if kind == b"AKRs":
            records[i] = (
                kind,
                draw.choice([b"", payload[: len(payload) // 2], payload + bytes(9), draw.randbytes(len(payload))]),
            )
            continue
        with suppress(ValueError, IndexError):
            values = json.loads(payload)
            inner = draw.choice([values, values.get("layout", values), values.get("contract", values)])
            key = draw.choice(list(inner))
            if draw.random() < 0.2:
                del inner[key]
            else:
                inner[key] = "@"
            records[i] = (kind, json.dumps(values).replace('"@"', draw.choice(words)).encode())
    preamble = draw.choice([journal.PREAMBLE] * 9 + [b"aloha_kit jrnl7\n"])
    parts = [preamble]
    for i, (kind, payload) in enumerate(records):
        crc = zlib.crc32(payload, zlib.crc32(struct.pack("<4sIII", kind, i, len(payload), 0)))
        parts += [struct.pack("<4sIII", kind, i, len(payload), crc), payload]
    path.write_bytes(b"".join(parts))


def _readers(path: Path, out: Path) -> dict[str, Callable[[], Any]]:
    def everything() -> None:
        with Episode.open(path) as episode:
            _ = episode.attrs, episode.notes, episode.stamps, episode.reward, episode.contract, repr(episode)
            for camera in episode.cameras[:4]:
                _ = episode.image_size(camera), episode.image(camera, 0), episode.encoded(camera, 0)
            for camera in episode.depth_cameras[:2]:
                episode.depth(camera, 0)

    def opened(work: Callable[[Episode], Any]) -> Any:
        with damage_reported(path), Episode.open(path) as episode:
            return work(episode)

    if path.name.endswith(".partial"):
        return {"validate": lambda: validate(path), "recover": lambda: recover(path)}
    return {
        "validate": lambda: validate(path),
        "deep": lambda: validate(path, deep=True),
        "info": lambda: json.dumps(opened(info)),
        "stats": lambda: opened(moments),
        "read": everything,
        "train": lambda: read_table(open_source(path)),
        "export": lambda: export(path, out),
        "export raw": lambda: export(path, out, raw=True, classic=True, stop=3),
        "export mobile": lambda: export(path, out, mobile_aloha=True, start=1),
    }


def attempt(path: Path, out: Path) -> list[str]:
    """Read a file in every way; what did not end in a result or in one line."""
    wrong = []
    for name, read in _readers(path, out).items():
        printed: list[str] = []
        try:
            found = read()
            printed = [getattr(found, "message", ""), *(finding.found for finding in getattr(found, "findings", ()))]
        except AlohaKitError as error:
            printed = [str(error)]
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = next((f for f in reversed(frames) if "aloha_kit" in f.filename), frames[-1])
            what = f"{type(error).__name__}: {str(error)[:150]}"
            wrong.append(f"{name}: {what} ({Path(place.filename).name}:{place.lineno})")
        wrong += [
            f"{name}: {len(text)} characters: {text!r}"[:300] for text in printed if "\n" in text or len(text) > 3000
        ]
        for file in out.glob("*"):
            if not file.name.endswith(".hdf5"):
                wrong.append(f"{name}: left {file.name}")
            file.unlink()
    return wrong


def main() -> None:
    folder, first, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    (folder / "out").mkdir(exist_ok=True)
    for number in range(first, stop):
        suffix, make = (".hdf5.partial", make_journal) if number % 5 == 4 else (".hdf5", make_episode)
        path = folder / f"episode_{number}{suffix}"
        make(path, number)
        print(f"at {number}", file=sys.stderr, flush=True)
        for line in attempt(path, folder / "out"):
            print(json.dumps([number, line]), flush=True)
        for file in folder.glob(f"episode_{number}.*"):
            file.unlink()


if __name__ == "__main__":
    main()

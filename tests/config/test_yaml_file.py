"""An error in a YAML file is one message with the line; a file cannot cost memory or time."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from pathlib import Path

import pytest

from aloha_kit.config import load, TaskConfig
from aloha_kit.config.yaml_file import parse
from aloha_kit.core import ConfigError

TASK = "name: 抓取\ninstruction: 拿起 红色 方块\nrig: aloha\ncameras: [cam_high]\nepisode_len: 60\n"
BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "任务 1.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content", [TASK.encode(), b"\xef\xbb\xbf" + TASK.encode(), TASK.replace("\n", "\r\n").encode()]
)
def test_utf_8_with_or_without_a_mark_and_with_either_line_end(content: bytes, tmp_path: Path) -> None:
    task = load(TaskConfig, "tasks", file(tmp_path, content))
    assert (task.name, task.cameras, task.episode_len) == ("抓取", ("cam_high",), 60)


def test_anchors_and_merged_keys_are_yaml_as_usual(tmp_path: Path) -> None:
    merged = "a: &a {k: 1, n: 0}\nb: &b {<<: *a, k: 2}\nc: {<<: *b, k: 3}\nd: [*a, *a]\n"
    found = parse(file(tmp_path, merged))
    assert found["c"] == {"k": 3, "n": 0}
    assert found["d"] == [{"k": 1, "n": 0}] * 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TASK.encode("gbk"), "line 2: not UTF-8 but probably GBK; save the file as UTF-8"),
        (TASK.encode("utf-16"), " is UTF-16; save it as UTF-8"),
        (TASK.encode("utf-16-le"), " is UTF-16 or no text; save it as UTF-8"),
        (TASK.encode("utf-32"), " is UTF-32; save it as UTF-8"),
        (b"name: a\nnote: caf\xe9 x", "line 2: not UTF-8; save the file as UTF-8"),
        (TASK + "rig: cobot\n", "line 6: the key 'rig' is given twice, first in line 3"),
        ("a:\n  b: {x: 1, y: 2, x: 3}", "line 2: the key 'x' is given twice, first in line 2"),
        (TASK.replace("rig", "\trig"), "line 3: indented with a tab, and YAML takes spaces only"),
        ("[" * 500_000, "line 1: nested deeper than 32 levels"),
        ("".join("  " * i + f"k{i}:\n" for i in range(200)), "line 32: nested deeper than 32 levels"),
        (BILLION_LAUGHS, "line 6: aliases that stand for more than 100000 values"),
        ("a: &a [1, *a]", "line 1: an alias of what it stands in"),
        ("a: 1\nn: " + "9" * 100_000, "line 2: an integer beyond 63 bits: 99999999999999999999…"),
        ("n: !!int ''", "a value does not fit its tag"),
        ("n: !!bool maybe", "a value does not fit its tag"),
        ("n: !!timestamp x", "a value does not fit its tag"),
        ("n: 0x" + "f" * 500_000, "line 1: an integer beyond 63 bits: 0xffffffffffffffffff…"),
        ("n: " + ":".join(["59"] * 50_000), "line 1: an integer beyond 63 bits: 59:59:59:59:59:59:59…"),
        ("lr: .nan", "line 1: .nan is no number"),
        ("a: " + "x" * 2_000_000, " has 2.0 MB, a configuration at most 1 MB"),
        ("a: [1", "not YAML: line 1: while parsing a flow sequence"),
        ("a: 2024-13-45", "not YAML: month must be in 1..12"),
        ("a: \x01", "not YAML: unacceptable character #x0001"),
        ("!!python/object/apply:os.system [ls]", "not YAML: line 1: could not determine a constructor"),
        ("- 1", " must hold keys and values, given: list"),
        ("name: " + "x" * 500_000 + "\nrigg: 3", "unknown key 'rigg'. Did you mean 'rig'?"),
        ("x" * 900 + ": 3", "unknown key 'xxxxx"),
        (TASK.replace("[cam_high]", "c" * 900), "cameras must be a list, e.g. [cccc"),
    ],
)
def test_what_is_wrong_is_reported_in_one_short_line(content: str | bytes, expected: str, tmp_path: Path) -> None:
    path = file(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        load(TaskConfig, "tasks", path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert expected in text
    assert "\n" not in text
    assert len(text) < 700 + len(str(path))


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"a.yaml cannot be read: Is a directory"):
        parse(tmp_path / "a.yaml")


def test_mutated_files_end_in_a_message_and_little_memory(tmp_path: Path) -> None:
    pieces = rb"&a |*a|[|{|}|- |\t|\n|: |? |!!int |!!map |'|%YAML 9.9|---|<<: |\xff|\xef\xbb\xbf|1e999|\0|#|~|.inf"
    texts = [piece.decode("unicode_escape").encode("latin-1") for piece in (*pieces.split(b"|"), b"9" * 5000)]
    draw = random.Random(9)
    tracemalloc.start()
    for _ in range(300):
        data = bytearray(TASK.encode())
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            data[at : at + draw.choice((0, 0, 1, 5))] = draw.choice(texts)
        with contextlib.suppress(ConfigError):
            load(TaskConfig, "tasks", file(tmp_path, bytes(data)))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()

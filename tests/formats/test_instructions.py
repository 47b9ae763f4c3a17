"""The instruction of each episode: through every format and back, and from the fields in which others store it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import h5py
import pyarrow.parquet as pq
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.storage.label import label
from tests.formats import robomimic_file
from tests.storage.foreign import Rig, robotwin
from tests.synthetic import write_dataset

TEXTS = ("Pick up the red cube.", "把红色方块交给左臂。", "Pick up the red cube.")


def ours(folder: Path) -> Path:
    """Three episodes of these instructions."""
    write_dataset(folder, (6, 7, 5))
    for number, text in enumerate(TEXTS):
        label(folder / f"episode_{number}.hdf5", instruction=text)
    return folder


def instructions(place: Path, options: ReadOptions = ReadOptions()) -> tuple[str, ...]:  # noqa: B008 - frozen
    source = open_source(place, options=options)
    found = []
    for number in range(len(source)):
        with closing(source.episode(number)) as episode:
            found.append(str(episode.attrs.get("instruction") or ""))
    return tuple(found)


@pytest.mark.parametrize(
    "kind", ["act", "mobile_aloha", "lerobot", "lerobot_v21", "robomimic", "mcap", "zarr", "mp4", "rlds", "shards"]
)
def test_a_format_keeps_the_instruction_of_each_episode(kind: str, tmp_path: Path) -> None:
    convert([str(ours(tmp_path / "ours")), str(tmp_path / "out"), "--format", kind])
    out = tmp_path / "out" / ("image.hdf5" if kind == "robomimic" else "")
    convert([str(out), str(tmp_path / "back"), "--format", "hdf5"])
    assert instructions(tmp_path / "back") == TEXTS


@pytest.mark.parametrize("kind", ["lerobot", "lerobot_v21"])
def test_tasks_of_a_lerobot_data_set_of_others(kind: str, tmp_path: Path) -> None:
    """By the entry of the episode, and where that lists none by the number of the task in its rows."""
    out = tmp_path / "out"
    convert([str(ours(tmp_path / "ours")), str(out), "--format", kind])
    for file in out.glob("meta/aloha_kit*"):
        file.unlink()
    options = ReadOptions(given_contract(None, "sim"))
    assert instructions(out, options) == TEXTS
    if kind == "lerobot":
        (file,) = out.glob("meta/episodes/*/*.parquet")
        table = pq.read_table(file)
        pq.write_table(table.drop_columns(["tasks"]), file)
        tasks = pq.read_table(out / "meta/tasks.parquet")
        names = ["__index_level_0__" if name == "task" else name for name in tasks.column_names]
        pq.write_table(tasks.rename_columns(names), out / "meta/tasks.parquet")  # as pandas names it
    else:
        file = out / "meta/episodes.jsonl"
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**entry, "tasks": []}) + "\n" for entry in entries))
    assert instructions(out, options) == TEXTS


def test_robocasa_and_libero(tmp_path: Path) -> None:
    file = tmp_path / "demo.hdf5"
    robomimic_file.write(file)
    assert instructions(file) == ("", "", "")
    with h5py.File(file, "r+") as data:
        data["data"].attrs["problem_info"] = json.dumps({"language_instruction": '"open the drawer"'})
        data["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "close the door"})
        data["data/demo_2"].attrs["ep_meta"] = "no JSON"
    assert instructions(file) == ("open the drawer", "close the door", "open the drawer")


def test_robotwin(tmp_path: Path) -> None:
    for folder in ("data", "instructions"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        robotwin(tmp_path / f"data/episode{number}.hdf5", Rig())
    listed = {"seen": ["grab the bottle", "take it"], "unseen": ["lift the bottle"]}
    (tmp_path / "instructions/episode0.json").write_text(json.dumps(listed))
    assert instructions(tmp_path / "data") == ("grab the bottle", "")

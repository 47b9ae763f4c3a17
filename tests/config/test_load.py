"""Configurations are found by name or path, typed, and wrong ones are answered with the right ones."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from aloha_kit.config import find, from_mapping, load, names, RigConfig, TaskConfig, to_mapping
from aloha_kit.core import ConfigError


@pytest.mark.parametrize("name", names("tasks"))
def test_every_shipped_task_loads_and_its_cameras_exist_on_its_rig(name: str) -> None:
    task = load(TaskConfig, "tasks", name)
    rig = load(RigConfig, "rigs", task.rig)
    assert task.name == name
    assert set(task.cameras) <= set(rig.cameras)


def test_a_path_works_like_a_name_and_overrides_replace_keys(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{name: mine, instruction: x, image_size: [96, 128], rate_hz: 30}")
    task = load(TaskConfig, "tasks", file, episode_len=7)
    assert (task.image_size, task.rate_hz, task.episode_len) == ((96, 128), 30.0, 7)


def test_round_trip_through_yaml() -> None:
    task = load(TaskConfig, "tasks", "sim_transfer_cube", image_size=(96, 128))
    again = from_mapping(TaskConfig, yaml.safe_load(yaml.safe_dump(to_mapping(task))))
    assert again == task


def test_the_environment_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "sim_transfer_cube.yaml").write_text("{name: ours, instruction: y}")
    monkeypatch.setenv("ALOHA_KIT_CONFIGS", str(tmp_path))
    assert find("tasks", "sim_transfer_cube").parent == folder


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'sim_transfer_cub' in tasks\. Did you mean"):
        find("tasks", "sim_transfer_cub")
    for path in ("nofile.yaml", "folder/nofile"):
        with pytest.raises(ConfigError, match=rf"^no file '{path}'\. Known: .*sim_insertion"):
            find("tasks", path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "instruction": "", "epsode_len": 3}, "unknown key 'epsode_len'. Did you mean 'episode_len'"),
        ({"name": "x"}, "instruction"),
        ({"name": "x", "instruction": "", "episode_len": "long"}, "episode_len"),
        ({"name": "x", "instruction": "", "episode_len": 0}, "at least 1, given 0"),
        ({"name": "x", "instruction": "", "rate_hz": -1}, "must be positive, given -1"),
        ({"name": "x", "instruction": "", "cameras": "top"}, "cameras must be a list, e.g. [top]; given 'top'"),
        ({"name": "x", "instruction": "", "cameras": None}, "cameras must be a list; given None"),
        ({"name": "x", "instruction": "", "cameras": ["top", "top"]}, "can be named once, given top, top"),
        ({"name": "x", "instruction": "", "depth_cameras": ["top", "top"]}, "names a camera twice: top, top"),
        ({"name": "x", "instruction": "", "depth_cameras": ["side"]}, "'side', which is none of the cameras: top"),
        ({"name": "x", "instruction": "", "image_size": [96]}, "image_size must be a list of 2 values; given [96]"),
    ],
)
def test_bad_values_name_the_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(TaskConfig, values, where="task.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("task.yaml")


def test_nested_keys_are_checked_too() -> None:
    values = {"name": "r", "kind": "sim", "cameras": {"top": {"hight": 3}}}
    with pytest.raises(ConfigError, match=r"cameras: top: unknown key 'hight'\. Did you mean 'height'"):
        from_mapping(RigConfig, values)


def test_broken_yaml_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not YAML"):
        load(TaskConfig, "tasks", file)
    file.write_text("- 1")
    with pytest.raises(ConfigError, match="must hold keys and values, given: list"):
        load(TaskConfig, "tasks", file)


@dataclass(frozen=True)
class Inner:
    size: int = 1
    steps: int = field(default=2, metadata={"aliases": ("horizon", "length")})


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)


def test_an_older_name_of_a_key_is_accepted_alone() -> None:
    for name in ("steps", "horizon", "length"):
        assert from_mapping(Outer, {"inner": {name: 5, "size": 3}}) == Outer(Inner(size=3, steps=5))
    with pytest.raises(ConfigError, match=r"^x\.yaml: inner: horizon and steps are the same key; give one of them$"):
        from_mapping(Outer, {"inner": {"steps": 5, "horizon": 5}}, where="x.yaml")
    with pytest.raises(ConfigError, match=r"inner: unknown key 'stpes'\. Did you mean 'steps'"):
        from_mapping(Outer, {"inner": {"stpes": 5}})

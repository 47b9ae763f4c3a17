"""Errors that help: the nearest known word and the list of what exists."""

import pickle

import pytest

from aloha_kit.core import did_you_mean, EpisodeError, lang
from aloha_kit.core.errors import reason, shown
from aloha_kit.core.features import flatten


def test_nearest_names_the_close_word_and_all_others() -> None:
    assert did_you_mean("chunk_sise", ["lr", "chunk_size"]) == "Did you mean 'chunk_size'? Known: chunk_size, lr."


def test_nearest_does_not_guess_wildly() -> None:
    assert did_you_mean("zzz", ["lr"]) == "Known: lr."
    assert did_you_mean("zzz", []) == "Known: (none)."


@pytest.mark.parametrize("value", [did_you_mean, object(), [print, object()], {"policy": lambda: 0}, iter([])])
def test_no_message_has_a_memory_address(value: object) -> None:
    for text in (shown(value), reason(TypeError(f"cannot use {value!r}"))):
        assert "0x" not in text
    assert shown(did_you_mean) == "<function did_you_mean>"


def test_flatten_uses_episode_paths() -> None:
    flat = flatten({"qpos": 1, "images": {"top": 2, "wrist": 3}})  # type: ignore[typeddict-item]
    assert flat == {"qpos": 1, "images/top": 2, "images/wrist": 3}


def test_an_error_takes_a_template_and_its_fields() -> None:
    cause = EpisodeError("no folder '{path}'", path="demos")
    error = EpisodeError("{path}: {error}", path="a.hdf5", error=cause)
    assert str(error) == "a.hdf5: no folder 'demos'"
    assert str(EpisodeError("{as} it is")) == "{as} it is"
    with lang.language("zh"):
        assert lang.shown(error) == "a.hdf5：没有文件夹 'demos'"
        assert lang.shown(pickle.loads(pickle.dumps(error))) == "a.hdf5：没有文件夹 'demos'"

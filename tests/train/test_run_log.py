"""logs/log.txt of real runs, compared with what the terminal got."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aloha_kit.train.__main__ import main
from aloha_kit.train.loop import Trainer
from tests.commands import failure


def test_the_log_is_what_the_terminal_showed_and_goes_on(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(flags)
    results, logged = capsys.readouterr()
    text = (tmp_path / "run" / "logs" / "log.txt").read_text()
    first, *lines = text.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d python -m aloha_kit.train --policy \S+tiny.yaml .*", first)
    assert sorted(lines) == sorted([*results.splitlines(), *logged.splitlines()])
    assert text.index("2 episodes to train on") < text.index("Preflight: GO") < text.index("20 steps in")
    # resuming appends; a refused resumption too
    main(["--resume", str(tmp_path / "run"), "--num_steps", "22"])
    refused = failure(main, ["--resume", str(tmp_path / "run")])
    after = (tmp_path / "run" / "logs" / "log.txt").read_text()
    assert after.startswith(text)
    assert re.search(r"^\d{4}-\S+ \S+ python -m aloha_kit.train --resume \S+ --num_steps 22$", after, re.MULTILINE)
    assert after.splitlines()[-1] == refused.strip()
    # a new run in the same folder is none, and its refusal is not in the log
    with pytest.raises(SystemExit, match="is not empty"):
        main(flags)
    assert (tmp_path / "run" / "logs" / "log.txt").read_text() == after


def test_a_crash_is_in_the_log(tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(trainer: Trainer) -> None:
        raise RuntimeError("the disk came loose")

    monkeypatch.setattr(Trainer, "fit", crash)
    with pytest.raises(RuntimeError):
        main([*flags, "--no_preflight"])
    lines = (tmp_path / "run" / "logs" / "log.txt").read_text().splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "RuntimeError: the disk came loose"

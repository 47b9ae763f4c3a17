"""The table of results in train/README.md, written from train/results/TASK_PRESET.json.

python -m aloha_kit.reproduce.readme     # renew the table
"""

from __future__ import annotations

import sys
from pathlib import Path

from aloha_kit.config import to_mapping
from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.files import make_folder, write_json
from aloha_kit.reproduce.keep import read
from aloha_kit.reproduce.preset import load_preset
from aloha_kit.reproduce.result import fresh, PUBLISHED, Result
from aloha_kit.reproduce.surroundings import CHECKOUT
from aloha_kit.reproduce.table import overview

PRESETS = ("paper", "fast", "cpu")
BEGIN, END = "<!-- reproduction: written by aloha_kit.reproduce -->", "<!-- reproduction: end -->"


def require_published(preset: str, train: Path = CHECKOUT / "train") -> None:
    """Say before hours of work what would be in the way of `publish` after them.

    Raises:
        ConfigError: the table has no rows of this preset, or there is no README with such a table.
    """
    if preset not in PRESETS:
        raise ConfigError(f"the README's table is of the presets {', '.join(PRESETS)}; leave --update_readme out")
    _parts(train / "README.md")


def publish(result: Result, train: Path = CHECKOUT / "train") -> str:
    """Keep a result in `train`/results and renew the table of its README; returns what was done, in words.

    Raises:
        ConfigError: there is no README with such a table (the package does not run from a checkout).
    """
    _parts(train / "README.md")
    file = make_folder(train / "results") / f"{result.task}_{result.preset}.json"
    write_json(file, to_mapping(result))
    renew(train)
    return f"kept as {file}, and {train / 'README.md'} renewed"


def renew(train: Path = CHECKOUT / "train") -> None:
    """Write the table anew.

    Raises:
        ConfigError: no README with such a table, or a damaged result.
    """
    before, after = _parts(train / "README.md")
    text = f"{before}{BEGIN}\n{table(train / 'results')}\n{END}{after}"
    (train / "README.md").write_text(text, encoding="utf-8")


def table(results: Path) -> str:
    """A row for each task and preset; what has no file in `results` is marked as not run.

    Raises:
        ConfigError: a damaged result.
    """
    rows = []
    for task in PUBLISHED:
        for preset in PRESETS:
            file = results / f"{task}_{preset}.json"
            rows.append(read(file) if file.exists() else fresh(task, preset, load_preset(preset, task)))
    return overview(rows)


def _parts(readme: Path) -> tuple[str, str]:
    """What stands before and after the table."""
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"no table to renew outside a checkout: '{readme}': {error.strerror}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"no table to renew: '{readme}' lacks the lines {BEGIN} and {END}")
    return before, after


def main() -> None:
    """Renew the table of this checkout."""
    try:
        renew()
    except AlohaKitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

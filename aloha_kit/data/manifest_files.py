"""What a manifest says of the files of its folder, for transfers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aloha_kit.core import ConfigError
from aloha_kit.data.store_records import FileRecord, latest_manifest
from aloha_kit.formats.manifest import Manifest
from aloha_kit.stores import Store


def known_files(file: Path) -> dict[str, FileRecord]:
    """Records of the files that a manifest has a SHA-256 of, by path; none without a manifest."""
    if not file.is_file():
        return {}
    columns = ("location", "bytes", "mtime_ns", "sha256")
    rows = [tuple(row.values()) for row in Manifest.read(file).rows(*columns)]
    return {path: FileRecord(path, size, changed, sha256) for path, size, changed, sha256 in rows if sha256}


def unwanted(store: Store, where: str) -> set[str]:
    """Files of a store's episodes for which an expression does not hold, see `Manifest.where`.

    Raises:
        ConfigError: the store has no manifest, or the expression is wrong.
    """
    content = latest_manifest(store)
    if content is None:
        raise ConfigError(
            "--where needs a manifest, and {url} has none: push manifest.parquet with the data", url=store.url
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest.parquet"
        file.write_bytes(content)
        whole = Manifest.read(file)
        wanted = {row["location"] for row in whole.where(where).rows("location")}
        own = {row["location"] for row in whole.rows("location", "bytes") if row["bytes"] is not None}
        return own - wanted

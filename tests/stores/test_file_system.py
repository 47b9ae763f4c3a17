"""Drivers of fsspec that cannot append or cannot be reached: local files behind a driver with that fault."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from aloha_kit.stores import open_store, Store, StoreError

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.local import LocalFileSystem  # noqa: E402

CONTENT = b"0123456789" * 300_000
PART = f".x.{hashlib.sha256(CONTENT).hexdigest()[:8]}.part"


class Faulty(LocalFileSystem):
    """`error` comes where a file is opened to append to; with None it is written anew, as FTP's driver does."""

    protocol = "faulty"
    error: type[Exception] | None = None
    unreachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(str(path).replace("faulty://", "file://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "ab" and self.error is not None:
            raise self.error("append")
        return super()._open(path, mode.replace("a", "w"), **options)

    def info(self, path: str, **options: Any) -> Any:
        if self.unreachable:
            raise OSError("no route")
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        if path.endswith("secret"):
            raise PermissionError("not yours")
        return super().ls(path, detail, **options)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with five bytes of an interrupted transfer."""
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / PART).write_bytes(CONTENT[:5])
    (tmp_path / "x").write_bytes(CONTENT)
    monkeypatch.setattr(Faulty, "error", None)
    monkeypatch.setattr(Faulty, "unreachable", False)
    return open_store(f"faulty://{tmp_path}/share")


# of WebDAV's driver, of Arrow's S3, and of those that check the mode themselves
@pytest.mark.parametrize("error", [AssertionError, NotImplementedError, ValueError])
def test_a_driver_that_refuses_to_append_begins_again(
    error: type[Exception], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "error", error)
    sent: list[int] = []
    store.upload(tmp_path / "x", "x", hashlib.sha256(CONTENT).hexdigest(), sent.append)
    assert (sent[0], sum(sent)) == (0, len(CONTENT))
    assert {file.name: file.read_bytes() for file in (tmp_path / "share").iterdir()} == {"x": CONTENT}


def test_a_driver_that_overwrites_in_place_of_appending_gives_no_file(store: Store, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(OSError, match=f"'x' has {len(CONTENT) - 5} bytes after {len(CONTENT)} were sent"):
        store.upload(tmp_path / "x", "x", digest)
    assert list((tmp_path / "share").iterdir()) == []
    store.upload(tmp_path / "x", "x", digest)  # as the next attempt does
    assert (tmp_path / "share/x").read_bytes() == CONTENT


def test_another_error_keeps_the_part(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "error", ConnectionError)
    with pytest.raises(ConnectionError, match="append"):
        store.upload(tmp_path / "x", "x", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "share" / PART).read_bytes() == CONTENT[:5]


def test_a_store_that_cannot_be_listed_is_not_an_empty_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(store.files("none")) == []
    (tmp_path / "share/secret").mkdir()
    with pytest.raises(StoreError, match=r"cannot list faulty://.*/share: not yours"):
        list(store.files("secret"))
    monkeypatch.setattr(Faulty, "unreachable", True)
    with pytest.raises(StoreError, match=r"cannot list faulty://.*/share: no route"):
        list(store.files())

"""Downloads of published data sets: resumed where they were cut, and verified."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import make_folder, part_of, put, sha256_of, write_json
from aloha_kit.data.published import PublishedDataset, PublishedFile
from aloha_kit.stores.resume import resume

_LOG = logging.getLogger(__name__)

RECORD = "fetched.json"
"""Beside the files of a data set: address, size and SHA-256 of each."""
_TIMEOUT_S = 30.0
_BLOCK = 1 << 18


class FetchError(AlohaKitError):
    """A file that could not be downloaded, or is not what was published."""


def fetch(dataset: PublishedDataset, folder: Path, mirror: str = "", *, wait_s: float = 1.0) -> Path:
    """Download the files of a data set that are not there, and verify all; returns what `--dataset_dir` takes.

    Args:
        mirror: scheme and host in place of the published ones, such as https://my.mirror.
        wait_s: before another attempt; grows while nothing comes.

    Raises:
        FetchError: no connection (with where to put the file by hand), no such file, or another content.
        ConfigError: the folder cannot be written.
    """
    make_folder(folder)
    record = _record(folder)
    place = folder / dataset.place
    if dataset.files[0].unpack and place.exists():
        return place
    for file in dataset.files:
        path = folder / file.path
        expected = file.sha256 or record.get(file.path, {}).get("sha256")
        if not path.is_file():
            try:
                _download(mirrored(file.address, mirror), path, file.size, wait_s)
            except OSError as error:
                raise ConfigError(
                    "'{path}' cannot be written: {reason}", path=path, reason=error.strerror or error
                ) from error
        found = _verify(path, file, expected)
        if expected is None:
            _LOG.warning("the SHA-256 of %s is not published; that of this download is recorded", file.path)
        record[file.path] = {"address": file.address, "bytes": path.stat().st_size, "sha256": found}
        write_json(folder / RECORD, record)
        if file.unpack:
            _unpack(path, folder)
    if not place.exists():
        raise FetchError("{folder} was downloaded and does not hold '{place}'", folder=folder, place=dataset.place)
    return place


def mirrored(address: str, mirror: str) -> str:
    """An address with a mirror's scheme and host.

    Raises:
        ConfigError: the mirror is no address.
    """
    if not mirror:
        return address
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError("a mirror is an address such as https://my.mirror, given '{mirror}'", mirror=mirror)
    return mirror.rstrip("/") + urlsplit(address).path


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _verify(path: Path, file: PublishedFile, sha256: str | None) -> str:
    """SHA-256 of a file; raises `FetchError` where it is not what was published, or what was downloaded before."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise FetchError(
            "{path} has {size} bytes, published are {published}; remove it and run the command again",
            path=path,
            size=size,
            published=file.size,
        )
    found = sha256_of(path)
    if sha256 is not None and found != sha256:
        raise FetchError(
            "{path} has SHA-256 {found}, expected {sha256}: damaged or changed; remove it and run the command again",
            path=path,
            found=found,
            sha256=sha256,
        )
    return found


def _download(address: str, path: Path, size: int | None, wait_s: float) -> None:
    """Download a file, going on where an attempt before was cut."""
    make_folder(path.parent)
    part = part_of(path)
    with tqdm(desc=path.name, unit="B", unit_scale=True, total=size, disable=None) as bar:

        def attempt() -> str:
            have = part.stat().st_size if part.exists() else 0
            try:
                return "" if _receive(address, part, have, bar) else "the connection was cut"
            except (urllib.error.HTTPError, urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
                return _why(error, address, path)
            except TimeoutError:
                return f"no answer within {_TIMEOUT_S:.0f} s"

        if why := resume(attempt, part, wait_s=wait_s):
            raise FetchError(_by_hand(address, path, why))
    put(part, path)


def _receive(address: str, part: Path, have: int, bar: tqdm[Any]) -> bool:
    """Append what one connection brings; whether the file is complete."""
    headers = {"User-Agent": "aloha_kit", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        total = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and total == str(have):
            return True
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # of another file
            return False
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total_bytes = None if length is None else have + int(length)
        bar.total, bar.n = total_bytes, have
        with part.open("ab" if resumed else "wb") as out:
            try:
                while block := answer.read(_BLOCK):
                    out.write(block)
                    bar.update(len(block))
            except http.client.IncompleteRead as error:
                out.write(error.partial)
        return total_bytes is None or part.stat().st_size == total_bytes


def _why(error: Exception, address: str, path: Path) -> str:
    """The reason of a failed attempt.

    Raises:
        FetchError: another attempt would fail in the same way.
    """
    if isinstance(error, urllib.error.HTTPError):
        why = f"{error.code} {error.reason}"
        if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
            raise FetchError(_by_hand(address, path, why)) from error
        return why
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return reason(inner) if isinstance(inner, BaseException) else str(inner)


def _by_hand(address: str, path: Path, why: str) -> str:
    return (
        f"cannot download {address}: {why}. Give another host with --mirror, or put the file at '{path}' by hand and "
        "run the command again: it is verified, and what was downloaded so far is kept"
    )


def _unpack(archive: Path, folder: Path) -> None:
    """Extract a ZIP archive, whole or not at all, and remove it.

    Raises:
        FetchError: it is damaged, or would write outside of the folder.
    """
    staged = folder / ".unpacked"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            outside = [name for name in content.namelist() if name.startswith("/") or ".." in Path(name).parts]
            if outside:
                raise FetchError(
                    "{archive} would write outside of its folder: {outside}", archive=archive, outside=outside[0]
                )
            content.extractall(staged)
    except (zipfile.BadZipFile, EOFError) as error:
        raise FetchError(
            "{archive} is no ZIP archive or damaged: {error}; remove it and try again",
            archive=archive,
            error=reason(error),
        ) from error
    for entry in sorted(staged.iterdir()):
        if not (folder / entry.name).exists():
            os.rename(entry, folder / entry.name)
    shutil.rmtree(staged)
    archive.unlink()

"""Object stores (S3 and compatible ones, Google Cloud Storage, Azure) through obstore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from aloha_kit.core import ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.core.lang import Message
from aloha_kit.stores.store import Progress, Store, StoredFile, StoreError

_WHOLE = 16 << 20  # bytes up to which a file is sent in one request, which the store refuses if the object exists
_PART = 8 << 20
_PARTS = 9_000  # S3 allows 10,000
_AT_ONCE = 2  # parts of one file; with the transfer's threads this bounds memory
_BLOCK = 1 << 18
_CREDENTIALS = {
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, a file",
    "s3": (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store that is not Amazon's, AWS_ENDPOINT_URL"
    ),
}
"""{scheme: where credentials come from}."""


class ObjectStore(Store):
    """Objects below a prefix of a bucket. An object appears whole; one that exists is not replaced.

    Files of up to 16 MiB are sent in one request that the store refuses where the object exists. Larger ones are sent
    in parts, and whether the object exists is checked before.
    """

    def __init__(self, url: str) -> None:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigError("{url} needs obstore: pip install obstore, or 'aloha_kit[stores]'", url=url) from error
        self.url = url
        try:
            self._store: Any = from_url(
                url,
                client_options={
                    "timeout": timedelta(seconds=60),
                    "connect_timeout": timedelta(seconds=10),
                    "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                },
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(self._failure("open", error)) from error

    def files(self, below: str = "") -> Iterator[StoredFile]:
        import obstore
        from obstore.exceptions import BaseError

        try:
            for page in obstore.list(self._store, prefix=below or None):
                for entry in page:
                    yield StoredFile(entry["path"], entry["size"])
        except (BaseError, OSError) as error:
            raise StoreError(self._failure("list", error)) from error

    def size(self, path: str) -> int | None:
        import obstore

        try:
            return int(obstore.head(self._store, path)["size"])
        except FileNotFoundError:
            return None

    def _read(self, path: str, start: int, stop: int) -> bytes:
        import obstore

        return bytes(obstore.get_range(self._store, path, start=start, end=stop))

    def upload(self, file: Path, path: str, sha256: str, progress: Progress = lambda count: None) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        size = file.stat().st_size
        if size > _WHOLE:
            if self.size(path) is not None:
                raise FileExistsError(Message("{url}: '{path}' exists", url=self.url, path=path))
            part = max(_PART, -(-size // _PARTS))
            obstore.put(self._store, path, _blocks(file, progress), chunk_size=part, max_concurrency=_AT_ONCE)
            return
        try:
            obstore.put(self._store, path, file.read_bytes(), mode="create", use_multipart=False)
        except AlreadyExistsError as error:
            raise FileExistsError(Message("{url}: '{path}' exists", url=self.url, path=path)) from error
        progress(size)

    def _failure(self, what: str, error: Exception) -> str:
        """Text of an error: the first line of obstore's, which the internals of its libraries follow."""
        why = reason(Exception(str(error).partition("\n")[0]))
        credentials = _CREDENTIALS[self.url.partition("://")[0]]
        return f"cannot {what} {self.url}: {why}; credentials come from the environment: {credentials}"


def _blocks(file: Path, progress: Progress) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
            progress(len(block))

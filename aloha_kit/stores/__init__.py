"""Stores of files on other machines: S3-compatible object stores, and what fsspec opens (SFTP, shared folders, OSS)."""

from aloha_kit.stores.store import open_store, Store, StoredFile, StoreError, STORES

__all__ = ["STORES", "Store", "StoreError", "StoredFile", "open_store"]

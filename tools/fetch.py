"""A tar behind a URL, brought here whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from shards.format.publish import publish_file, temporary_path

if TYPE_CHECKING:
    from shards.store import Store

PART_BYTES = 16 << 20


def fetch_tar(url: str, scratch: Path) -> Path:
    """Bring a tar here, by webdataset's opener or, from an object store, by the store; one that is here is not fetched.

    Raises:
        MissingDataError: it cannot be had.
        ShardError: the store refuses it.
    """
    from shards.store import open_store
    from shards.store.urls import is_object_store
    from tools.chat_tars import fetch

    if not is_object_store(url):
        return fetch(url, scratch)
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    folder, _, name = url.rpartition("/")
    path = scratch / f"{digest}-{name}"
    if not path.is_file():
        scratch.mkdir(parents=True, exist_ok=True)
        _download(open_store(folder), name, path)
    return path


def _download(store: Store, name: str, path: Path) -> None:
    """Read an object in parts into a file, which appears when it is whole."""
    size, temporary = store.size(name), temporary_path(path)
    try:
        with temporary.open("xb") as file:
            for start in range(0, size, PART_BYTES):
                (data,) = store.get_ranges(name, [start], [min(start + PART_BYTES, size)])
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

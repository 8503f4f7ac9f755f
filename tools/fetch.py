"""A tar behind a URL, brought here whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from shards.format.publish import publish_file, temporary_path

if TYPE_CHECKING:
    from shards.store import Store


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
    from shards.index_store import fetch

    temporary = temporary_path(path)
    try:
        fetch(store, name, store.size(name), temporary)
        publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""Where data sets live: local folders, object stores (S3, GCS, Azure) and plain HTTP servers, behind one protocol."""

from __future__ import annotations

import os
from pathlib import Path

from shards.store.base import Store
from shards.store.local import LocalStore
from shards.store.urls import url_of

__all__ = ["LocalStore", "Store", "open_store", "url_of"]


def open_store(place: str | os.PathLike[str]) -> Store:
    """The store at a URL, or the local folder at a path; nothing is asked of it yet.

    Args:
        place: a path, or `s3://BUCKET/SET`, `gs://...`, `az://...`, `https://HOST/SET`. A URL that was made a `Path` is
            one, too. Credentials, endpoint and region come from the environment, as for the vendors' own tools.

    Raises:
        ValueError: obstore is not installed, or the URL or a variable of the environment makes no sense.
    """
    url = url_of(place)
    if url is None:
        return LocalStore(Path(place))
    from shards.store.remote import RemoteStore

    return RemoteStore(url)

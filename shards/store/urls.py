"""URLs, told from paths."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

OBJECT_STORES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
HTTP = ("http", "https")
_URL = re.compile(rf"({'|'.join((*OBJECT_STORES, *HTTP))}):/+(.*)", re.DOTALL)


def url_of(place: str | os.PathLike[str]) -> str | None:
    """The URL of a store, without a slash at its end; None for a path.

    As a `Path`, `s3://BUCKET/SET` has become `s3:/BUCKET/SET`: that is understood, unless there is such a folder here.
    """
    text = os.fspath(place)
    found = _URL.fullmatch(text)
    if found is None or ("://" not in text and Path(text).exists()):
        return None
    return f"{found[1]}://{found[2].rstrip('/')}"


def is_object_store(url: str) -> bool:
    """Tell an object store from a plain HTTP server."""
    return url.partition("://")[0] in OBJECT_STORES


def without_secrets(url: str) -> str:
    """A URL for messages and records: what may be a password or a signature is left out."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))

"""Object stores and plain HTTP servers, through obstore. Needs the extra `s3`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.files import MAX_SMALL_BYTES
from shards.store.base import checked_name
from shards.store.failures import (
    is_beyond_end,
    is_final,
    is_of_metadata_service,
    is_unanswered,
    is_unreachable,
    reason_of,
)
from shards.store.local import refuse_short
from shards.store.urls import is_object_store, without_secrets

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART_BYTES = 64 << 20
ATTEMPTS = 5
_CLIENT = {"timeout": "10m", "connect_timeout": "20s", "allow_http": True}  # stores on one's own network speak HTTP
_RETRY = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=3), "base": 2},
    "retry_timeout": timedelta(seconds=60),
}
_PATIENT = {"client_options": _CLIENT, "retry_config": _RETRY}
# A metadata service is in the machine's own rack, and answers within milliseconds or is not there.
_IMPATIENT = {
    "client_options": _CLIENT | {"timeout": "2s"},
    "retry_config": _RETRY | {"max_retries": 2, "retry_timeout": timedelta(seconds=6)},
}
P = ParamSpec("P")
T = TypeVar("T")


class RemoteStore:
    """A folder in a bucket, or below a URL. A request that fails is repeated, with growing pauses."""

    def __init__(self, url: str) -> None:
        """Take the URL.

        Raises:
            ValueError: obstore is not installed, or the URL or a variable of the environment makes no sense.
        """
        self._url, self._reached = url, False
        self.inner = _open(url)

    @property
    def url(self) -> str:
        """The URL, without secrets."""
        return without_secrets(self._url)

    def get(self, name: str) -> bytes:
        """Read an object."""
        with self._saying(name, "read"):
            return self._again(self._get, checked_name(name))

    def _get(self, name: str) -> bytes:
        found = self.inner.get(name)
        if found.meta["size"] > MAX_SMALL_BYTES:
            raise ShardError(f"{self.url}/{name} has {found.meta['size']} bytes, too many to be read at once")
        return bytes(found.bytes())

    def get_ranges(self, name: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        """Read parts of an object."""
        with self._saying(name, "read"):
            found = self._again(self._get_ranges, checked_name(name), starts, stops)
        for data, start, stop in zip(found, starts, stops, strict=True):
            refuse_short(data, name, start, stop)
        return found

    def _get_ranges(self, name: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        from obstore.exceptions import BaseError

        try:
            if len(starts) == 1:
                found = [self.inner.get_range(name, start=starts[0], end=stops[0])]
            else:
                found = self.inner.get_ranges(name, starts=list(starts), ends=list(stops), coalesce=0)
        except BaseError as error:
            if not is_beyond_end(error):
                raise
            problem = f"it ends before byte {max(stops)}: it was cut off"
            raise DamagedShardError(problem, shard=name, offset=max(starts)) from error
        return cast("list[bytes]", found)  # obstore's own bytes: the same to every reader of buffers, and not copied

    def size(self, name: str) -> int:
        """Ask for an object's size."""
        with self._saying(name, "looked at"):
            return int(self._again(self.inner.head, checked_name(name))["size"])

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """List a folder, wholly before the first name is given."""
        self._refuse_http("listed")
        with self._saying(prefix, "listed"):
            yield from self._again(self._list, checked_name(prefix) if prefix else None)

    def _list(self, prefix: str | None) -> Sequence[tuple[str, int]]:
        return [(str(entry["path"]), int(entry["size"])) for page in self.inner.list(prefix) for entry in page]

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self._refuse_http("written")
        with self._saying(name, "written"):
            self._again(self.inner.put, checked_name(name), data)

    def put_file(self, path: Path, name: str) -> None:
        """Upload a file, in parts if it is large, until what has arrived is what was sent."""
        self._refuse_http("written")
        size, expected = path.stat().st_size, _etag(path)
        with self._saying(name, "written"):
            for _ in range(ATTEMPTS):
                multipart = size > PART_BYTES
                self._again(self.inner.put, checked_name(name), path, use_multipart=multipart, chunk_size=PART_BYTES)
                found = self._again(self.inner.head, name)
                etag = (found["e_tag"] or "").strip('"')
                if found["size"] == size and (etag == expected or self._md5(name) == _md5(path)):
                    return
        raise ShardError(
            f"{name} arrived wrong in {self.url} {ATTEMPTS} times ({found['size']} bytes of {size}): look at the "
            "network, then run the same command again"
        )

    def delete(self, name: str) -> None:
        """Remove an object."""
        self._refuse_http("deleted")
        with self._saying(name, "deleted"), contextlib.suppress(FileNotFoundError):
            self._again(self.inner.delete, checked_name(name))

    def _refuse_http(self, done: str) -> None:
        if not is_object_store(self._url):
            raise ShardError(
                f"{self.url} is a plain HTTP server, where nothing can be {done}: give the URL of an object store, or "
                f"name the files that you want, such as {self.url}/{{00000..00099}}.tar"
            )

    def _md5(self, name: str) -> bytes:
        """Read an object back, for stores whose entity tags are not made of MD5s."""
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self.inner.get(name).stream(min_chunk_size=PART_BYTES):
            digest.update(chunk)
        return digest.digest()

    @contextlib.contextmanager
    def _saying(self, name: str, done: str) -> Iterator[None]:
        """Say in one line what the store could not do."""
        from obstore.exceptions import BaseError, NotFoundError

        what = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise MissingDataError(f"{what} is not there: {reason_of(error, self._url)}") from error
        except (BaseError, OSError) as error:
            raise ShardError(f"{what} cannot be {done}: {reason_of(error, self._url)}") from error

    def _again(self, request: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Repeat a request that failed. Each of ours may be; obstore by itself does not repeat those that are a POST.

        A store that never answered is not waited for, nor is a metadata service that has no credentials.
        """
        from obstore.exceptions import BaseError

        if not self._reached:
            self._refuse_silent_metadata_service()
        for attempt in range(ATTEMPTS):
            try:
                result = request(*args, **kwargs)
            except BaseError as error:
                gone = is_unreachable(error) or is_of_metadata_service(error)
                if is_final(error) or (gone and not self._reached):
                    raise
                time.sleep(0.1 * 4**attempt)
            else:
                self._reached = True
                return result
        return request(*args, **kwargs)

    def _refuse_silent_metadata_service(self) -> None:
        """Sign something by S3's credentials, which takes a moment or shows that nobody has any.

        Where none are set, obstore asks the machine's metadata service, as patiently as it fetches samples.
        """
        import obstore
        from obstore.exceptions import BaseError

        if not self._url.startswith("s3"):
            return
        try:
            store: Any = _open(self._url, _IMPATIENT)
            obstore.sign(store, "GET", "credentials", timedelta(minutes=1))
        except BaseError as error:  # what has another cause, the request itself meets
            if is_of_metadata_service(error) and is_unanswered(error):
                raise


def _open(url: str, options: Mapping[str, Any] = _PATIENT) -> ObjectStore:
    if not urlsplit(url).netloc:
        raise ValueError(f"{url} names no bucket or server; give it as in s3://BUCKET/SET")
    if importlib.util.find_spec("obstore") is None:
        raise ValueError(f"{without_secrets(url)} needs obstore: pip install 'reelshard[s3]'")
    from obstore.exceptions import BaseError
    from obstore.store import HTTPStore, from_url

    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT") if url.startswith("s3") else ():
        endpoint = urlsplit(os.environ.get(name, "http://unset"))
        if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
            raise ValueError(f"{name} is {os.environ[name]!r}; it has to be a URL such as https://storage.example.com")
    try:
        store: Any = from_url(url, **options) if is_object_store(url) else HTTPStore.from_url(url, **options)
    except (BaseError, ValueError) as error:
        raise ValueError(f"{without_secrets(url)} cannot be opened: {reason_of(error, url)}") from None
    return cast("ObjectStore", store)


def _etag(path: Path) -> str:
    """Return the entity tag that S3 computes: the MD5, or the MD5 of the parts' MD5s and their number."""
    parts = []
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            parts.append(hashlib.md5(part, usedforsecurity=False))
    if path.stat().st_size <= PART_BYTES:
        return (parts[0] if parts else hashlib.md5(usedforsecurity=False)).hexdigest()
    whole = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(parts)}"


def _md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").digest()

"""A data set in object storage (S3, GCS, Azure), built on local scratch. Needs the extra `s3`.

Each shard is uploaded whole or not at all, compared by size and digest, and its sidecar follows last, which marks it as
done. What is in the bucket decides what is finished: the scratch folder may be lost at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import xxhash

from shards.builder.journal import WORK_FOLDER, ShardReport, uploaded_path
from shards.builder.lock import build_lock
from shards.format.beside import PLAN_NAME
from shards.format.errors import ShardError
from shards.format.index import index_path
from shards.format.manifest import MANIFEST_NAME
from shards.format.publish import publish_bytes

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
PART_BYTES = 64 << 20
_ATTEMPTS = 4
P = ParamSpec("P")
T = TypeVar("T")
_STALE = ("*.tar", "*.idx", "*.tmp", "*.json", "*.jsonl", "*.npy", "*.yaml")


def is_remote(out: str) -> bool:
    """Tell a URL of object storage from a path."""
    return urlsplit(out).scheme in SCHEMES


@dataclass(frozen=True)
class RemoteFolder:
    """Where the data set goes, and the scratch folder in which it is made.

    Credentials and endpoints come from the environment, as for the vendors' own tools (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, AWS_REGION, GOOGLE_APPLICATION_CREDENTIALS, ...).

    Raises:
        ValueError: obstore is not installed.
    """

    url: str
    scratch: Path

    def __post_init__(self) -> None:
        if importlib.util.find_spec("obstore") is None:
            raise ValueError(f"{self.url} needs obstore: pip install 'reelshard[s3]'")

    def pull(self) -> None:
        """Make the scratch folder show what the bucket holds: the plan, sidecars and failures, but no tars.

        Raises:
            ShardError: the bucket cannot be read, or another process builds in the scratch folder.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        with build_lock(self.scratch), _errors(f"{self.url} cannot be read"):
            for pattern in _STALE:
                for path in self.scratch.glob(pattern):
                    path.unlink()
            shutil.rmtree(self.scratch / WORK_FOLDER)
            (self.scratch / WORK_FOLDER).mkdir()
            store = self._store()
            for name, size in _again(_list, store):
                if "/" in (last := name.removeprefix(f"{WORK_FOLDER}/")) or last in (".", ".."):
                    continue  # not ours
                if name.endswith(".tar"):
                    publish_bytes(uploaded_path(self.scratch / name), json.dumps(size).encode())
                else:
                    publish_bytes(self.scratch / name, _again(_read, store, name))

    def push_shard(self, report: ShardReport) -> None:
        """Upload a finished shard, then its failures, then its sidecar; the local tar makes room for the next one.

        Raises:
            ShardError: the object did not arrive as it was sent.
        """
        tar = self.scratch / report.info.name
        sidecar = index_path(tar)
        with _errors(f"{tar.name} cannot be uploaded to {self.url}"):
            store = self._store()
            if (withdrawn := self.scratch / WORK_FOLDER / MANIFEST_NAME).exists():  # it knows of further field groups
                _again(store.put, f"{WORK_FOLDER}/{MANIFEST_NAME}", withdrawn)
            for name in (MANIFEST_NAME, sidecar.name):  # neither may describe a tar that is about to change
                _delete(store, name)
            self._push_verified(store, tar, report.info.digest)
            for path in self.scratch.glob(f"{WORK_FOLDER}/{tar.name}.failures.jsonl"):
                _again(store.put, f"{WORK_FOLDER}/{path.name}", path)
            _again(store.put, PLAN_NAME, self.scratch / PLAN_NAME)
            _again(store.put, sidecar.name, sidecar)
        publish_bytes(uploaded_path(tar), json.dumps(report.info.num_bytes).encode())
        tar.unlink()

    def push_manifest(self) -> None:
        """Upload what lies beside the shards, the manifest last, and clear the working files."""
        with _errors(f"{self.url} cannot be finished"):
            store = self._store()
            last = [self.scratch / name for name in (PLAN_NAME, MANIFEST_NAME)]
            files = {path for path in self.scratch.iterdir() if path.is_file() and path.suffix not in (".tar", ".idx")}
            for path in (*sorted(files.difference(last)), *(path for path in last if path.exists())):
                _again(store.put, path.name, path)
            if not last[-1].exists():  # a partition: others are still at work
                return
            for name, _ in _again(_list, store, WORK_FOLDER):
                _delete(store, name)

    def _push_verified(self, store: ObjectStore, path: Path, digest: str) -> None:
        size = path.stat().st_size
        expected = _etag(path)
        for _ in range(_ATTEMPTS):
            _again(store.put, path.name, path, use_multipart=size > PART_BYTES, chunk_size=PART_BYTES)
            found = _again(store.head, path.name)
            etag = (found["e_tag"] or "").strip('"')
            if found["size"] == size and (etag == expected or _digest(store, path.name) == digest):
                return
        raise ShardError(
            f"{path.name} arrived wrong in {self.url} {_ATTEMPTS} times ({found['size']} bytes of {size}); it has no "
            "sidecar there and does not count. Look at the network, then run the same command again"
        )

    def _store(self) -> ObjectStore:
        from obstore.store import from_url

        # Plain HTTP is allowed because a store on one's own network often speaks nothing else.
        store: Any = from_url(self.url, client_options={"timeout": "10m", "connect_timeout": "20s", "allow_http": True})
        return cast("ObjectStore", store)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Say in one line what obstore could not do."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        reason = " ".join(str(error).split())[:300]
        raise ShardError(f"{what}: {reason}. What is uploaded is kept: run the same command again to go on") from error


def _delete(store: ObjectStore, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _again(store.delete, name)


def _read(store: ObjectStore, name: str) -> bytes:
    return bytes(store.get(name).bytes())


def _list(store: ObjectStore, prefix: str | None = None) -> list[tuple[str, int]]:
    return [(str(entry["path"]), int(entry["size"])) for page in store.list(prefix) for entry in page]


def _again(request: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Repeat a request that failed. Each of ours may be; obstore by itself does not repeat those that are a POST."""
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

    for attempt in range(_ATTEMPTS):
        try:
            return request(*args, **kwargs)
        except (NotFoundError, PermissionDeniedError, UnauthenticatedError):
            raise
        except BaseError:
            time.sleep(0.1 * 4**attempt)
    return request(*args, **kwargs)


def _etag(path: Path) -> str:
    """Return the entity tag that S3 computes: the MD5, or the MD5 of the parts' MD5s and their number."""
    parts = []
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            parts.append(hashlib.md5(part, usedforsecurity=False))
    if len(parts) == 1:
        return parts[0].hexdigest()
    whole = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(parts)}"


def _digest(store: ObjectStore, name: str) -> str:
    """Read an object back, for stores whose entity tags are not made of MD5s."""
    digest = xxhash.xxh3_128()
    for chunk in store.get(name).stream(min_chunk_size=PART_BYTES):
        digest.update(chunk)
    return digest.hexdigest()

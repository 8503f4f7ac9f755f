"""A data set in object storage (S3, GCS, Azure), built on local scratch. Needs the extra `s3`.

Each shard is uploaded whole or not at all, compared by size and digest, and its sidecar follows last, which marks it as
done. What is in the bucket decides what is finished: the scratch folder may be lost at any time.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shards.builder.journal import WORK_FOLDER, ShardReport, uploaded_path
from shards.builder.lock import build_lock
from shards.format.beside import PLAN_NAME
from shards.format.errors import ShardError
from shards.format.index import index_path
from shards.format.manifest import MANIFEST_NAME
from shards.format.publish import publish_bytes
from shards.store import Store, open_store, url_of
from shards.store.urls import is_object_store

_STALE = ("*.tar", "*.idx", "*.tmp", "*.json", "*.jsonl", "*.npy", "*.yaml")


def is_remote(out: str) -> bool:
    """Tell a URL of object storage from a path."""
    url = url_of(out)
    return url is not None and is_object_store(url)


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
        self._store  # noqa: B018  (refuses before anything is built)

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
            for name, size in self._store.list():
                if "/" in (last := name.removeprefix(f"{WORK_FOLDER}/")) or last in (".", ".."):
                    continue  # not ours
                if name.endswith(".tar"):
                    publish_bytes(uploaded_path(self.scratch / name), json.dumps(size).encode())
                else:
                    publish_bytes(self.scratch / name, self._store.get(name))

    def push_shard(self, report: ShardReport) -> None:
        """Upload a finished shard, then its failures, then its sidecar; the local tar makes room for the next one.

        Raises:
            ShardError: the object did not arrive as it was sent.
        """
        tar = self.scratch / report.info.name
        sidecar = index_path(tar)
        with _errors(f"{tar.name} cannot be uploaded to {self.url}"):
            if (withdrawn := self.scratch / WORK_FOLDER / MANIFEST_NAME).exists():  # it knows of further field groups
                self._store.put_file(withdrawn, f"{WORK_FOLDER}/{MANIFEST_NAME}")
            for name in (MANIFEST_NAME, sidecar.name):  # neither may describe a tar that is about to change
                self._store.delete(name)
            self._store.put_file(tar, report.info.name)
            for path in self.scratch.glob(f"{WORK_FOLDER}/{tar.name}.failures.jsonl"):
                self._store.put_file(path, f"{WORK_FOLDER}/{path.name}")
            self._store.put_file(self.scratch / PLAN_NAME, PLAN_NAME)
            self._store.put_file(sidecar, sidecar.name)
        publish_bytes(uploaded_path(tar), json.dumps(report.info.num_bytes).encode())
        tar.unlink()

    def push_manifest(self) -> None:
        """Upload what lies beside the shards, the manifest last, and clear the working files."""
        with _errors(f"{self.url} cannot be finished"):
            last = [self.scratch / name for name in (PLAN_NAME, MANIFEST_NAME)]
            files = {path for path in self.scratch.iterdir() if path.is_file() and path.suffix not in (".tar", ".idx")}
            for path in (*sorted(files.difference(last)), *(path for path in last if path.exists())):
                self._store.put_file(path, path.name)
            if not last[-1].exists():  # a partition: others are still at work
                return
            for name, _ in self._store.list(WORK_FOLDER):
                self._store.delete(name)

    @cached_property
    def _store(self) -> Store:
        return open_store(self.url)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Say in one line what the store could not do, and what becomes of the build."""
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{what}: {error}. What is uploaded is kept: run the same command again to go on") from error

"""Copies of data sets, from any store to any: every tar is compared with its digest on the way."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import xxhash

from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.index import ShardIndex, ShardInfo, index_path
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.progress import Progress, untold
from shards.store.base import Store
from shards.store.contents import names_beside, read_manifest
from shards.store.local import LocalStore
from shards.threads import thread_pool

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        num_shards: tars of the data set, all series together.
        num_present: of these, those that were there already.
        num_bytes: of the tars that were copied.
        digest: of the data set.
    """

    num_shards: int
    num_present: int
    num_bytes: int
    digest: str


def copy_dataset(
    source: Store,
    target: Store,
    *,
    scratch: Path | None = None,
    threads: int = 4,
    progress: Progress = untold,
) -> Copied:
    """Copy a data set with all its field groups and what lies beside it; the manifest comes last.

    A tar counts as there when its sidecar is: that follows the tar, whose digest was compared. So a copy that was
    stopped is gone on with, by any process.

    Args:
        source: where it is.
        target: where it goes, empty or with the beginnings of the same data set.
        scratch: folder for tars on their way between two stores elsewhere; None takes the system's.
        threads: tars at the same time.
        progress: called with bytes that are done.

    Raises:
        MissingDataError: there is no data set, or a part of it is missing.
        DamagedShardError: a tar is not what the manifest says.
        ShardError: the target holds another data set, or a store cannot be reached.
    """
    manifest = read_manifest(source)
    _refuse_other(target, manifest)
    infos = [info for group in ("", *manifest.groups) for info in manifest.series(group)]
    present, lock = 0, threading.Lock()

    def advance(num_bytes: int) -> None:
        with lock:
            progress(num_bytes)

    with thread_pool(threads) as pool:
        futures = {pool.submit(_copy_shard, source, target, info, scratch, advance): info for info in infos}
        for future in as_completed(futures):
            if future.result():
                present += 1
                futures.pop(future)
    for name in names_beside(source, manifest):
        with contextlib.suppress(MissingDataError):
            target.put(name, source.get(name))
    target.put(MANIFEST_NAME, source.get(MANIFEST_NAME))
    copied = sum(info.num_bytes for info in futures.values())
    return Copied(len(infos), present, copied, manifest.digest)


def _refuse_other(target: Store, manifest: Manifest) -> None:
    """Refuse to write over another data set.

    Raises:
        ShardError: there is one.
    """
    found = None
    with contextlib.suppress(MissingDataError):
        found = Manifest.parse(target.get(MANIFEST_NAME), f"{target.url}/{MANIFEST_NAME}")
    if found is not None and found.digest != manifest.digest:
        raise ShardError(
            f"{target.url} holds another data set already (digest {found.digest[:12]}, that of the source is "
            f"{manifest.digest[:12]}): give another place, or remove it first"
        )


def _copy_shard(
    source: Store, target: Store, info: ShardInfo, scratch: Path | None, progress: Callable[[int], None]
) -> bool:
    """Copy a tar and then its sidecar; returns whether both were there."""
    name = index_path(Path(info.name)).name
    sidecar = source.get(name)
    if ShardIndex.decode(sidecar, name).info != info:
        raise DamagedShardError("it is not the sidecar that the manifest expects; restore it", shard=name)
    with contextlib.suppress(MissingDataError):
        if target.get(name) == sidecar and target.size(info.name) == info.num_bytes:
            progress(info.num_bytes)
            return True
    target.delete(name)  # it may not describe a tar that is about to change
    with _on_this_machine(source, info, scratch, progress) as path:
        target.put_file(path, info.name)
    target.put(name, sidecar)
    return False


@contextlib.contextmanager
def _on_this_machine(
    source: Store, info: ShardInfo, scratch: Path | None, progress: Callable[[int], None]
) -> Iterator[Path]:
    """A tar as a file whose digest is right.

    Raises:
        DamagedShardError: it has another one.
    """
    if isinstance(source, LocalStore):
        _compare(info, _parts(source, info, progress))
        yield source.root / info.name
        return
    with tempfile.TemporaryDirectory(prefix="reelshard-copy-", dir=scratch) as folder:
        path = Path(folder, info.name)
        with path.open("wb") as file:
            _compare(info, _written(file.write, _parts(source, info, progress)))
        yield path


def _parts(source: Store, info: ShardInfo, progress: Callable[[int], None]) -> Iterator[bytes]:
    if (size := source.size(info.name)) != info.num_bytes:
        problem = f"it has {size} bytes, the manifest says {info.num_bytes}; restore it, or build it again"
        raise DamagedShardError(problem, shard=info.name)
    for first in range(0, size, PARTS_AT_ONCE * PART_BYTES):
        starts = list(range(first, min(first + PARTS_AT_ONCE * PART_BYTES, size), PART_BYTES))
        for part in source.get_ranges(info.name, starts, [min(start + PART_BYTES, size) for start in starts]):
            progress(len(part))
            yield part


def _written(write: Callable[[bytes], int], parts: Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        write(part)
        yield part


def _compare(info: ShardInfo, parts: Iterator[bytes]) -> None:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    if digest.hexdigest() != info.digest:
        raise DamagedShardError(
            "its bytes are not those that the manifest names (their digest is another); `reelshard verify` says where, "
            "restore it or build it again",
            shard=info.name,
        )

"""The tars that are open: how many at a time, and whether each is the one that its sidecar describes."""

from __future__ import annotations

import logging
import resource
import threading
from pathlib import Path

import xxhash

from pipeline.read.gather import COMPILED, NO_LIBRARY
from pipeline.read.readers import DescriptorShard, DirectShard, Identity, MappedShard, OpenShard, ReaderName, Scratch
from shards.format.errors import DamagedShardError
from shards.format.index import ShardIndex

log = logging.getLogger(__name__)

MAX_OPEN_FILES = 4096
DESCRIPTORS_PER_FILE = 2  # a mapping keeps one of its own


class ShardFiles:
    """Open shards of one reader, at most so many at a time; those opened first are closed first."""

    def __init__(self, reader: ReaderName, identities: dict[Path, Identity], *, cached: bool = False) -> None:
        """Raise this process's limit of open files as far as it may be, and stay well below it.

        Args:
            reader: how to read.
            identities: what each file was when it was opened first, filled here: opened again, it must be the same.
            cached: whether they are of the cache, which compares what it writes into them with their sidecars.
        """
        self.reader, self._cached = reader, cached
        self._identities = identities
        self._scratch = Scratch()
        self._open: dict[Path, OpenShard] = {}
        self._lock = threading.RLock()  # a signal's handler may close what its own thread is closing
        wanted = (DESCRIPTORS_PER_FILE + 1) * MAX_OPEN_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        most = MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft // (DESCRIPTORS_PER_FILE + 1)
        self.limit = min(MAX_OPEN_FILES, most)
        self._kind = _kind(reader)

    def get(self, path: Path, index: ShardIndex) -> OpenShard:
        """The shard at `path`, opened and compared with its sidecar if it is not open.

        Raises:
            DamagedShardError: it is another file than `index` describes, or than it was.
            MissingDataError: it is not there.
        """
        shard = self._open.get(path)
        if shard is None:
            # outside of the lock, since it reads; two threads may open it
            shard = self._kind(path, self._scratch, grows=self._cached)
            if not self._cached:
                refuse_other(shard, index)
            first = self._identities.setdefault(path, shard.identity)
            if first != shard.identity:
                raise first.changed(shard.identity, path)
            with self._lock:
                while len(self._open) >= self.limit:
                    del self._open[next(iter(self._open))]
                shard = self._open.setdefault(path, shard)
        return shard

    def close(self) -> None:
        """Forget all open shards; each is closed when its last user is done."""
        with self._lock:
            self._open.clear()


def _kind(reader: ReaderName) -> type[DescriptorShard]:
    if reader == "direct":
        return DirectShard
    if reader == "mmap" and not COMPILED:
        log.warning("reading with pread instead of mmap, at a third to half of the speed: %s", NO_LIBRARY)
    return MappedShard if reader == "mmap" and COMPILED else DescriptorShard


def refuse_other(shard: OpenShard, index: ShardIndex) -> None:
    """Compare a tar's size, and the smallest payload of its first and last sample, with the sidecar.

    This notices a file that was exchanged for another, shifted, cut or built again, at the cost of two small reads, and
    not a changed byte elsewhere.

    Raises:
        DamagedShardError: they differ.
    """
    name, expected = shard.path.name, index.info.num_bytes
    if shard.identity.size != expected:
        what = "it was cut off" if shard.identity.size < expected else "bytes were added, or it is another file"
        problem = f"the file has {shard.identity.size} bytes where its sidecar says {expected}: {what}; restore it"
        raise DamagedShardError(problem, shard=name)
    for row in sorted({0, len(index) - 1} if len(index) else ()):
        sizes = {field: int(extents.sizes[row]) for field, extents in index.extents.items()}
        field = min((field for field in sizes if sizes[field]), key=lambda field: sizes[field], default=None)
        if field is None:
            continue
        offset = int(index.extents[field].offsets[row])
        payload = shard.view(offset, sizes[field])
        if xxhash.xxh3_64_intdigest(payload.data) != int(index.extents[field].checksums[row]):
            raise DamagedShardError(
                f"the {'last' if row else 'first'} sample is not the one that the sidecar lists: the file was "
                "exchanged, shifted or overwritten; restore it, or build it again",
                shard=name,
                key=index.keys[row],
                field=field,
                offset=offset,
            )

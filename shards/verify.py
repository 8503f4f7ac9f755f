"""Read every byte of a data set and say what is wrong, down to shard, key, field and offset."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from shards.cache.folder import Cache
from shards.dataset import ShardDataset
from shards.exchange.origin import problems_of_origin
from shards.format.beside import problems_beside
from shards.format.beside_group import problems_of_groups
from shards.format.errors import DamagedShardError, ShardError
from shards.format.index import ShardIndex
from shards.format.members import member_problems
from shards.format.tar import open_tar
from shards.progress import Progress, untold
from shards.threads import thread_pool

CHUNK_BYTES = 8 << 20
MAX_PROBLEMS_PER_SHARD = 20


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_dataset` read and found; no problems means that every byte is as written."""

    num_samples: int
    num_shards: int
    num_bytes: int
    problems: tuple[str, ...]


def verify_dataset(
    directory: Path | str, cache: Cache | None = None, *, threads: int = 4, progress: Progress = untold
) -> VerifyReport:
    """Check the manifest, every sidecar, every tar, every payload, and what lies beside them.

    Args:
        directory: the data set, or its URL.
        cache: what is fetched of one elsewhere passes through it, see `ShardDataset.open`.
        threads: shards read at the same time.
        progress: called with (shards done, of which have problems) since its last call.

    Raises:
        ShardError: there is no readable manifest to begin with.
    """
    dataset = ShardDataset.open(directory, cache)
    groups = dataset.schema.groups
    tasks = [(shard, group) for group in groups for shard in range(dataset.num_shards)]
    found: dict[tuple[int, str], list[str]] = {}
    with thread_pool(threads) as pool:
        futures = {pool.submit(_verify_shard, dataset, *task): task for task in tasks}
        for future in as_completed(futures):
            found[futures[future]] = problems = future.result()
            progress(1, int(bool(problems)))
    problems = [problem for task in tasks for problem in found[task]]
    if dataset.mirror is not None:
        dataset.mirror.fetch_beside()
    problems += [*_repeated_keys(dataset), *problems_beside(dataset.manifest, dataset.directory)]
    problems += problems_of_groups(dataset.manifest, dataset.directory)
    problems += problems_of_origin(dataset.manifest, dataset.directory)
    return VerifyReport(len(dataset), len(tasks), dataset.manifest.num_bytes, tuple(dict.fromkeys(problems)))


def _verify_shard(dataset: ShardDataset, shard: int, group: str) -> list[str]:
    try:
        index = dataset.index(shard, group)
        problems: list[str] = []
        with dataset.whole_tar(shard, group) as path:
            for problem in _shard_problems(path, index):
                if len(problems) == MAX_PROBLEMS_PER_SHARD:
                    return [*problems, f"shard {path.name}: and more; only the first {len(problems)} are listed"]
                problems.append(str(problem))
        return problems
    except (ShardError, OSError) as error:
        return [str(error)]


def _shard_problems(path: Path, index: ShardIndex) -> Iterator[ShardError]:
    digest, found = xxhash.xxh3_128(), False
    with open_tar(path) as file:
        for damage in _payload_problems(file, path, index, digest):
            found = True
            yield damage
        size = file.tell()
    for problem in member_problems(path, index):
        found = True
        yield problem
    if not found and digest.hexdigest() != index.info.digest:
        text = f"the tar's digest is wrong, but every payload is right: damage in headers or padding ({size} bytes)"
        yield DamagedShardError(text, shard=path.name)
    elif not found and size != index.info.num_bytes:
        yield DamagedShardError(f"the tar has {size} bytes, its sidecar says {index.info.num_bytes}", shard=path.name)


def _payload_problems(
    file: BinaryIO, path: Path, index: ShardIndex, digest: xxhash.xxh3_128
) -> Iterator[DamagedShardError]:
    """Read the whole tar once, in order, into `digest`; yield the payloads that are not what the sidecar says."""
    fields = index.schema.fields
    columns = [index.extents[field.name] for field in fields]
    offsets, sizes, checksums = (
        np.concatenate([getattr(extents, name) for extents in columns]) for name in ("offsets", "sizes", "checksums")
    )
    position = 0
    for place in np.lexsort((sizes, offsets)).tolist():
        offset, size = int(offsets[place]), int(sizes[place])
        field, key = fields[place // len(index)], index.keys[place % len(index)]
        problem, payload = None, xxhash.xxh3_64()
        if offset < position:
            problem = f"it begins before byte {position}, where the one before it ends"
        else:
            _read_on(file, offset - position, digest)
            length = _read_on(file, size, digest, payload)
            position = offset + size
            if length < size:
                problem = f"the file ends after {length} of {size} payload bytes; it was cut off"
            elif payload.intdigest() != int(checksums[place]):
                problem = "the payload's checksum is wrong: its bytes were changed"
        if problem:
            yield DamagedShardError(problem, shard=path.name, key=key, field=field.name, offset=offset)
    while _read_on(file, CHUNK_BYTES, digest):
        pass


def _read_on(file: BinaryIO, size: int, *digests: xxhash.xxh3_128 | xxhash.xxh3_64) -> int:
    """Read `size` bytes, or up to the file's end, into digests; returns how many there were."""
    done = 0
    while done < size and (chunk := file.read(min(size - done, CHUNK_BYTES))):
        done += len(chunk)
        for digest in digests:
            digest.update(chunk)
    return done


def _repeated_keys(dataset: ShardDataset) -> Iterator[str]:
    """No key may appear in two shards; a shard whose sidecar cannot be read has been named already."""
    seen: set[str] = set()
    for shard in range(dataset.num_shards):
        try:
            keys = dataset.index(shard).keys
        except (ShardError, OSError):
            continue
        if repeated := seen.intersection(keys):
            yield f"shard {dataset.tar_path(shard).name}: key {min(repeated)} is in an earlier shard too"
        seen.update(keys)

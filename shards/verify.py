"""Read every byte of a data set and say what is wrong, down to shard, key, field and offset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from shards.dataset import ShardDataset
from shards.errors import DamagedShardError, ShardError
from shards.index import ShardIndex
from shards.npy import PAGE_BYTES, encode_header
from shards.tar import open_tar, scan

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
    directory: Path, *, threads: int = 4, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Check the manifest, every sidecar, every tar and every payload.

    Args:
        directory: the data set.
        threads: shards read at the same time.
        progress: called with (shards done, shards with problems).

    Raises:
        ShardError: there is no readable manifest to begin with.
    """
    dataset = ShardDataset.open(directory)
    groups = dataset.schema.groups
    tasks = [(shard, group) for group in groups for shard in range(dataset.num_shards)]
    found: dict[tuple[int, str], list[str]] = {}
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(_verify_shard, dataset, *task): task for task in tasks}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                found[futures[future]] = future.result()
                if progress:
                    progress(done, sum(map(bool, found.values())))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    problems = [problem for task in tasks for problem in found[task]]
    problems += _different_keys(dataset) if not problems else []
    return VerifyReport(len(dataset), len(tasks), dataset.manifest.num_bytes, tuple(problems))


def _verify_shard(dataset: ShardDataset, shard: int, group: str) -> list[str]:
    path = dataset.tar_path(shard, group)
    try:
        index = dataset.index(shard, group)
        with open_tar(path) as file:
            digest, size = xxhash.xxh3_128(), 0
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
            if digest.hexdigest() != index.info.digest:
                problems = _locate_damage(path, index)
                return problems or [_between_members(path, index, size)]
            return list(_compare_with_scan(path, index))
    except (ShardError, OSError) as error:
        return [str(error)]


def _between_members(path: Path, index: ShardIndex, size: int) -> str:
    problem = f"the tar's digest is wrong, but every payload is right: damage in headers or padding ({size} bytes)"
    return str(DamagedShardError(problem, shard=path.name))


def _locate_damage(path: Path, index: ShardIndex) -> list[str]:
    """Which payloads, headers or ends differ, for a tar whose digest is wrong."""
    problems = []
    with open_tar(path) as file:
        for field in index.schema:
            extents = index.extents[field.name]
            header = b"" if field.dtype is None or field.shape is None else encode_header(field.dtype, field.shape)
            for key, offset, size, checksum in zip(
                index.keys, extents.offsets.tolist(), extents.sizes.tolist(), extents.checksums.tolist(), strict=True
            ):
                file.seek(offset)
                data = file.read(size)
                if len(data) < size:
                    text = f"the file ends after {len(data)} of {size} payload bytes; it was cut off"
                elif xxhash.xxh3_64_intdigest(data) != checksum:
                    text = "the payload's checksum is wrong: its bytes were changed"
                elif header and offset % PAGE_BYTES == 0 and _read(file, offset - PAGE_BYTES, PAGE_BYTES) != header:
                    text = f"the .npy header, {PAGE_BYTES} bytes before the payload, was changed"
                else:
                    continue
                problems.append(str(DamagedShardError(text, shard=path.name, key=key, field=field.name, offset=offset)))
                if len(problems) == MAX_PROBLEMS_PER_SHARD:
                    return [*problems, f"shard {path.name}: and more; only the first {len(problems)} are listed"]
    return problems + list(_compare_with_scan(path, index))


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _compare_with_scan(path: Path, index: ShardIndex) -> Iterator[str]:
    """Yield where the tar's own headers and the sidecar disagree about a member."""
    expected = {}
    for field in index.schema:
        extents = index.extents[field.name]
        for key, offset, size in zip(index.keys, extents.offsets.tolist(), extents.sizes.tolist(), strict=True):
            expected[offset + size] = (f"{key}.{field.suffix}", key, field.name, offset)
    try:
        with open_tar(path) as file:
            for member in scan(file, path.name):
                name, *_ = expected.pop(member.offset + member.size, (None,))
                if name != member.name.rpartition("/")[2]:
                    text = f"the tar holds {member.name!r} where the sidecar says {name!r}"
                    yield str(DamagedShardError(text, shard=path.name, offset=member.offset))
    except ShardError as error:
        yield str(error)
        return
    for name, key, field_name, offset in expected.values():
        text = f"the sidecar lists {name!r}, the tar does not hold it"
        yield str(DamagedShardError(text, shard=path.name, key=key, field=field_name, offset=offset))


def _different_keys(dataset: ShardDataset) -> list[str]:
    """Every group must have the same keys in the same order, and no key may appear twice."""
    problems: list[str] = []
    seen: set[str] = set()
    main, *others = dataset.schema.groups
    for shard in range(dataset.num_shards):
        keys = dataset.index(shard, main).keys
        repeated = seen.intersection(keys)
        if repeated:
            problems.append(f"shard {dataset.tar_path(shard).name}: key {min(repeated)} is in an earlier shard too")
        seen.update(keys)
        problems += [
            f"shard {dataset.tar_path(shard, group).name}: its keys differ from those of {dataset.tar_path(shard).name}"
            for group in others
            if dataset.index(shard, group).keys != keys
        ]
    return problems

"""Write a data set from samples that are there already: shard by shard, resumable, whole or not at all.

What is to be read lies behind `Samples`: other data sets (reshard, merge), or tars of others (import). A shard whose
sidecar is there and fits is finished; the manifest is written last. A run that was killed goes on with the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Event
from typing import Protocol

import numpy as np
import xxhash

from shards.builder.journal import WORK_FOLDER, clear_work
from shards.builder.lock import build_lock
from shards.codecs import Fidelity
from shards.exchange.origin import Origin
from shards.format.beside import ORIGIN_NAME
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.index import ShardInfo, index_path, load_index
from shards.format.manifest import MANIFEST_NAME, Manifest, refuse_url, shard_name
from shards.format.publish import publish_bytes, remove_temporaries
from shards.progress import Progress, one_at_a_time, untold
from shards.threads import thread_pool
from shards.writer import ShardWriter, Value

THREADS = min(8, os.cpu_count() or 1)


class Samples(Protocol):
    """What is written: keys in order, and the value of any field of any of them. Asked from several threads."""

    @property
    def keys(self) -> Sequence[str]:
        """Of all samples, in order; unique."""

    def value(self, place: int, field: str) -> Value:
        """What sample number `place` is to hold as `field`, compared with its checksum where there is one."""


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A data set to be.

    Attributes:
        origin: its manifest, as far as that is known; cuts the samples into shards.
        samples: what it holds.
        files: what is to lie beside the shards, by name.
        fidelity: how near codecs came to what they stored in this run: of each shard, by field.
    """

    origin: Origin
    samples: Samples
    files: Mapping[str, bytes] = field(default_factory=dict)
    fidelity: list[Mapping[str, Fidelity]] = field(default_factory=list)

    def run(self, out: Path, *, threads: int = THREADS, progress: Progress = untold) -> Manifest:
        """Write what is not there yet.

        Args:
            out: folder of the new data set: not there, empty, or begun with the same origin.
            threads: shards written at the same time.
            progress: called with (samples done, 0) since its last call; a sample counts once for each tar series.

        Returns:
            The manifest, published.

        Raises:
            ShardError: `out` holds something else, a sample is damaged, or the disk is full.
            KeyboardInterrupt: as it came, with what remains in its message.
        """
        if (finished := finished_manifest(self.origin, out)) is not None:
            return finished
        out.mkdir(parents=True, exist_ok=True)
        with build_lock(out):
            self.origin.publish(out)
            remove_temporaries(out)
            try:
                series = self._write_shards(out, threads, one_at_a_time(progress))
            except KeyboardInterrupt as stop:
                raise type(stop)(f"stopped: {self._remaining(out)}") from None
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise ShardError(f"{out}: no room is left on the disk: {self._remaining(out)}") from error
            for name, data in self.files.items():
                publish_bytes(out / name, data)
            manifest = self.origin.manifest(series)
            manifest.write(out)
            clear_work(out, manifest)
        return manifest

    def _write_shards(self, out: Path, threads: int, progress: Progress) -> dict[str, list[ShardInfo]]:
        infos: dict[tuple[str, int], ShardInfo] = {}
        missing = []
        for task in self._tasks():
            if (info := self._finished(out, *task)) is None:
                index_path(out / self._name(*task)).unlink(missing_ok=True)
                missing.append(task)
            else:
                infos[task] = info
                progress(info.num_samples)
        stop = Event()
        with thread_pool(max(1, min(threads, len(missing)))) as pool:
            futures = {pool.submit(self._write_shard, out, *task, stop, progress): task for task in missing}
            try:
                for future in as_completed(futures):
                    infos[futures[future]] = future.result()
            except BaseException:
                stop.set()
                raise
        groups = self.origin.schema.groups
        return {group: [infos[group, shard] for shard in range(len(self.origin.samples))] for group in groups}

    def _write_shard(self, out: Path, group: str, shard: int, stop: Event, progress: Progress) -> ShardInfo:
        schema, keys = self.origin.schema.of_group(group), self.samples.keys
        with ShardWriter(out / self._name(group, shard), schema) as writer:
            for place in self._places(shard):
                if stop.is_set():
                    raise _StoppedError
                writer.write(keys[place], {one.name: self.samples.value(place, one.name) for one in schema})
                progress(1)
        self.fidelity.append(writer.fidelity)
        return writer.info

    def _tasks(self) -> list[tuple[str, int]]:
        """Group and number of each shard; the series of one part of the samples side by side."""
        return [(group, shard) for shard in range(len(self.origin.samples)) for group in self.origin.schema.groups]

    def _name(self, group: str, shard: int) -> str:
        return shard_name(self.origin.split, shard, len(self.origin.samples), group)

    def _places(self, shard: int) -> range:
        return range(self._starts[shard], self._starts[shard + 1])

    @cached_property
    def _starts(self) -> list[int]:
        """Where each shard begins, and the end of the last one."""
        return list(accumulate(self.origin.samples, initial=0))

    def _finished(self, out: Path, group: str, shard: int) -> ShardInfo | None:
        """What an earlier run left of a shard, if sidecar and tar are as this run would leave them."""
        tar = out / self._name(group, shard)
        try:
            index, num_bytes = load_index(index_path(tar)), tar.stat().st_size
        except (ShardError, OSError):
            return None
        places = self._places(shard)
        is_right = (
            index.info.name == tar.name
            and index.info.num_bytes == num_bytes
            and index.schema == self.origin.schema.of_group(group)
            and list(index.keys) == list(self.samples.keys[places.start : places.stop])
        )
        return index.info if is_right else None

    def _remaining(self, out: Path) -> str:
        tasks = self._tasks()
        done = sum(index_path(out / self._name(*task)).exists() for task in tasks)
        return (
            f"{done} of {len(tasks)} shards are finished and kept, {len(tasks) - done} remain. Run the same command "
            "again to go on"
        )


class _StoppedError(Exception):
    """Another shard has failed, or the user has stopped the work."""


def finished_manifest(origin: Origin, out: Path) -> Manifest | None:
    """The manifest of a set that an earlier run has finished; None where there is still something to do.

    Raises:
        ShardError: `out` holds something else.
    """
    refuse_url(out)
    if out.exists() and not out.is_dir():
        raise ShardError(f"{out} is a file: a data set is a folder, give another name")
    if not out.exists():
        return None
    others = sorted(path.name for path in out.iterdir() if path.name != WORK_FOLDER)
    if others and ORIGIN_NAME not in others:
        what = "a data set" if MANIFEST_NAME in others else f"files such as {others[0]!r}"
        raise ShardError(f"{out} holds {what}, which stays as it is: give a new or an empty folder")
    if ORIGIN_NAME in others:
        origin.publish(out)  # compared, since it is there
    try:
        return Manifest.read(out)
    except MissingDataError:
        return None


def cut_evenly(num_samples: int, samples_per_shard: int) -> tuple[int, ...]:
    """Samples of each shard, the last one perhaps fewer.

    Raises:
        ValueError: there is no sample, or none fits into a shard.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples per shard is {samples_per_shard}; it has to be at least 1")
    if not num_samples:
        raise ValueError("no sample is left; a data set needs one at least")
    whole, rest = divmod(num_samples, samples_per_shard)
    return (samples_per_shard,) * whole + ((rest,) if rest else ())


def cut_by_size(sizes: Iterable[int], shard_bytes: int) -> tuple[int, ...]:
    """Samples of each shard such that none has more than `shard_bytes`, but for one of a single larger sample.

    Args:
        sizes: bytes of each sample, in order.
        shard_bytes: at least 1.

    Raises:
        ValueError: there is no sample, or the size is none.
    """
    if shard_bytes < 1:
        raise ValueError(f"a shard's size is {shard_bytes}; it has to be at least 1 byte")
    counts: list[int] = []
    filled = 0
    for size in sizes:
        if not counts or filled + size > shard_bytes:
            counts.append(0)
            filled = 0
        counts[-1] += 1
        filled += size
    if not counts:
        raise ValueError("no sample is left; a data set needs one at least")
    return tuple(counts)


def digest_of_keys(keys: Sequence[str]) -> str:
    """xxh3-128 (hex) of keys, joined by newlines."""
    return xxhash.xxh3_128_hexdigest("\n".join(keys).encode())


def read_beside(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of some files that are there, by name."""
    found = {}
    for name in names:
        try:
            found[name] = read_small(directory / name)
        except FileNotFoundError:
            continue
    return found


def as_value(stored: object) -> Value:
    """What was read, as a writer takes it."""
    assert isinstance(stored, np.ndarray | bytes | list)
    return stored

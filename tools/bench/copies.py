"""The copy out of mapped shards alone, in each way that this CPU has, beside copies in plain memory."""

from __future__ import annotations

import argparse
import mmap
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline.batch.slab import anonymous_memory
from pipeline.read.gather import NO_LIBRARY, WAYS, gather
from shards.dataset import ShardDataset
from shards.format.publish import publish_json
from tools.bench.storage import in_threads
from tools.progress import track

NUM_SAMPLES = 512  # at most, so that a round takes seconds
ROWS_PER_CALL = 16  # as a reader's task has
PLAIN_BYTES = 64 << 20  # beyond the caches


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What was copied, how.

    Attributes:
        what: the field, or "plain memory".
        piece_bytes: bytes of a piece, which are copied in random order; of a whole sample where it is copied whole.
        way: registers that were used, or "memcpy".
        threads: at once.
    """

    what: str
    piece_bytes: int
    way: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """One thing to copy.

    Attributes:
        what: the field, or "plain memory".
        sources: u64 `[N]`, addresses of payloads.
        positions: i64 `[N, P]`, pieces in the order to copy them; None copies payloads whole.
        num_pieces: of a payload.
        piece_bytes: of a piece.
        rows: payloads a call.
    """

    what: str
    sources: NDArray[np.uint64]
    positions: NDArray[np.int64] | None = None
    num_pieces: int = 1
    piece_bytes: int
    rows: int = ROWS_PER_CALL

    @property
    def num_bytes(self) -> int:
        """Bytes of all payloads."""
        return len(self.sources) * self.num_pieces * self.piece_bytes

    def share(self, outs: Sequence[NDArray[np.uint8]], threads: int, way: str, number: int) -> None:
        """Copy what thread `number` of `threads` has to, over and over into u8 `outs[number]`."""
        filled = outs[number][: self.rows * self.num_pieces * self.piece_bytes].reshape(self.rows, self.num_pieces, -1)
        for start in range(number * self.rows, len(self.sources), threads * self.rows):
            taken = self.sources[start : start + self.rows]
            chosen = None if self.positions is None else self.positions[start : start + self.rows]
            gather(filled[: len(taken)], taken, chosen, self.num_pieces, way=way)


@dataclass
class Rates:
    """Bytes per second, a round each."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The rate."""
        return statistics.median(self.rounds)


def measure_copies(
    dataset: ShardDataset, *, threads: Sequence[int], rounds: int, progress: Callable[[int], None]
) -> dict[Copied, Rates]:
    """Copy clips and targets of up to 512 samples in random order, in pieces and whole, and plain memory; all in turn.

    Raises:
        ValueError: nothing was compiled.
    """
    if not WAYS:
        raise ValueError(f"there is nothing to compare: {NO_LIBRARY}")
    maps = [_map(dataset, shard) for shard in range(dataset.num_shards)]
    works = [work for name in ("clip", "target") for work in _works(dataset, name, maps)]
    plain = np.frombuffer(anonymous_memory(PLAIN_BYTES * max(threads)), np.uint8)
    plain[:] = 1
    addresses = plain.ctypes.data + PLAIN_BYTES * np.arange(max(threads), dtype=np.uint64)
    size = max([PLAIN_BYTES, *(work.rows * work.num_pieces * work.piece_bytes for work in works)])
    sinks = [np.frombuffer(anonymous_memory(size), np.uint8) for _ in range(max(threads))]
    results: dict[Copied, Rates] = {}
    for turn in range(rounds + 1):
        for count in threads:
            in_memory = Work(what="plain memory", sources=addresses[:count], piece_bytes=PLAIN_BYTES, rows=1)
            for work in (*works, in_memory):
                for way in WAYS:
                    seconds = in_threads(count, partial(work.share, sinks, count, way))
                    if turn:  # the first round touches the memory
                        key = Copied(what=work.what, piece_bytes=work.piece_bytes, way=way, threads=count)
                        results.setdefault(key, Rates()).rounds.append(work.num_bytes / seconds)
        progress(1)
    return results


def _map(dataset: ShardDataset, shard: int) -> NDArray[np.uint8]:
    with dataset.tar_path(shard).open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _works(dataset: ShardDataset, name: str, maps: Sequence[NDArray[np.uint8]]) -> tuple[Work, Work]:
    """All pieces of a field in random order, and the whole payloads."""
    random, form = np.random.default_rng(0), dataset.schema[name]
    samples = random.permutation(len(dataset))[:NUM_SAMPLES]
    shards, rows = (numbers.tolist() for numbers in dataset.locate(samples))
    places = [int(dataset.extents(shard, name).offsets[row]) for shard, row in zip(shards, rows, strict=True)]
    addresses = [maps[shard].ctypes.data + place for shard, place in zip(shards, places, strict=True)]
    sources, size = np.array(addresses, np.uint64), form.num_bytes // form.num_positions
    order = np.stack([random.permutation(form.num_positions) for _ in samples])
    pieces = Work(what=name, sources=sources, positions=order, num_pieces=form.num_positions, piece_bytes=size)
    return pieces, Work(what=name, sources=sources, piece_bytes=form.num_bytes)


def print_copies(results: dict[Copied, Rates], machine: str) -> None:
    """A table: what was copied down, ways across."""
    table = Table("copied", "bytes at once", "threads", *(f"{way}, GB/s" for way in WAYS), title=f"copies on {machine}")
    for key in results:
        if key.way == next(iter(WAYS)):
            rates = [results[Copied(**vars(key) | {"way": way})].median for way in WAYS]
            numbers = (f"{key.piece_bytes:,}", str(key.threads), *(f"{rate / 1e9:.1f}" for rate in rates))
            table.add_row(key.what, *numbers)
    Console().print(table)


def run(args: argparse.Namespace, dataset: ShardDataset, machine: str) -> int:
    """Measure what `reelshard bench --copies` says, and report."""
    with track("copying", total=args.rounds + 1, unit="rounds") as advance:
        results = measure_copies(dataset, threads=args.threads, rounds=args.rounds, progress=advance)
    print_copies(results, machine)
    if args.json:
        publish_json(args.json, {"machine": machine, "copies": copies_as_json(results)})
    return 0


def copies_as_json(results: dict[Copied, Rates]) -> list[dict[str, Any]]:
    """One record a line of the measurement."""
    return [vars(key) | {"bytes_per_second": rates.median} for key, rates in results.items()]

"""How many bytes a sample costs as a system reads it: arithmetic on the draw and the sidecars, nothing else is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.packed import COUNT_BYTES, END_BYTES

MOST_DRAWN = 4096  # samples for which a draw is made, to count what it needs


def bytes_per_draw(dataset: ShardDataset, reads: Reads, *, seed: int = 0) -> dict[str, float]:
    """Bytes of each field's payload that a sample needs, in the mean; what is drawn twice of a sample counts once."""
    fields = ["json" if name == "label" else name for name in reads.fields]
    return {name: _mean_bytes(dataset, name, reads, seed) for name in fields}


def bytes_per_sample(dataset: ShardDataset) -> float:
    """Bytes of all payloads of a sample, in the mean."""
    return sum(_mean_size(dataset, field.name) for field in dataset.schema)


def _mean_bytes(dataset: ShardDataset, name: str, reads: Reads, seed: int) -> float:
    field = dataset.schema[name]
    if name not in reads.gather:
        return _mean_size(dataset, name)
    num_drawn = float(_distinct(_drawn(dataset, reads, reads.gather[name], seed)).mean())
    if field.is_rows:
        return num_drawn * field.row_bytes
    if field.is_packed:  # pieces of the mean length; their ends stand in the table
        lengths = dataset.lengths(name)
        table = COUNT_BYTES * len(lengths) + END_BYTES * int(lengths.sum())
        pieces = _mean_size(dataset, name) * len(lengths) - table
        return num_drawn * pieces / max(int(lengths.sum()), 1)
    return num_drawn * field.num_bytes / field.num_positions


def _drawn(dataset: ShardDataset, reads: Reads, output: str, seed: int) -> NDArray[np.int64]:
    """What is drawn of some samples in the first epoch, i64 `[B, K]`; -1 where there is nothing."""
    draw = next(draw for draw in reads.draws if output in draw.shapes)
    samples = np.arange(len(dataset))[:: -(-len(dataset) // MOST_DRAWN) or 1]
    lengths = None if draw.length_of is None else dataset.lengths(draw.length_of)[samples]
    return draw.draw(seed, 0, samples, lengths)[output].reshape(len(samples), -1)


def _distinct(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many different ones each sample has, i64 `[B]`."""
    ordered = np.sort(positions, axis=1)
    new = np.diff(ordered, axis=1, prepend=-1) > 0
    found: NDArray[np.int64] = new.sum(axis=1)
    return found


def _mean_size(dataset: ShardDataset, name: str) -> float:
    """Of a field's whole payload, from the sidecars."""
    sizes = [dataset.extents(shard, name).sizes for shard in range(dataset.num_shards)]
    return float(np.concatenate(sizes).mean()) if len(dataset) else 0.0

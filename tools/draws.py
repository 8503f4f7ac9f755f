"""How many bytes a sample costs as a system reads it: arithmetic on the draw and the sidecars, nothing else is read."""

from __future__ import annotations

import numpy as np

from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.packed import COUNT_BYTES, END_BYTES


def bytes_per_draw(dataset: ShardDataset, reads: Reads) -> dict[str, float]:
    """Bytes of each field's payload that are needed of a sample, in the mean over the data set."""
    drawn = {name: shape[0] if shape else 1 for draw in reads.draws for name, shape in draw.shapes.items()}
    fields = ["json" if name == "label" else name for name in reads.fields]
    return {name: _mean_bytes(dataset, name, drawn.get(reads.gather.get(name, ""))) for name in fields}


def bytes_per_sample(dataset: ShardDataset) -> float:
    """Bytes of all payloads of a sample, in the mean."""
    return sum(_mean_size(dataset, field.name) for field in dataset.schema)


def _mean_bytes(dataset: ShardDataset, name: str, num_drawn: int | None) -> float:
    """Of a field's payload; with `num_drawn`, of so many positions, rows or pieces."""
    field = dataset.schema[name]
    if num_drawn is None:
        return _mean_size(dataset, name)
    if field.is_rows:
        return float(num_drawn * field.row_bytes)
    if field.is_packed:  # a piece of the mean length; its ends stand in the table
        lengths = dataset.lengths(name)
        table = COUNT_BYTES * len(lengths) + END_BYTES * int(lengths.sum())
        pieces = _mean_size(dataset, name) * len(lengths) - table
        return num_drawn * pieces / max(int(lengths.sum()), 1)
    return num_drawn * field.num_bytes / field.num_positions


def _mean_size(dataset: ShardDataset, name: str) -> float:
    """Of a field's whole payload, from the sidecars."""
    sizes = [dataset.extents(shard, name).sizes for shard in range(dataset.num_shards)]
    return float(np.concatenate(sizes).mean()) if len(dataset) else 0.0

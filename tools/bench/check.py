"""Batches that a contender delivers are checked as they arrive, so that nobody is fast by being wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.read.decode import decode_into
from pipeline.read.readers import DescriptorShard, Scratch
from shards.dataset import ShardDataset

HEAD_BYTES = 8
STRIDE = 16  # looking at every tube would cost a core a quarter of its time
EVERY = 4  # one batch in so many is looked at while the clock runs: looking at all cost small ones a tenth


@dataclass(frozen=True)
class Arrived:
    """A batch as a contender delivers it: numpy arrays in the tubes layout.

    Attributes:
        clip: u8 `[B, P, T', tubelet, patch, patch, 3]`, P positions.
        target: f16 `[B, Q, T', D]`.
        clip_positions: i64 `[B, P]`, or None where P is all of them in order.
        target_positions: i64 `[B, Q]`, or None likewise.
        samples: i64 `[B]` where the contender knows which samples these are.
    """

    clip: NDArray[np.uint8]
    target: NDArray[Any]
    clip_positions: NDArray[np.int64] | None = None
    target_positions: NDArray[np.int64] | None = None
    samples: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.clip)


class Checker:
    """Knows the first bytes of every tube of the data set, and compares what arrives with them."""

    def __init__(self, dataset: ShardDataset, *, as_stored: bool = True) -> None:
        """Read the first `HEAD_BYTES` of every tube, once; of fields with a codec as that stores them, or decoded."""
        self._heads: dict[str, NDArray[np.uint64]] = {}
        for name in ("clip", "target"):
            field = dataset.schema[name]
            heads = np.empty((len(dataset), field.num_positions), np.uint64)
            first = 0
            for shard in range(dataset.num_shards):
                tar = DescriptorShard(dataset.tar_path(shard, field.group), Scratch())
                for row, offset in enumerate(dataset.extents(shard, name).offsets.tolist()):
                    payload = tar.view(offset, field.num_bytes).reshape(field.num_positions, -1)
                    if field.codec is not None and not as_stored:
                        decoded = np.empty(field.fixed_shape, field.dtype)
                        decode_into(field, payload, decoded)
                        payload = decoded.view(np.uint8).reshape(field.num_positions, -1)
                    heads[first + row] = np.ascontiguousarray(payload[:, :HEAD_BYTES]).view(np.uint64)[:, 0]
                first += dataset.manifest.shards[shard].num_samples
            self._heads[name] = heads
        fields = {name: dataset.schema[name] for name in ("clip", "target")}
        self._fields = {name: field.as_stored if as_stored else field for name, field in fields.items()}
        self._num_checked = 0
        targets = self._heads["target"]
        self._numbers = {(int(c), int(targets[n, c])): int(n) for n, c in np.ndindex(targets.shape)}

    def check(self, batch: Arrived) -> None:
        """Compare the first bytes of every `STRIDE`th tube of every sample with the data set's, others each time.

        Raises:
            AssertionError: a shape, a dtype or a byte is wrong.
        """
        samples = self._identify(batch) if batch.samples is None else batch.samples
        chosen = {"clip": batch.clip_positions, "target": batch.target_positions}
        for name, array in (("clip", batch.clip), ("target", batch.target)):
            field, positions = self._fields[name], chosen[name]
            count = field.num_positions if positions is None else positions.shape[1]
            assert array.dtype == np.dtype(field.dtype), (name, array.dtype)
            assert array.shape == (len(samples), count, *(field.shape or ())[1:]), (name, array.shape)
            looked_at = slice(self._num_checked % STRIDE, None, STRIDE)
            columns = np.arange(count)[None, looked_at] if positions is None else positions[:, looked_at]
            expected = self._heads[name][samples[:, None], columns]
            assert np.array_equal(_heads(array[:, looked_at]), expected), f"{name}: wrong bytes arrived"
        self._num_checked += 1

    def _identify(self, batch: Arrived) -> NDArray[np.int64]:
        """Which samples arrived, by the first bytes of one target tube."""
        heads, positions = _heads(batch.target[:, :1])[:, 0], batch.target_positions
        column = np.zeros(len(heads), np.int64) if positions is None else positions[:, 0]
        found = [self._numbers[int(c), int(head)] for c, head in zip(column, heads, strict=True)]
        return np.array(found, np.int64)


def _heads(array: NDArray[Any]) -> NDArray[np.uint64]:
    """First bytes of every tube, u64 `[B, P]`; the array is not copied, whatever its strides."""
    flat = array.reshape(*array.shape[:2], -1)[:, :, : HEAD_BYTES // array.itemsize]
    heads: NDArray[np.uint64] = np.ascontiguousarray(flat).view(np.uint64)[:, :, 0]
    return heads

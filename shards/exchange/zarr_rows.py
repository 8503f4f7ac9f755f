"""The rows of a Zarr cache as a further field of the samples of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.builder.config import TeacherFacts
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, Rows
from shards.dataset import ShardDataset
from shards.exchange.zarr_store import META_NAME, ZarrCache
from shards.format.errors import ShardError
from shards.format.files import read_small
from shards.format.layout import target_to_tubes
from shards.format.schema import Field, Layout, Schema
from shards.writer import Value


@dataclass(frozen=True, kw_only=True)
class ZarrKind:
    """One row a sample; the number of the row stands in the item.

    Attributes:
        cache: the open cache.
        output: the field to be, in tubes or `[N, D]`.
    """

    cache: ZarrCache
    output: Field

    @classmethod
    def of(cls, cache: ZarrCache, dataset: ShardDataset, group: str, field: str, *, tubes: bool) -> ZarrKind:
        """The kind for a cache and the samples that it is to be joined to.

        Args:
            cache: the targets.
            dataset: the samples.
            group: the field group to be.
            field: the field to be.
            tubes: lay the tokens out as the clips are, if these are in tubes.

        Raises:
            ShardError: the tokens do not lie on the grid of the clips, or are of a type that no field has.
        """
        tokens, width = cache.array.shape[1:]
        positions = _positions(cache, dataset) if tubes else None
        shape = (tokens, width) if positions is None else (positions, tokens // positions, width)
        layout: Layout = "plain" if positions is None else "tubes"
        dtype = np.dtype(cache.array.dtype).newbyteorder("<").str
        try:
            return cls(cache=cache, output=Field(name=field, dtype=dtype, shape=shape, layout=layout, group=group))
        except ValueError as error:
            raise ShardError(f"{cache.path}: {error}") from None

    @property
    def name(self) -> str:
        """What it is called in plans."""
        return "zarr"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return the one field."""
        return Schema((self.output,))

    def fingerprint(self) -> Mapping[str, Any]:
        """Return which cache it is, by its lines and its shape: the chunks are read only once, as they are copied."""
        cache = self.cache
        about = {
            "source": "zarr cache",
            "cache": cache.path.name,
            "meta_sha256": hashlib.sha256(read_small(cache.path / META_NAME)).hexdigest(),
            "shape": list(cache.array.shape),
            "teacher": cache.teacher,
            "view_hash": cache.view,
        }
        return {"sample": {"kind": self.name, **about}}

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Read one row.

        Raises:
            UnusableRowError: it cannot be read, was never written, or holds a value that is not finite.
        """
        return Prepared(arrays={"tokens": self.cache.tokens(int(item.extra["row"]))})

    def teacher_rows(self, prepared: Prepared) -> Rows | None:
        """Nothing: no teacher is asked."""
        return None

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return the targets, [S, T', D] in tubes, else [N, D]."""
        tokens: NDArray[Any] = prepared.arrays["tokens"]
        if self.output.layout == "tubes":
            tokens = target_to_tubes(tokens, self.output.fixed_shape[1])
        return {self.output.name: tokens}

    def substitute(self, item: Item) -> None:
        """Nothing: a cache that lacks a row is refused."""


def items_of_rows(dataset: ShardDataset, rows: Sequence[int]) -> list[list[Item]]:
    """An item for each sample of a data set, shard by shard, with the number of its row."""
    left = iter(rows)
    return [
        [Item(id=key, path="", exact_key=key, extra={"row": next(left)}) for key in dataset.index(shard).keys]
        for shard in range(dataset.num_shards)
    ]


def _positions(cache: ZarrCache, dataset: ShardDataset) -> int | None:
    """Positions of a frame where the clips are in tubes, else None."""
    clip = dataset.schema["clip"]
    if clip.layout != "tubes" or not clip.is_array or len(clip.fixed_shape) < 2:
        return None
    positions, times = clip.fixed_shape[:2]
    if cache.array.shape[1] != positions * times:
        raise ShardError(
            f"{cache.path} has {cache.array.shape[1]} tokens a sample, the clips of {dataset.directory} have "
            f"{times} times x {positions} positions = {times * positions}: the cache is of another geometry"
        )
    return positions

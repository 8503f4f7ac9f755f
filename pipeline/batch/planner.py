"""Turns the position in an epoch into a plan: which sample goes to which row, and where the arrays of the batch lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.batch import BatchPlan
from pipeline.batch.fields import draw_arrays, make_parts
from pipeline.batch.slab import Arrays, SlabLayout, lay_out
from pipeline.config import LoaderConfig
from pipeline.order.bits import derive_key, mix
from pipeline.order.locality import Locality
from pipeline.order.order import permute_at
from pipeline.order.schedule import FixedSize, LengthBudget, Order, Samples, Schedule
from pipeline.read.checks import draw_checked
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset

STREAM = int.from_bytes(b"decoders", "little")  # apart from the order, the draws and the checks of the same seed


@dataclass(frozen=True)
class Draft:
    """A batch that has no memory yet.

    Attributes:
        epoch: the epoch.
        number: the batch's number in it.
        samples: its samples, -1 for padding.
        layout: where its arrays will lie.
    """

    epoch: int
    number: int
    samples: Samples
    layout: SlabLayout


class Planner:
    """Knows the schedule, what is drawn and the layout of batches; reads nothing but sidecars."""

    def __init__(
        self, dataset: ShardDataset, config: LoaderConfig, reads: Reads, world: World, *, leave_coded: bool = False
    ) -> None:
        """Check that all parts fit together.

        With `leave_coded`, batches hold what codecs have stored.

        Raises:
            ValueError: they do not.
        """
        self._dataset, self._config, self._reads = dataset, config, reads
        self.parts = make_parts(dataset, reads, leave_coded=leave_coded)
        coded = (part.field for part in self.parts if leave_coded and part.field.codec is not None)
        self.left_coded = {field.name: field for field in coded}
        self.schedule = _schedule(dataset, config, reads, world)
        self._checked_in: tuple[int, frozenset[int]] = (-1, frozenset())

    @property
    def fields(self) -> set[str]:
        """Fields of the data set that shape batches: those that are read, and those whose lengths count."""
        counted = {name for name in self._config.length_budget or () if name not in self._reads.lengths}
        drawn = {draw.length_of for draw in self._reads.draws if draw.length_of is not None}
        return {part.field.name for part in self.parts} | counted | drawn

    def draft(self, epoch: int, number: int) -> Draft:
        """The samples of a batch, and the layout they need."""
        index = self.schedule.rows(epoch, number)
        arrays: Arrays = {"index": ("<i8", (len(index),)), "valid": ("|b1", (len(index),))}
        for part in self.parts:
            arrays |= part.arrays(index)
        arrays |= draw_arrays(self._reads, len(index))
        return Draft(epoch, number, index, lay_out(tuple(arrays.items())))

    def plan(self, draft: Draft, memory: NDArray[np.uint8]) -> BatchPlan:
        """The plan of a batch, with all that its parts know beforehand written to `memory`, u8 `[num_bytes]`."""
        index, epoch = draft.samples, draft.epoch
        real = index[index >= 0]
        shards, rows = self._dataset.locate(real)
        padding = [-1] * (len(index) - len(real))
        memory = memory[: draft.layout.num_bytes]
        arrays = draft.layout.views(memory)
        arrays["index"][:] = index
        for draw in self._reads.draws:
            if draw.length_of is not None:
                self._dataset.lengths(draw.length_of)  # read here, once, and not by all threads at once
        keys: list[int] = []
        if self._reads.decoders:
            stream = derive_key(self._config.seed, self._drawn_as(epoch), STREAM)
            keys = mix(np.maximum(index, 0).astype(np.uint64) ^ stream).tolist()
        plan = BatchPlan(
            epoch=epoch,
            number=draft.number,
            samples=index.tolist(),
            shards=shards.tolist() + padding,
            rows=rows.tolist() + padding,
            checked=self._checked(epoch, index.tolist()),
            keys=keys,
            memory=memory,
            layout=draft.layout,
            arrays=arrays,
        )
        for part in self.parts:
            part.begin(plan)
        return plan

    def draw(self, plan: BatchPlan, start: int, stop: int) -> None:
        """Draw what is read of rows `start` to `stop`: each sample's draw is its own, so threads may share a batch."""
        samples = np.maximum(plan.arrays["index"][start:stop], 0)
        for draw in self._reads.draws:
            lengths = None if draw.length_of is None else self._dataset.lengths(draw.length_of)[samples]
            drawn = draw.draw(self._config.seed, self._drawn_as(plan.epoch), samples, lengths)
            for name, positions in drawn.items():
                plan.arrays[name][start:stop] = positions

    def _drawn_as(self, epoch: int) -> int:
        return 0 if self._reads.held_out else epoch

    def _checked(self, epoch: int, samples: list[int]) -> list[bool]:
        if self._config.verify != "sample":
            return [self._config.verify == "always"] * len(samples)
        if self._checked_in[0] != epoch:
            counts = np.array([info.num_samples for info in self._dataset.manifest.shards])
            self._checked_in = (epoch, frozenset(draw_checked(self._config.seed, epoch, counts).tolist()))
        return [sample in self._checked_in[1] for sample in samples]


def order_of(dataset: ShardDataset, config: LoaderConfig) -> Order:
    """The order of the shuffle: a global one, or of a window of shards at a time."""
    window = config.window_of(dataset)
    if not window:
        return permute_at
    return Locality(np.array([info.num_samples for info in dataset.manifest.shards], np.int64), window)


def _schedule(dataset: ShardDataset, config: LoaderConfig, reads: Reads, world: World) -> Schedule:
    seed, shuffle, order = config.seed, config.shuffle, order_of(dataset, config)
    if config.length_budget is None:
        size, drop_last = config.global_batch_size, config.drop_last
        return FixedSize(len(dataset), size, world, seed=seed, shuffle=shuffle, drop_last=drop_last, order=order)
    lengths = {name: _lengths(dataset, reads, name) for name in config.length_budget}
    local = order if isinstance(order, Locality) else None
    return LengthBudget(lengths, config.length_budget, world, seed=seed, shuffle=shuffle, order=local)


def _lengths(dataset: ShardDataset, reads: Reads, name: str) -> NDArray[np.int64]:
    """The lengths that a budget counts."""
    if name in reads.lengths:
        if len(reads.lengths[name]) != len(dataset):
            raise ValueError(
                f"a budget of {name} needs that length of each of the {len(dataset)} samples, got "
                f"{len(reads.lengths[name])}"
            )
        return reads.lengths[name]
    known = sorted({*reads.lengths, *(field.name for field in dataset.schema if field.has_lengths)})
    if name not in known:
        raise ValueError(f"no length is known of {name}, for which there is a budget, only of {known or 'nothing'}")
    return dataset.lengths(name)

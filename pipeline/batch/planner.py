"""Turns the position in an epoch into a plan: which sample goes to which row, and where the arrays of the batch lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch.batch import BatchPlan
from pipeline.batch.slab import SlabLayout
from pipeline.config import LoaderConfig
from pipeline.order.schedule import FixedSize, LengthBudget, Schedule
from pipeline.read.checks import draw_checked
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset


class Planner:
    """Knows the schedule, the masks and the layout of batches; reads nothing."""

    def __init__(
        self,
        dataset: ShardDataset,
        config: LoaderConfig,
        reads: Reads,
        world: World,
    ) -> None:
        """Check that all parts fit together.

        Raises:
            ValueError: they do not.
        """
        self._dataset, self._config, self._reads = dataset, config, reads
        self.schedule = _schedule(dataset, config, reads, world)
        _check_fields(dataset, reads)
        self._layouts: dict[int, SlabLayout] = {}
        self._drawn: tuple[int, frozenset[int]] = (-1, frozenset())

    @property
    def slab_bytes(self) -> int:
        """Bytes of the largest batch."""
        return self._layout(self.schedule.max_rows).num_bytes

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of array fields that a sample puts into a batch."""
        regions = self._layout(1).regions
        return sum(region.num_bytes for name, region in regions.items() if name in self._dataset.schema)

    def _layout(self, rows: int) -> SlabLayout:
        if rows not in self._layouts:
            self._layouts[rows] = SlabLayout(self._arrays(rows))
        return self._layouts[rows]

    def _arrays(self, rows: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        drawn = {name: shape for draw in self._reads.draws for name, shape in draw.shapes.items()}
        arrays: dict[str, tuple[str, tuple[int, ...]]] = {"index": ("<i8", (rows,)), "valid": ("|b1", (rows,))}
        for name in self._reads.fields:
            if name == "label":
                arrays[name] = ("<i8", (rows,))
                continue
            field = self._dataset.schema[name]
            if not field.is_array or field.dtype is None:
                continue
            shape = field.fixed_shape
            if name in self._reads.gather:
                shape = (*drawn[self._reads.gather[name]], *shape[1:])
            arrays[name] = (field.dtype, (rows, *shape))
        return arrays | {name: ("<i8", (rows, *shape)) for name, shape in drawn.items()}

    def plan(self, epoch: int, number: int, memory: NDArray[np.uint8]) -> BatchPlan:
        """The plan of a batch, its indices and masks already in `memory`, u8 `[slab_bytes]`."""
        config = self._config
        index = self.schedule.rows(epoch, number)
        size = len(index)
        real = index[index >= 0]
        shards, rows = self._dataset.locate(real)
        padding = [-1] * (size - len(real))
        layout = self._layout(size)
        arrays = layout.views(memory)
        arrays["index"][:] = index
        for draw in self._reads.draws:
            for name, positions in draw.draw(config.seed, epoch, np.maximum(index, 0), None).items():
                arrays[name][:] = positions
        ragged = [name for name in self._reads.fields if name not in arrays]
        return BatchPlan(
            epoch=epoch,
            number=number,
            samples=index.tolist(),
            shards=shards.tolist() + padding,
            rows=rows.tolist() + padding,
            checked=self._checked(epoch, index.tolist()),
            memory=memory,
            layout=layout,
            arrays=arrays,
            ragged={name: [b""] * size for name in ragged if name not in self._reads.decoders},
            decoded={name: _nothing(size) for name in ragged if name in self._reads.decoders},
        )

    def _checked(self, epoch: int, samples: list[int]) -> list[bool]:
        if self._config.verify != "sample":
            return [self._config.verify == "always"] * len(samples)
        if self._drawn[0] != epoch:
            counts = np.array([info.num_samples for info in self._dataset.manifest.shards])
            self._drawn = (epoch, frozenset(draw_checked(self._config.seed, epoch, counts).tolist()))
        return [sample in self._drawn[1] for sample in samples]


def _nothing(size: int) -> list[NDArray[Any] | None]:
    return [None] * size


def _schedule(dataset: ShardDataset, config: LoaderConfig, reads: Reads, world: World) -> Schedule:
    if config.length_budget is None:
        return FixedSize(
            len(dataset),
            config.global_batch_size,
            world,
            seed=config.seed,
            shuffle=config.shuffle,
            drop_last=config.drop_last,
        )
    for name in config.length_budget:
        if len(reads.lengths.get(name, ())) != len(dataset):
            got = len(reads.lengths[name]) if name in reads.lengths else "none"
            raise ValueError(f"a budget of {name} needs that length of each of the {len(dataset)} samples, got {got}")
    lengths = {name: reads.lengths[name] for name in config.length_budget}
    return LengthBudget(lengths, dict(config.length_budget), world, seed=config.seed, shuffle=config.shuffle)


def _check_fields(dataset: ShardDataset, reads: Reads) -> None:
    for name in reads.fields:
        dataset.schema["json" if name == "label" else name]
    for name in reads.decoders:
        if name not in reads.fields or dataset.schema[name].is_array:
            raise ValueError(f"decoders: {name} must be among the fields and ragged")
    drawn = {name: draw for draw in reads.draws for name in draw.shapes}
    for name, mask_name in reads.gather.items():
        field = dataset.schema[name]
        if name not in reads.fields or field.layout != "tubes":
            raise ValueError(
                f"gather: {name} must be among the fields and in the tubes layout, here it is {field.layout}"
            )
        if mask_name not in drawn:
            raise ValueError(f"gather: {name} needs a mask that draws {mask_name!r}, got {sorted(drawn) or 'no mask'}")
        if drawn[mask_name].num_positions != field.num_positions:
            raise ValueError(
                f"field {name} has {field.num_positions} positions, the mask has {drawn[mask_name].num_positions}"
            )

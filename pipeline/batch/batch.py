"""What the loader yields, and the plan from which it is filled."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch.slab import SlabLayout
from shards.format.schema import Field


class Batch(dict[str, torch.Tensor]):
    """Dense tensors by name. All of them share one block of memory, which is used again when the last is gone.

    Always there: `index` i64 `[B]` (sample numbers, -1 for padding) and `valid` bool `[B]` (false for padding and for
    samples that were quarantined, whose data is zero).

    Attributes:
        epoch: the epoch this batch belongs to.
        number: its number in the epoch.
        source: which source of a mix it comes from; "" where there is but one.
        memory: the block, u8 `[num_bytes]`, for copying a batch to a device at once; None if there is no such block.
        layout: where each tensor lies in `memory`.
        coded: field -> what it is, of those that lie here as their codecs have stored them; `pipeline.coded` decodes
            them. Only batches on their way to a device have such.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        *,
        epoch: int = 0,
        number: int = 0,
        source: str = "",
        memory: torch.Tensor | None = None,
        layout: SlabLayout | None = None,
        coded: Mapping[str, Field] | None = None,
    ) -> None:
        """Collect the parts."""
        super().__init__(tensors)
        self.epoch, self.number, self.source = epoch, number, source
        self.memory, self.layout = memory, layout
        self.coded: Mapping[str, Field] = coded or {}

    def __repr__(self) -> str:
        source = f" from {self.source}" if self.source else ""
        lines = [f"Batch {self.number} of epoch {self.epoch}{source}: {len(self)} fields"]
        width = max(map(len, self), default=0)
        for name, value in self.items():
            what = f"a {type(value).__name__}"  # put there by its user
            if isinstance(value, torch.Tensor):
                what = f"{str(value.dtype).removeprefix('torch.'):<8} {list(value.shape)} on {value.device}"
            lines.append(f"  {name:<{width}}  {what}")
        return "\n".join(lines)

    def __copy__(self) -> Batch:
        """The same tensors in another dictionary; it knows no block, since its tensors may be exchanged."""
        return self.replace(dict(self))

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> Batch:
        """Copies of the tensors, which need neither the slab nor the loader."""
        return self.replace({name: tensor.clone() for name, tensor in self.items()})

    def __reduce__(self) -> tuple[object, ...]:
        """The tensors alone cross a process border, not the block that they lie in."""
        tensors = {name: tensor.clone() for name, tensor in self.items()}
        return (_batch, (tensors, self.epoch, self.number, self.source))

    def replace(self, tensors: dict[str, torch.Tensor], *, decoded: bool = False) -> Batch:
        """The same position in the epoch, with other tensors; `decoded` says that none is coded any more."""
        coded = {} if decoded else self.coded
        return Batch(tensors, epoch=self.epoch, number=self.number, source=self.source, coded=coded)

    def slice(self, rows: builtins.slice) -> Batch:
        """Some neighbouring rows of every field, as the batch they would be by themselves; dense fields are not copied.

        Ragged bytes are cut where their offsets say, and the offsets begin at 0 again. Padded fields keep the width of
        this batch. Where ragged bytes are on a GPU, this waits for it.

        Raises:
            ValueError: `rows` has a step.
        """
        start, stop, step = rows.indices(len(self["valid"]))
        if step != 1:
            raise ValueError(f"a batch is cut into neighbouring rows, got a step of {step}")
        stop = max(start, stop)
        tensors = {name: tensor[start:stop] for name, tensor in self.items()}
        for name in self._ragged():
            offsets = self[f"{name}_offsets"][start : stop + 1]
            tensors[name] = self[name][int(offsets[0]) : int(offsets[-1])]
            tensors[f"{name}_offsets"] = offsets - offsets[0]
        return self.replace(tensors)

    def _ragged(self) -> list[str]:
        """Fields of bytes in one piece: their offsets have an entry more than there are rows, as no dense field has."""
        num_offsets = len(self["valid"]) + 1
        return [name for name in self if f"{name}_offsets" in self and len(self[f"{name}_offsets"]) == num_offsets]


def _batch(tensors: dict[str, torch.Tensor], epoch: int, number: int, source: str) -> Batch:
    return Batch(tensors, epoch=epoch, number=number, source=source)


@dataclass
class BatchPlan:
    """A batch in the making: which sample goes to which row.

    Attributes:
        epoch: the epoch.
        number: the batch's number in the epoch.
        samples: sample number per row, -1 for padding.
        shards: shard per row.
        rows: row in that shard.
        checked: whether a row is read whole and compared with its checksums, whatever was read of it before.
        keys: random bits per row for decoders; empty where there are none.
        memory: the slab.
        layout: where each array lies in it.
        arrays: views of it by name.
    """

    epoch: int
    number: int
    samples: list[int]
    shards: list[int]
    rows: list[int]
    checked: list[bool]
    keys: list[int]
    memory: NDArray[np.uint8]
    layout: SlabLayout
    arrays: dict[str, NDArray[Any]]

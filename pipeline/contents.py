"""What batches held: of each source how many batches, samples and tokens, and how much of them was padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.batch.batch import Batch

_LENGTH = "_length"


class Contents:
    """Sums over batches, kept where the batches are, so that nobody waits for a GPU.

    Ranks get batches of the same sources with the same fields, and so have the same sums, of their own batches.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self._filled: dict[tuple[str, str], Tensor] = {}  # (source, what) -> i64 scalar
        self._places: dict[tuple[str, str], int] = {}

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        valid = batch["valid"]
        self._add(batch.source, "batches", torch.ones((), dtype=torch.int64, device=valid.device), 1)
        self._add(batch.source, "samples", valid.sum(), len(valid))
        for name, lengths in batch.items():
            field = name.removesuffix(_LENGTH)
            if name.endswith(_LENGTH) and field in batch:
                self._add(batch.source, field, lengths.sum(), len(lengths) * batch[field].shape[1])

    def _add(self, source: str, what: str, filled: Tensor, places: int) -> None:
        key = source, what
        self._filled[key] = self._filled[key] + filled if key in self._filled else filled
        self._places[key] = self._places.get(key, 0) + places

    def row(self, sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict[str, float]:
        """Shares, by name.

        `padding_FIELD` is the share of padding in a field's places; `share_batches_SOURCE`, `share_samples_SOURCE` and
        `share_FIELD_SOURCE` what each source of several gives of all batches, samples, and rows of a field that more
        than one of them has. Waits for the device.

        Args:
            sum_over_ranks: of an i64 tensor; all ranks have to ask.
        """
        keys = sorted(self._filled)
        if not keys:
            return {}
        filled = torch.stack([self._filled[key] for key in keys])
        places = torch.tensor([self._places[key] for key in keys], device=filled.device)
        sums = sum_over_ranks(torch.stack([filled, places])).tolist()
        totals = {key: pair for key, *pair in zip(keys, *sums, strict=True)}
        sources = sorted({source for source, _ in keys})
        row: dict[str, float] = {}
        for what in sorted({what for _, what in keys}, key=lambda what: (what not in ("batches", "samples"), what)):
            of = {source: totals[source, what] for source in sources if (source, what) in totals}
            held, room = (sum(pair[place] for pair in of.values()) for place in (0, 1))
            if what not in ("batches", "samples") and room:
                row[f"padding_{what}"] = 1 - held / room
            if len(of) > 1 and held:
                row |= {f"share_{what}_{source}": pair[0] / held for source, pair in of.items()}
        return row

"""What is read of each sample, as a system needs it; how it is read is the user's (`LoaderConfig`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.config import LoaderConfig
from pipeline.order.draws import Draw
from pipeline.read.decoders import Decoder

DEFAULT_FIELDS = ("clip", "target")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reads:
    """What is read of each sample.

    Attributes:
        fields: which fields; besides the data set's own, `label` is the class from each sample's JSON (-1 if none).
        gather: field -> name of a draw's output: only what it names is read, of a fixed array in the `tubes` layout its
            positions, of a rows field its rows, of a packed field its pieces. The batch holds `[B, K, ...]`.
        draws: what is drawn for every sample; each output is in the batch, too.
        decoders: packed or bytes field -> what turns its pieces into arrays, in the reader threads.
        lengths: name -> i64 `[num_samples]`, what counts for a name in `length_budget` that is no rows or packed field.
        alike: rows or packed field -> another that is read whole, too, and has the same lengths in every sample; the
            batch then holds them once, under the name of the other.
        single: fields of which a draw names one piece or row: the batch holds `[B, ...]` of them.
        held_out: every pass draws as epoch 0 does, and nothing is read beyond the end of a pass.
    """

    fields: tuple[str, ...] = DEFAULT_FIELDS
    gather: Mapping[str, str] = dataclasses.field(default_factory=dict)
    draws: tuple[Draw, ...] = ()
    decoders: Mapping[str, Decoder] = dataclasses.field(default_factory=dict)
    lengths: Mapping[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    alike: Mapping[str, str] = dataclasses.field(default_factory=dict)
    single: tuple[str, ...] = ()
    held_out: bool = False

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("fields must name at least one field to read")
        names = [name for draw in self.draws for name in draw.shapes]
        if len(set(names)) < len(names):
            raise ValueError(f"the draws' outputs need different names, got {', '.join(names)}")

    @classmethod
    def of(cls, config: LoaderConfig, mask: Draw | None) -> Reads:
        """What the short form means: fields and gather given with the configuration, and one mask."""
        fields = DEFAULT_FIELDS if config.fields is None else config.fields
        return cls(fields=fields, gather=config.gather or {}, draws=() if mask is None else (mask,))

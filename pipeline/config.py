"""How a data set is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.order.locality import WINDOW_SHARDS
from pipeline.world import World
from shards.cores import usable_cores
from shards.dataset import ShardDataset

Reader = Literal["auto", "mmap", "pread", "direct"]
Verify = Literal["never", "sample", "first", "always"]
OnError = Literal["raise", "quarantine"]
MAX_THREADS = 8  # beyond these, memory and not the cores is what copies wait for


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a data set is read.

    Attributes:
        global_batch_size: samples in a batch, added up over all ranks.
        seed: of order and masks.
        shuffle: a new global permutation every epoch; without it, the order of the shards.
        window: how many shards are mixed at a time, in a new order of the shards every epoch; 0 mixes all samples. None
            takes 16 for a data set in a store elsewhere, where it saves requests and room in the cache, and else 0.
        drop_last: leave out the last, smaller batch; otherwise it is padded, and `valid` says where.
        threads: reader threads; None takes the cores that the process may use, shared by the ranks of the machine, and
            at most 8.
        reader: `mmap`, `pread`, `direct`, or `auto` to choose at the start of each epoch.
        slabs: batches in the making or in use; memory is bounded by them.
        verify: which rows are read whole and compared with their checksums, even where a mask needs only a part:
            `never`; `sample`, one in 128, so that a shard that is damaged throughout is found within an epoch; the
            `first` time a sample is read; or `always`. docs/training.md says what each finds and costs.
        on_error: `raise`, or `quarantine`: leave a sample that cannot be read out of `valid`.
        max_quarantined: stop with an error when more samples than this were left out, each counted once: a count from 1
            on, or a share of the data set below 1, which allows one sample at least; 0 allows none.
        length_budget: name -> the most frames, tokens, ... that a global batch may hold, padding included; samples of
            like length are then batched together, and `global_batch_size` and `drop_last` do not count. A name is that
            of a rows or packed field, or of `Reads.lengths`.
        pin_memory: page-lock the slabs, so that copies to a GPU run beside its arithmetic; None: where there is one.
            False where the limit `ulimit -l` is too low: copies are slower then, and the host waits for them.
        fields: what to read, for a loader that is given no `Reads`; clip and target if None.
        gather: which of them only where a mask says, likewise; see `Reads`.
    """

    global_batch_size: int = 32
    seed: int = 0
    shuffle: bool = True
    window: int | None = None
    drop_last: bool = True
    threads: int | None = None
    reader: Reader = "auto"
    slabs: int = 4
    verify: Verify = "sample"
    on_error: OnError = "raise"
    max_quarantined: float = 0.01
    length_budget: Mapping[str, int] | None = None
    pin_memory: bool | None = None
    fields: tuple[str, ...] | None = None
    gather: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name, least in (("global_batch_size", 1), ("threads", 1), ("slabs", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.window is not None and self.window < 0:
            raise ValueError(f"window must be a number of shards, or 0 to mix all samples, got {self.window}")
        if not 0 <= self.max_quarantined < math.inf:
            raise ValueError(f"max_quarantined must be a count, or a share below 1, got {self.max_quarantined}")
        allowed = {"reader": get_args(Reader), "verify": get_args(Verify), "on_error": get_args(OnError)}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if self.fields is not None and not self.fields:
            raise ValueError("fields must name at least one field to read")
        if self.length_budget is not None and not self.length_budget:
            raise ValueError("length_budget must name at least one length, such as {tokens: 16384}")
        for name, budget in (self.length_budget or {}).items():
            if budget < 1:
                raise ValueError(f"length_budget: {name} must be at least 1, got {budget}")

    def num_threads(self, world: World) -> int:
        """Reader threads of one rank."""
        return self.threads or max(1, min(MAX_THREADS, usable_cores() // world.local_size))

    def window_of(self, dataset: ShardDataset) -> int:
        """How many shards of a data set are mixed at a time; 0 where all samples are."""
        window = self.window if self.window is not None else WINDOW_SHARDS if dataset.mirror is not None else 0
        return window if self.shuffle and window < dataset.num_shards else 0

    def most_quarantined(self, num_samples: int) -> int:
        """How many samples of a data set may be left out."""
        if 0 < self.max_quarantined < 1:
            return max(int(self.max_quarantined * num_samples), 1)
        return int(self.max_quarantined)

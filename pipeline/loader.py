"""Batches from shards: reader threads fill page-aligned slabs in an order known in advance.

    order --ids--> plan --(slab, rows)--> reader threads --> slab --> Batch
                                                               ^---------' comes back when its last tensor is gone

There are no worker processes, nothing is pickled and nothing goes through /dev/shm. The consumer's own thread plans:
each time it asks for a batch, every free slab is planned and handed to the threads, so that they are always ahead.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.auto import choose_reader
from pipeline.batch import Batch, BatchPlan
from pipeline.config import LoaderConfig
from pipeline.fetch import Fetcher
from pipeline.masking import Mask
from pipeline.order import in_order, permute
from pipeline.readers import ReaderName
from pipeline.slab import SlabLayout, SlabRing
from pipeline.stats import LoaderStats, StageClock
from pipeline.world import World
from shards.dataset import ShardDataset

STATE_FORMAT = 1
ROWS_PER_TASK = 8


@dataclass(frozen=True)
class _Pending:
    """A batch that reader threads are filling."""

    plan: BatchPlan
    futures: list[Future[None]]


class ShardLoader(IterableDataset[Batch]):
    """Yields this rank's part of each global batch, epoch after epoch; see the module's text and `LoaderConfig`.

    `for batch in loader` yields the rest of the current epoch. Every rank gets the same number of batches. With
    `state_dict` taken between two batches, a loader of any world size goes on with exactly the same global batches.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        config: LoaderConfig | None = None,
        mask: Mask | None = None,
        world: World | None = None,
    ) -> None:
        """Prepare; nothing is read and no thread started before the first batch is asked for.

        Raises:
            ValueError: the configuration does not fit the data set, the mask or the world.
        """
        self.dataset = dataset
        self.config = config or LoaderConfig()
        self.mask = mask
        self.world = world or World()
        self.epoch = 0
        self._batch = 0
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = os.getpid()
        self._check()
        self._slab_layout = self._lay_out()
        self._clock = StageClock()
        self._counts = {"batches": 0, "samples": 0, "padded": 0}
        self._ring = SlabRing(self._slab_layout.num_bytes, self.config.slabs, self.config.pin_memory)
        self._reader: str = self.config.reader
        self._fetcher = Fetcher(dataset, self.config)

    def _check(self) -> None:
        config, world = self.config, self.world
        if config.global_batch_size % world.size:
            raise ValueError(
                f"global_batch_size must be a multiple of the number of ranks: got {config.global_batch_size} "
                f"and {world.size}"
            )
        if not len(self):
            raise ValueError(
                f"{len(self.dataset)} samples do not fill one global batch of {config.global_batch_size}: "
                "use a smaller global_batch_size or drop_last: false"
            )
        names = self.mask.shapes if self.mask else {}
        for name in config.fields:
            self.dataset.schema["json" if name == "label" else name]
        for name, mask_name in config.gather.items():
            field_ = self.dataset.schema[name]
            if name not in config.fields or field_.layout != "tubes":
                raise ValueError(
                    f"gather: {name} must be among the fields and in the tubes layout, here it is {field_.layout}"
                )
            if mask_name not in names:
                raise ValueError(
                    f"gather: {name} needs a mask that draws {mask_name!r}, got {sorted(names) or 'no mask'}"
                )
            if self.mask and self.mask.num_positions != field_.num_positions:
                raise ValueError(
                    f"field {name} has {field_.num_positions} positions, the mask has {self.mask.num_positions}"
                )

    def _lay_out(self) -> SlabLayout:
        size = self.batch_size
        mask_shapes = self.mask.shapes if self.mask else {}
        arrays: dict[str, tuple[str, tuple[int, ...]]] = {"index": ("<i8", (size,)), "valid": ("|b1", (size,))}
        for name in self.config.fields:
            if name == "label":
                arrays[name] = ("<i8", (size,))
                continue
            field_ = self.dataset.schema[name]
            if field_.dtype is None or field_.shape is None:
                continue
            shape = field_.shape
            if name in self.config.gather:
                shape = (*mask_shapes[self.config.gather[name]], *shape[1:])
            arrays[name] = (field_.dtype, (size, *shape))
        arrays |= {name: ("<i8", (size, *shape)) for name, shape in mask_shapes.items()}
        return SlabLayout(arrays)

    @property
    def batch_size(self) -> int:
        """Samples in this rank's part of a batch."""
        return self.config.global_batch_size // self.world.size

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        full, rest = divmod(len(self.dataset), self.config.global_batch_size)
        return full + (rest > 0 and not self.config.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. A new iteration ends an older one that was left unfinished."""
        if get_worker_info() is not None:
            raise ValueError(
                "ShardLoader reads with threads of its own and must not run in DataLoader workers: use it directly, or "
                "DataLoader(loader, batch_size=None, num_workers=0)"
            )
        if self._batch >= len(self):
            self.epoch, self._batch = self.epoch + 1, 0
        self._fetcher.use(self._choose_reader())
        self._shut_down()
        self._pool_process = os.getpid()
        self._pool = pool = ThreadPoolExecutor(self.config.threads, thread_name_prefix="reelshard-reader")
        pending: deque[_Pending] = deque()
        try:
            for number in range(self._batch, len(self)):
                self._hand_out(pool, pending, number)
                self._wait(pending[0])
                self._batch = number + 1
                yielded = perf_counter()
                yield self._finish(pending.popleft().plan)  # no name holds the batch here: only its user does
                self._clock.add("consumer", perf_counter() - yielded)
                if self._pool is not pool:
                    raise RuntimeError("this iteration was ended by a newer one over the same loader, or by close()")
            self.epoch, self._batch = self.epoch + 1, 0
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _choose_reader(self) -> ReaderName:
        if self.config.reader != "auto":
            return self.config.reader
        reader, reason = choose_reader(self.dataset)
        self._reader = f"{reader} (auto: {reason})"
        return reader

    def _hand_out(self, pool: ThreadPoolExecutor, pending: deque[_Pending], number: int) -> None:
        """Plan batches into all free slabs and give them to the threads; at least batch `number` is under way then."""
        began = perf_counter()
        while (upcoming := number + len(pending)) < len(self):
            memory = self._ring.take(grow=not pending)
            if memory is None:
                break
            plan = self._plan(upcoming, memory)
            size = self.batch_size
            futures = [
                pool.submit(self._fetcher.fill, plan, start, min(start + ROWS_PER_TASK, size), self._clock)
                for start in range(0, size, ROWS_PER_TASK)
            ]
            pending.append(_Pending(plan, futures))
        self._clock.add("plan", perf_counter() - began)

    def _wait(self, pending: _Pending) -> None:
        began = perf_counter()
        for future in pending.futures:
            future.result()
        self._clock.add("wait", perf_counter() - began)

    def _plan(self, number: int, memory: np.ndarray[Any, np.dtype[np.uint8]]) -> BatchPlan:
        config = self.config
        start = number * config.global_batch_size + self.world.rank * self.batch_size
        first, last = min(start, len(self.dataset)), min(start + self.batch_size, len(self.dataset))
        order = permute if config.shuffle else in_order
        samples = order(len(self.dataset), config.seed, self.epoch, first, last)
        shards, rows = self.dataset.locate(samples)
        padding = [-1] * (self.batch_size - len(samples))
        arrays = self._slab_layout.views(memory)
        index = np.concatenate([samples, np.array(padding, np.int64)])
        arrays["index"][:] = index
        if self.mask:
            for name, positions in self.mask.draw(config.seed, self.epoch, np.maximum(index, 0)).items():
                arrays[name][:] = positions
        ragged = {name: [b""] * self.batch_size for name in config.fields if name != "label" and name not in arrays}
        return BatchPlan(
            epoch=self.epoch,
            number=number,
            samples=index.tolist(),
            shards=shards.tolist() + padding,
            rows=rows.tolist() + padding,
            memory=memory,
            arrays=arrays,
            ragged=ragged,
        )

    def _finish(self, plan: BatchPlan) -> Batch:
        tensors = {name: torch.from_numpy(array) for name, array in plan.arrays.items()}
        for name, pieces in plan.ragged.items():
            data = np.frombuffer(bytearray().join(pieces), np.uint8)
            tensors[name] = torch.from_numpy(data)
            tensors[f"{name}_offsets"] = torch.tensor([0, *np.cumsum([len(piece) for piece in pieces]).tolist()])
        self._counts["batches"] += 1
        self._counts["samples"] += int(plan.arrays["valid"].sum())
        self._counts["padded"] += plan.samples.count(-1)
        memory = torch.from_numpy(plan.memory)
        return Batch(tensors, epoch=plan.epoch, number=plan.number, memory=memory, layout=self._slab_layout)

    def state_dict(self) -> dict[str, int | str]:
        """The position of the next batch the consumer will get: a few integers, whatever the ranks and threads."""
        epoch, batch = (self.epoch, self._batch) if self._batch < len(self) else (self.epoch + 1, 0)
        return self._identity() | {"epoch": epoch, "batch": batch}

    def _identity(self) -> dict[str, int | str]:
        """What must agree for a state to mean the same batches."""
        return {
            "format": STATE_FORMAT,
            "dataset": self.dataset.digest,
            "seed": self.config.seed,
            "global_batch_size": self.config.global_batch_size,
            "shuffle": int(self.config.shuffle),
            "drop_last": int(self.config.drop_last),
        }

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go to the position of `state`; takes effect when the next iteration begins.

        Raises:
            ValueError: the state is of another data set, seed or global batch size; both values are named.
        """
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise ValueError(
                    f"the loader's state does not fit: {name} is {state.get(name)!r} in the state and {mine!r} here"
                )
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= batch < len(self):
            raise ValueError(
                f"the loader's state names batch {batch} of epoch {epoch}; an epoch has {len(self)} batches"
            )
        self.epoch, self._batch = epoch, batch

    def stats(self) -> LoaderStats:
        """What was done so far, and where the time went."""
        array_bytes = sum(
            region.num_bytes // self.batch_size
            for name, region in self._slab_layout.regions.items()
            if name in self.dataset.schema
        )
        return LoaderStats(
            reader=self._reader,
            num_batches=self._counts["batches"],
            num_samples=self._counts["samples"],
            num_bytes=self._counts["samples"] * array_bytes,
            num_padded=self._counts["padded"],
            num_quarantined=len(self._fetcher.quarantined),
            num_slabs=self._ring.num_allocated,
            wait_seconds=self._clock.seconds("wait"),
            plan_seconds=self._clock.seconds("plan"),
            consumer_seconds=self._clock.seconds("consumer"),
            read_seconds=self._clock.seconds("read"),
        )

    def close(self) -> None:
        """End a running iteration and close all files. Iterating again opens them anew."""
        self._shut_down()
        self._fetcher.close()

    def _shut_down(self) -> None:
        """Stop the reader threads of the current iteration, unless a fork left them behind in another process."""
        if self._pool is not None and self._pool_process == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def __enter__(self) -> ShardLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

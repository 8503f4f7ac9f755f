"""Batches from shards: reader threads fill page-aligned slabs in an order known in advance.

    order --ids--> plan --(slab, rows)--> reader threads --> slab --> Batch
                                                               ^---------' comes back when its last tensor is gone

There are no worker processes, nothing is pickled and nothing goes through /dev/shm. The consumer's own thread plans:
each time it asks for a batch, every free slab is planned and handed to the threads, so that they are always ahead.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.auto import choose_reader
from pipeline.batch import Batch, BatchPlan
from pipeline.config import LoaderConfig
from pipeline.decoders import Decoder, pad
from pipeline.fetch import Fetcher
from pipeline.masking import Mask
from pipeline.planner import Planner
from pipeline.readers import ReaderName
from pipeline.slab import SlabRing
from pipeline.stats import LoaderStats, StageClock
from pipeline.world import World
from shards.dataset import ShardDataset

log = logging.getLogger(__name__)

STATE_FORMAT = 1
ROWS_PER_TASK = 16


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
        *,
        decoders: Mapping[str, Decoder] | None = None,
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        """Prepare; nothing is read and no thread started before the first batch is asked for.

        Args:
            dataset: what is read.
            config: how.
            mask: drawn for every sample; adds its arrays to the batch.
            world: the ranks.
            decoders: ragged field -> what turns it into an array `[length, ...]` in the reader threads; the batch holds
                `field [B, longest, ...]`, zero behind each end, and `field_length [B]`.
            lengths: i64 `[num_samples]`, what counts for `length_budget`.

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
        self._decoders = dict(decoders or {})
        self._planner = Planner(dataset, self.config, mask, self.world, decoders=self._decoders, lengths=lengths)
        self._clock = StageClock()
        self._counts = {"batches": 0, "samples": 0, "padded": 0}
        self._ring = SlabRing(self._planner.slab_bytes, self.config.slabs, self.config.pin_memory)
        self._reader: str = self.config.reader
        self._fetcher = Fetcher(dataset, self.config, self._decoders)

    @property
    def batch_size(self) -> int:
        """Rows in this rank's part of a batch; with a length budget, the most there can be."""
        return self._planner.schedule.max_rows

    def __len__(self) -> int:
        """Batches in the current epoch, the same on every rank."""
        return self.num_batches(self.epoch)

    def num_batches(self, epoch: int) -> int:
        """Batches in any epoch; with a length budget it differs a little from epoch to epoch."""
        return self._planner.schedule.num_batches(epoch)

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
        said = f"{reader} (auto: {reason})"
        if not self._reader.startswith(f"{reader} "):
            log.info("reader %s", said)
        self._reader = said
        return reader

    def _hand_out(self, pool: ThreadPoolExecutor, pending: deque[_Pending], number: int) -> None:
        """Plan batches into all free slabs and give them to the threads; at least batch `number` is under way then."""
        began = perf_counter()
        while (upcoming := number + len(pending)) < len(self):
            memory = self._ring.take(grow=not pending)
            if memory is None:
                break
            plan = self._planner.plan(self.epoch, upcoming, memory)
            size = len(plan.samples)
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

    def _finish(self, plan: BatchPlan) -> Batch:
        tensors = {name: torch.from_numpy(array) for name, array in plan.arrays.items()}
        for name, pieces in plan.ragged.items():
            data = np.frombuffer(bytearray().join(pieces), np.uint8)
            tensors[name] = torch.from_numpy(data)
            tensors[f"{name}_offsets"] = torch.tensor([0, *np.cumsum([len(piece) for piece in pieces]).tolist()])
        for name, arrays in plan.decoded.items():
            tensors[name], tensors[f"{name}_length"] = pad(arrays)
        self._counts["batches"] += 1
        self._counts["samples"] += int(plan.arrays["valid"].sum())
        self._counts["padded"] += plan.samples.count(-1)
        memory = torch.from_numpy(plan.memory)
        return Batch(tensors, epoch=plan.epoch, number=plan.number, memory=memory, layout=plan.layout)

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
            "length_budget": self.config.length_budget or 0,
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
        num_batches = self._planner.schedule.num_batches(epoch)
        if epoch < 0 or not 0 <= batch < num_batches:
            raise ValueError(
                f"the loader's state names batch {batch} of epoch {epoch}; the epoch has {num_batches} batches"
            )
        self.epoch, self._batch = epoch, batch

    def stats(self) -> LoaderStats:
        """What was done so far, and where the time went."""
        return LoaderStats(
            reader=self._reader,
            num_batches=self._counts["batches"],
            num_samples=self._counts["samples"],
            num_bytes=self._counts["samples"] * self._planner.bytes_per_sample,
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

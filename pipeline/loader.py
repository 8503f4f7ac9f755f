"""Batches from shards: reader threads fill page-aligned slabs in an order known in advance.

    order --ids--> plan --(slab, rows)--> reader threads --> slab --> Batch
                                                               ^---------' comes back when its last tensor is gone

There are no worker processes, nothing is pickled and nothing goes through /dev/shm. The consumer's own thread plans:
each time it asks for a batch, every free slab is planned and handed to the threads, so that they are always ahead.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.accelerator import Accelerator, accelerator_of
from pipeline.batch.batch import Batch, BatchPlan
from pipeline.batch.planner import Planner
from pipeline.batch.slab import SlabRing
from pipeline.config import LoaderConfig
from pipeline.iteration import Iteration
from pipeline.order.draws import Draw
from pipeline.read.arrivals import Arrivals
from pipeline.read.auto import choose_reader
from pipeline.read.estimate import Estimate, estimate
from pipeline.read.fetch import Fetcher, Tally
from pipeline.read.prefetch import Prefetcher
from pipeline.read.readers import ReaderName
from pipeline.reads import Reads
from pipeline.state import identity_of, position_in, refuse_unfit
from pipeline.stats import LoaderStats, StageClock
from pipeline.world import World
from shards.dataset import ShardDataset

log = logging.getLogger(__name__)


class ShardLoader(IterableDataset[Batch]):
    """Yields this rank's part of each global batch, epoch after epoch; see the module's text and `LoaderConfig`.

    `for batch in loader` yields the rest of the current epoch. Every rank gets the same number of batches. With
    `state_dict` taken between two batches, a loader of any world size goes on with exactly the same global batches.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        config: LoaderConfig | None = None,
        mask: Draw | None = None,
        world: World | None = None,
        *,
        reads: Reads | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepare; no sample is read and no thread started before the first batch is asked for.

        Args:
            dataset: what is read.
            config: how it is read.
            mask: drawn for every sample; its arrays are in the batch, too. Short for the draw of `reads`.
            world: the ranks.
            reads: what is read of each sample; without it, what `fields` and `gather` of the configuration say.
            accelerator: where batches go, for which slabs are page-locked; without it, the GPU that is in use if
                `pin_memory` asks for that.

        Raises:
            ValueError: the parts do not fit together, or what is read was said twice.
        """
        self.dataset = dataset
        config, world = config or LoaderConfig(), world or World()
        self.config = dataclasses.replace(config, threads=config.num_threads(world))
        if reads is not None and (mask, self.config.fields, self.config.gather) != (None, None, None):
            raise ValueError("what is read was said twice: leave out mask, and the configuration's fields and gather")
        self.reads = reads or Reads.of(self.config, mask)
        self.world = world
        self.epoch = 0
        self._batch = 0
        self._locks_for = self._who_locks(accelerator)
        self._planner = Planner(dataset, self.config, self.reads, self.world)
        self._leaves_coded = False
        self._digest = dataset.digest_of(self._planner.fields)
        self._reader: str = self.config.reader
        self._make_own()

    def _who_locks(self, accelerator: Accelerator | None) -> Accelerator | None:
        if self.config.pin_memory and accelerator is None:
            accelerator = accelerator_of("cuda" if torch.cuda.is_available() else "cpu")
        travels = accelerator is not None and accelerator.travels
        if self.config.pin_memory and not travels:
            raise ValueError("pin_memory is true, but batches go to no GPU: leave it out, or set it to false")
        return accelerator if travels and self.config.pin_memory is not False else None

    def _make_own(self) -> None:
        """All that belongs to one process: threads, files, memory, counts, and the locks around them.

        A forked child makes its own and leaves alone what it inherited, since a thread that is not in the child may
        have held a lock at that moment.
        """
        self._process = os.getpid()
        self._iteration: Iteration | None = None
        self._arrivals: Arrivals | None
        self._prefetcher: Prefetcher | None
        self._clock = StageClock()
        self._counts = {"batches": 0, "samples": 0, "padded": 0, "bytes": 0, "checked": 0}
        self._ring = SlabRing(self.config.slabs, self._locks_for)
        self._arrivals = self._prefetcher = None
        if self.dataset.mirror is not None:
            fields, beyond = [part.field for part in self._planner.parts], not self.reads.held_out
            self._arrivals = Arrivals(
                self.dataset, self.dataset.mirror, fields, self.world, named=self.config.verify == "always"
            )
            self._prefetcher = Prefetcher(self.dataset, self._arrivals, self._planner.schedule, beyond=beyond)
        self._fetcher = Fetcher(self.dataset, self.config, self._planner.parts, self._arrivals)

    def _after_fork(self) -> None:
        if os.getpid() != self._process:
            self._make_own()

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
        """The rest of the current epoch. A new iteration ends an older one that was left unfinished.

        Reading ahead goes on beyond the end of an epoch; its threads end with `close`, or with the loader.
        """
        if get_worker_info() is not None:
            raise ValueError(
                "ShardLoader reads with threads of its own and must not run in DataLoader workers: use it directly, or "
                "DataLoader(loader, batch_size=None, num_workers=0)"
            )
        self._after_fork()
        if self._batch >= len(self):
            self.epoch, self._batch = self.epoch + 1, 0
        self._fetcher.use(self._choose_reader())
        iteration = self._go_on()
        try:
            for number in range(self._batch, len(self)):
                with iteration.running():
                    if self._prefetcher is not None:
                        self._prefetcher.advance(self.epoch, number)
                    iteration.fill()
                self._batch = number + 1
                yielded = perf_counter()
                yield self._finish(*iteration.take())  # no name holds the batch here: only its user does
                iteration.check()
                self._clock.add("consumer", perf_counter() - yielded)
            self.epoch, self._batch = self.epoch + 1, 0
            iteration.idle = not self.reads.held_out
        finally:
            if not iteration.idle:
                with iteration.running():
                    if self._prefetcher is not None:
                        self._prefetcher.stop()
                iteration.end("its own loop")
                if self._iteration is iteration:
                    self._iteration = None
                elif self._iteration is None:  # closed by a signal's handler, since when readers may have opened files
                    self._fetcher.close()

    def _go_on(self) -> Iteration:
        """The iteration of the epoch before, if it has read ahead to this position; else a new one."""
        iteration, position = self._iteration, (self.epoch, self._batch)
        if iteration is None or not iteration.idle or iteration.position != position:
            self._end_iteration("a newer one over the same loader")
            parts = (self._planner, self._fetcher, self._ring, self._clock)
            beyond = not self.reads.held_out
            iteration = Iteration(*parts, threads=self.config.num_threads(self.world), position=position, beyond=beyond)
        iteration.idle = False
        self._iteration = iteration
        return iteration

    def _choose_reader(self) -> ReaderName:
        if self.config.reader != "auto":
            return self.config.reader
        reader, reason = choose_reader(self.dataset)
        said = f"{reader} (auto: {reason})"
        if not self._reader.startswith(f"{reader} "):
            log.info("reader %s", said)
        self._reader = said
        return reader

    def _finish(self, plan: BatchPlan, tally: Tally) -> Batch:
        tensors = {name: torch.from_numpy(array) for name, array in plan.arrays.items()}
        self._counts["batches"] += 1
        self._counts["bytes"] += tally.num_bytes
        self._counts["checked"] += tally.num_checked
        self._counts["samples"] += int(plan.arrays["valid"].sum())
        self._counts["padded"] += plan.samples.count(-1)
        memory = torch.from_numpy(plan.memory)
        place: dict[str, Any] = {"epoch": plan.epoch, "number": plan.number}
        return Batch(tensors, **place, memory=memory, layout=plan.layout, coded=self._planner.left_coded)

    def leave_coded(self) -> None:
        """From the next iteration on hold fields with a codec as that has stored them; `Batch.coded` names them.

        For `DeviceLoader`, which decodes them on the device. Without it, reader threads decode.
        """
        if not self._leaves_coded and any(part.field.codec is not None for part in self._planner.parts):
            self.close()
            self._planner = Planner(self.dataset, self.config, self.reads, self.world, leave_coded=True)
            self._make_own()
        self._leaves_coded = True

    def ready(self) -> bool:
        """Whether the next batch of a running iteration is filled."""
        return self._batch < len(self) and self._iteration is not None and self._iteration.ready()

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch the consumer will get: a few integers, whatever the ranks and threads."""
        epoch, batch = (self.epoch, self._batch) if self._batch < len(self) else (self.epoch + 1, 0)
        return identity_of(self.config, self.dataset, self._digest) | {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position of `state`; takes effect when the next iteration begins.

        Raises:
            ValueError: it is no state, or of another data set, seed or global batch size; both values are named.
        """
        refuse_unfit(state, self.config, self.dataset, self._digest)
        self.epoch, self._batch = position_in(state, self.num_batches)

    def estimate(self) -> Estimate:
        """What an epoch will ask of the store that the data set is in.

        Raises:
            ValueError: the data set is on this machine.
        """
        self._after_fork()
        if self._arrivals is None:
            raise ValueError(f"{self.dataset.place} is on this machine: nothing is asked of a store")
        return estimate(self.dataset, self._arrivals, self.config.window_of(self.dataset))

    def stats(self) -> LoaderStats:
        """What was done so far in this process, and where the time went."""
        self._after_fork()
        return LoaderStats(
            reader=self._reader,
            num_batches=self._counts["batches"],
            num_samples=self._counts["samples"],
            num_bytes=self._counts["bytes"],
            num_padded=self._counts["padded"],
            num_checked=self._counts["checked"],
            num_decoded=self._clock.count("decode"),
            num_quarantined=len(self._fetcher.quarantine),
            num_slabs=self._ring.num_allocated,
            wait_seconds=self._clock.seconds("wait"),
            plan_seconds=self._clock.seconds("plan"),
            consumer_seconds=self._clock.seconds("consumer"),
            read_seconds=self._clock.seconds("read"),
            decode_seconds=self._clock.seconds("decode"),
        )

    def close(self) -> None:
        """End a running iteration and close all files; from any thread. Iterating again opens them anew."""
        self._after_fork()
        inside = self._iteration is not None and self._iteration.runs_here()
        if self._prefetcher is not None and not inside:
            self._prefetcher.stop()
        self._end_iteration("close()")
        self._fetcher.close()

    def _end_iteration(self, by: str) -> None:
        iteration, self._iteration = self._iteration, None
        if iteration is not None:
            iteration.end(by)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ShardLoader has threads, open files and memory of its own and cannot be pickled or copied: make one in "
            "each process and hand over its state_dict(). It needs no DataLoader workers (num_workers=0)"
        )

    def __del__(self) -> None:
        iteration: Iteration | None = self.__dict__.get("_iteration")
        if iteration is not None:
            iteration.end("the end of its loader")

    def __enter__(self) -> ShardLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

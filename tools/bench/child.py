"""One contender in a process of its own, or several in turn: measures and prints one line of JSON.

python -m tools.bench.child '{"data": "DATASET", "contenders": ["reelshard:mmap", "bare"], ...}'
"""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch

from pipeline.world import World
from shards.dataset import ShardDataset
from tools.bench.check import EVERY, Arrived, Checker
from tools.bench.contenders import DEFAULT_VERIFY, Bare, Case, Contender, MemoryCopy, Reelshard
from tools.bench.peers import PEERS
from tools.bench.storage import drop_cache

LOOPS: dict[str, type[Bare] | type[MemoryCopy]] = {"bare": Bare, "copy": MemoryCopy}


@dataclass(kw_only=True)
class Task:
    """What a worker measures.

    Attributes:
        data: the data set.
        contenders: names such as "reelshard:auto", "reelshard:mmap:always" (reader and verify), "bare", "copy" or
            "webdataset:2" (peer and setting), taken in turn.
        case: fields of `Case`.
        seconds: how long to go on, at least one epoch each after the first.
        cold: drop the page cache before each epoch, and measure one epoch.
        rank: rank of this process among `ranks` that run at once.
        ranks: how many.
        begin_at: wall-clock time at which measuring starts, for several processes.
    """

    data: str
    contenders: list[str]
    case: dict[str, Any] = field(default_factory=dict)
    seconds: float = 3.0
    cold: bool = False
    rank: int = 0
    ranks: int = 1
    begin_at: float = 0.0


@dataclass(kw_only=True)
class Measured:
    """What came out, per contender."""

    name: str
    startup_seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    memory_bytes: int = 0
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Clips per second: the median over epochs."""
        return statistics.median(self.rates) if self.rates else 0.0


def make(name: str, dataset: ShardDataset, case: Case, world: World) -> Contender:
    """A contender by name.

    Raises:
        ValueError: there is none of that name.
    """
    kind, _, setting = name.partition(":")
    if kind == "reelshard":
        reader, _, verify = setting.partition(":")
        return Reelshard(dataset, case, reader or "auto", world, verify or DEFAULT_VERIFY)  # type: ignore[arg-type]
    if kind in LOOPS:
        return LOOPS[kind](dataset, case)
    if kind in PEERS:
        return PEERS[kind](dataset, case, int(setting))
    raise ValueError(f"no contender {kind!r}; there are reelshard, {', '.join((*LOOPS, *PEERS))}")


def run_epoch(contender: Contender, checker: Checker | None, every: int = 1) -> tuple[int, float, float]:
    """Samples, seconds, and seconds until the first batch. One batch of `every` is checked, drawn at random."""
    began = perf_counter()
    first = 0.0
    samples = 0
    for batch in contender.epoch():
        first = first or perf_counter() - began
        if isinstance(batch, Arrived):
            samples += len(batch)
            if checker and random.randrange(every) == 0:
                checker.check(batch)
        else:
            samples += batch
        del batch
    return samples, perf_counter() - began, first


def measure(task: Task) -> list[Measured]:
    """Run the contenders in turn, epoch by epoch, until the time is over."""
    dataset = ShardDataset.open(Path(task.data))
    case, world = Case(**task.case), World(rank=task.rank, size=task.ranks)
    paths = [dataset.tar_path(shard) for shard in range(dataset.num_shards)]
    checker = None if task.cold else Checker(dataset)
    results = {name: Measured(name=name) for name in task.contenders}
    contenders: dict[str, Contender] = {}
    base = 0
    time.sleep(max(0.0, task.begin_at - time.time()))
    for name, result in results.items():
        if task.cold:
            drop_cache(paths)
        before = _memory_bytes()
        base = base or before
        began = perf_counter()
        contenders[name] = make(name, dataset, case, world)
        constructed = perf_counter() - began
        samples, seconds, first = run_epoch(contenders[name], checker)
        result.startup_seconds = constructed + first
        result.memory_bytes = base + _memory_bytes() - before
        if task.cold:
            result.rates.append(samples / seconds)
    deadline = perf_counter() + task.seconds * len(results)
    while not task.cold and (perf_counter() < deadline or not results[task.contenders[-1]].rates):
        for name, contender in contenders.items():
            samples, seconds, _ = run_epoch(contender, checker, EVERY)
            results[name].rates.append(samples / seconds)
    for name, contender in contenders.items():
        if isinstance(contender, Reelshard):
            results[name].stats = asdict(contender.loader.stats())
    return list(results.values())


def _memory_bytes() -> int:
    """Private and shared-anonymous memory of this process; mapped files do not count."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def main() -> int:
    """Measure what the first argument asks for."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    output = os.dup(1)
    os.dup2(2, 1)  # peers print on stdout; only the result belongs there
    results = measure(Task(**json.loads(sys.argv[1])))
    with os.fdopen(output, "w") as stream:
        json.dump([asdict(result) for result in results], stream)
    return 0


if __name__ == "__main__":
    sys.exit(main())

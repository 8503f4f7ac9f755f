"""Checks by doing: read, verify, batch, train for a moment, and look at what that took."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from tools.loaders import make_loader
from tools.preflight.finding import Finding, Status, check
from tools.preflight.shared_memory import SharedMemoryWatch
from tools.systems import system_of
from tools.systems.base import Recipe
from training.learner import Learner
from training.metrics import Window
from training.optim import refuse_long_warmup

FULL = 0.9  # a share of memory or disk above which a run is at risk
NUM_STEPS = 3


class Rehearsal:
    """One data set and one student, as the run will have them."""

    def __init__(
        self, recipe: Recipe, data: Path, out: Path, *, device: torch.device, world: World, num_batches: int
    ) -> None:
        """Make a student; nothing is read yet."""
        self.recipe, self.data, self.out = recipe, data, out
        self.device, self.world, self.num_batches = device, world, num_batches
        torch.manual_seed(recipe.train.seed)
        self.system = system_of(recipe)
        self.objective = self.system.make_objective(recipe)
        self._loader: DeviceLoader | None = None

    def close(self) -> None:
        """Close the data set."""
        if self._loader is not None:
            self._loader.close()

    def data_checks(self) -> list[Finding]:
        """Those that a rank makes alone; what needs a data set is left out where there is none."""
        findings = [check("data set", self._data_set)]
        if findings[0].status != "fail":
            findings.append(check("loader", self._make_loader))
        if self._loader is not None:
            findings += [check("batch", self._batch), *self._further(), check("stress run", self._stress)]
        return [*findings, check("disk", self._disk)]

    def training_checks(self) -> list[Finding]:
        """Those that all ranks make together."""
        return [check("training", self._train), check("memory", self._memory)]

    def _data_set(self) -> tuple[Status, str]:
        dataset = ShardDataset.open(self.data)
        for number in {0, len(dataset) // 2, len(dataset) - 1}:
            dataset[number]  # compares checksums
        what = f"{self.data.resolve()}, split {dataset.manifest.split}: {len(dataset):,} samples in "
        what += f"{len(dataset.manifest.shards)} shards, digest {dataset.digest[:12]}; 3 samples verified"
        failed = sum(dataset.manifest.failures.values())
        return ("warn", f"{what}; {failed} videos could not be built") if failed else ("pass", what)

    def _make_loader(self) -> tuple[Status, str]:
        dataset = ShardDataset.open(self.data)
        self._feed = self.system.feed(self.recipe, dataset)
        self._loader = make_loader(self.recipe, dataset, self._feed, self.device, self.world)
        data = self.recipe.data
        refuse_long_warmup(self.recipe.train.num_steps(self._loader.num_batches), self.recipe.optim)
        what = f"global batch {data.global_batch_size} = {self.world.size} x {self._shards.batch_size}"
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft < 256:
            return "warn", f"{what}; only {soft} open files are allowed: ulimit -n 4096"
        return "pass", f"{what}, {data.threads} threads, reader {data.reader}, {len(self._shards)} batches an epoch"

    @property
    def _shards(self) -> ShardLoader:
        assert self._loader is not None
        assert isinstance(self._loader.loader, ShardLoader)
        return self._loader.loader

    def _batch(self) -> tuple[Status, str]:
        assert self._loader is not None
        batch = next(iter(self._loader))
        size = self._shards.batch_size
        if not bool(batch["valid"].all()):
            return "fail", f"{size - int(batch['valid'].sum())} samples of the first batch could not be read"
        for name, shape in self._feed.shapes.items():
            found = tuple(batch[name].shape)
            if not _agree(found, (size, *shape)):
                return "fail", f"{name} is {list(found)}, the system expects {[size, *shape]}"
        self.system.check_batch(self.recipe, batch)
        for name, value in batch.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                return "fail", f"{name} has values that are not finite, in one of samples {batch['index'].tolist()}"
        return "pass", ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())

    def _further(self) -> list[Finding]:
        """What else the system looks at."""
        looks, rows = self.system.rehearsals(self.recipe), self._shards.batch_size
        return [check(name, partial(_passes, look, self._shards.dataset, rows)) for name, look in looks.items()]

    def _stress(self) -> tuple[Status, str]:
        """Read batches as fast as they come; nothing of it may go through /dev/shm, not even for a moment."""
        assert self._loader is not None
        epochs = itertools.chain.from_iterable(itertools.repeat(self._loader))
        with SharedMemoryWatch() as shared:
            began = time.perf_counter()
            for _ in itertools.islice(epochs, self.num_batches):
                pass
            seconds = time.perf_counter() - began
        stats = self._shards.stats()
        clips = self.num_batches * self._shards.batch_size / seconds
        num_bytes = stats.num_bytes / max(stats.num_samples, 1)
        what = f"{self.num_batches} batches, {clips:,.0f} clips/s, {clips * num_bytes / 1e9:.2f} GB/s on this rank, "
        what += f"reader {stats.reader}, {stats.num_quarantined} left out; {shared.describe()}"
        return ("warn" if stats.num_quarantined or shared.grown_bytes else "pass"), what

    def _disk(self) -> tuple[Status, str]:
        place = self.out.resolve()
        while not place.exists():
            place = place.parent
        num_bytes = 3 * 4 * sum(p.numel() for p in self.objective.parameters())  # weights and two moments
        needed = num_bytes * (self.recipe.train.keep_checkpoints + 2)  # the best, and one being written
        free = shutil.disk_usage(place).free
        needs = f"{needed / 2**30:.2f} GiB for checkpoints of {num_bytes / 2**30:.2f} GiB each"
        what = f"{needs}; {free / 2**30:.1f} GiB are free in {place}"
        return ("fail" if needed > free else "warn" if needed > FULL * free else "pass"), what

    def _train(self) -> tuple[Status, str]:
        """A few steps at a learning rate of zero, through the code of the run."""
        assert self._loader is not None
        config = dataclasses.replace(self.recipe.train, compile=None)
        learner = Learner(self.objective, config, self.recipe.optim, self.world, self.device)
        window = Window(self.device, self._loader.stats())
        for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(self._loader)), NUM_STEPS):
            result = learner.step(batch, 0.0, window.clock)
            window.add(result)
        row = window.row(self._loader.stats(), self.world)
        if "loss" not in row:
            return "fail", f"loss or gradient was not finite in each of {NUM_STEPS} steps"
        precision = str(learner.dtype or "float32").removeprefix("torch.")
        what = f"{NUM_STEPS} steps in {precision}, loss {row['loss']:.4f}, gradient norm {row['grad_norm']:.3g}, "
        what += f"{row['clips_per_second']:,.0f} clips/s with the first step's preparations"
        mode = self.recipe.train.compile
        return "pass", what if mode is None else f"{what}; torch.compile ({mode}) was not tried"

    def _memory(self) -> tuple[Status, str]:
        if self.device.type == "cuda":
            used = torch.cuda.max_memory_reserved(self.device)
            total = torch.cuda.get_device_properties(self.device).total_memory
            advice = "--train.chunk_size or --train.recompute true need less"
        else:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            total, advice = _memory_bytes(), "use a smaller model or batch"
        what = f"at most {used / 2**30:.1f} of {total / 2**30:.1f} GiB"
        return ("warn", f"{what}; {advice}") if used > FULL * total else ("pass", what)


def _passes(look: Callable[[ShardDataset, int], str], dataset: ShardDataset, rows: int) -> tuple[Status, str]:
    return "pass", look(dataset, rows)


def _agree(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether a shape is the expected one, in which None is any length."""
    return len(found) == len(expected) and all(e in (None, f) for f, e in zip(found, expected, strict=True))


def _memory_bytes() -> int:
    """Memory of this machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/meminfo does not say how much memory there is")

"""Checks by doing: read, verify, batch, train for a moment, and look at what that took."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psutil
import torch

from pipeline.accelerator import Accelerator
from pipeline.device import DeviceLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from tools.datasets import full_place, open_dataset, refuse_other_mix
from tools.loaders import TrainingLoader, spell_batch
from tools.preflight.finding import Finding, Status, check
from tools.preflight.shared_memory import SharedMemoryWatch
from tools.systems import system_of
from tools.systems.base import Recipe
from training.compiling import compile_mode
from training.learner import Learner
from training.metrics import Interval
from training.optim import refuse_long_warmup

FULL = 0.9  # a share of memory or disk above which a run is at risk
NUM_STEPS = 3


class Rehearsal:
    """The data sets and the student, as the run will have them."""

    def __init__(
        self,
        recipe: Recipe,
        data: Mapping[str, Path],
        out: Path,
        accelerator: Accelerator,
        world: World,
        *,
        num_batches: int,
    ) -> None:
        """Make a student; nothing is read yet. `data` is by source, "" where there is one."""
        self.recipe, self.data, self.out = recipe, data, out
        self.accelerator, self.world, self.num_batches = accelerator, world, num_batches
        torch.manual_seed(recipe.train.seed)
        self.system = system_of(recipe)
        self.objective = self.system.make_objective(recipe)
        self._loader: TrainingLoader | None = None

    def close(self) -> None:
        """Close the data sets."""
        if self._loader is not None:
            self._loader.close()

    def data_checks(self) -> list[Finding]:
        """Those that a rank makes alone; what needs a data set is left out where there is none."""
        findings = [check(_named("data set", name), partial(self._data_set, path)) for name, path in self.data.items()]
        if all(finding.status != "fail" for finding in findings):
            findings.append(check("loader", self._make_loader))
        if self._loader is not None:
            for name in self._loader.sources:
                findings.append(check(_named("batch", name), partial(self._batch, name)))
                findings += self._further(name)
            findings.append(check("stress run", self._stress))
        return [*findings, check("disk", self._disk)]

    def training_checks(self) -> list[Finding]:
        """Those that all ranks make together."""
        return [check("training", self._train), check("memory", self._memory)]

    def _data_set(self, path: Path) -> tuple[Status, str]:
        dataset = open_dataset(path, self.recipe.data)
        for number in {0, len(dataset) // 2, len(dataset) - 1}:
            dataset[number]  # compares checksums
        what = f"{full_place(dataset)}, split {dataset.manifest.split}: {len(dataset):,} samples in "
        what += f"{len(dataset.manifest.shards)} shards, digest {dataset.digest[:12]}; 3 samples verified"
        failed = sum(dataset.manifest.failures.values())
        return ("warn", f"{what}; {failed} videos could not be built") if failed else ("pass", what)

    def _make_loader(self) -> tuple[Status, str]:
        refuse_other_mix(self.recipe.data, self.data)
        datasets = {name: open_dataset(path, self.recipe.data) for name, path in self.data.items()}
        self._loader = loader = TrainingLoader(self.recipe, datasets, self.accelerator, self.world)
        data = self.recipe.data
        refuse_long_warmup(self.recipe.train.num_steps(loader.num_batches), self.recipe.optim)
        threads = data.num_threads(self.world)
        what = f"{spell_batch(loader, self.recipe, self.world)}, {threads} threads, reader {data.reader}"
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft < 256:
            return "warn", f"{what}; only {soft} open files are allowed: ulimit -n 4096"
        return "pass", f"{what}, {len(loader)} batches an epoch"

    def _batch(self, name: str) -> tuple[Status, str]:
        """The first batch of a source, by what the system expects of it."""
        assert self._loader is not None
        feed = self._loader.feeds[name]
        batch = next(iter(DeviceLoader(self._loader.sources[name], self.accelerator, normalize=feed.normalize)))
        batch.source = name
        broken = int((~batch["valid"] & (batch["index"] >= 0)).sum())
        if broken:
            return "fail", f"{broken} samples of the first batch could not be read"
        for field, shape in feed.shapes.items():
            expected: tuple[int | None, ...] = (len(batch["valid"]), *shape)
            if field not in batch or not _agree(tuple(batch[field].shape), expected):
                found = list(batch[field].shape) if field in batch else "not in the batch"
                return "fail", f"{field} is {found}, the system expects {list(expected)}"
        self.system.check_batch(self.recipe, batch)
        for field, value in batch.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                return "fail", f"{field} has values that are not finite, in one of samples {batch['index'].tolist()}"
        return "pass", ", ".join(f"{field} {list(value.shape)}" for field, value in batch.items())

    def _further(self, name: str) -> list[Finding]:
        """What else the system looks at."""
        assert self._loader is not None
        source, looks = self._loader.sources[name], self.system.rehearsals(self.recipe)
        return [
            check(_named(what, name), partial(_passes, look, source.dataset, source.batch_size))
            for what, look in looks.items()
        ]

    def _stress(self) -> tuple[Status, str]:
        """Read batches as fast as they come; nothing of it may go through /dev/shm, not even for a moment."""
        assert self._loader is not None
        epochs = itertools.chain.from_iterable(itertools.repeat(self._loader))
        before = self._loader.stats()
        with SharedMemoryWatch() as shared:
            began = time.perf_counter()
            for _ in itertools.islice(epochs, self.num_batches):
                pass
            seconds = time.perf_counter() - began
        stats = self._loader.stats()
        clips = (stats.num_samples - before.num_samples) / seconds
        rate = (stats.num_bytes - before.num_bytes) / seconds
        what = f"{self.num_batches} batches, {clips:,.0f} clips/s, {rate / 1e9:.2f} GB/s on this rank, "
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
        learner = Learner(self.objective, config, self.recipe.optim, self.world, self.accelerator)
        window = Interval(self.accelerator, self._loader.stats())
        for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(self._loader)), NUM_STEPS):
            result = learner.step(batch, 0.0, window.clock)
            window.add(result)
        row = window.row(self._loader.stats(), self.world)
        if "loss" not in row:
            return "fail", f"loss or gradient was not finite in each of {NUM_STEPS} steps"
        precision = str(learner.dtype or "float32").removeprefix("torch.")
        what = f"{NUM_STEPS} steps in {precision}, loss {row['loss']:.4f}, gradient norm {row['grad_norm']:.3g}, "
        what += f"{row['clips_per_second']:,.0f} clips/s with the first step's preparations"
        mode = compile_mode(self.recipe.train.compile, self.accelerator.device)
        return "pass", what if mode is None else f"{what}; torch.compile ({mode}) was not tried"

    def _memory(self) -> tuple[Status, str]:
        device = self.accelerator.device
        if device.type == "cuda":
            used = torch.cuda.max_memory_reserved(device)
            total = torch.cuda.get_device_properties(device).total_memory
            advice = "--train.chunk_size or --train.recompute true need less"
        else:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            total, advice = psutil.virtual_memory().total, "use a smaller model or batch"
        what = f"at most {used / 2**30:.1f} of {total / 2**30:.1f} GiB"
        return ("warn", f"{what}; {advice}") if used > FULL * total else ("pass", what)


def _named(what: str, source: str) -> str:
    return f"{what} {source}" if source else what


def _passes(look: Callable[[ShardDataset, int], str], dataset: ShardDataset, rows: int) -> tuple[Status, str]:
    return "pass", look(dataset, rows)


def _agree(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether a shape is the expected one, in which None is any length."""
    return len(found) == len(expected) and all(e in (None, f) for f, e in zip(found, expected, strict=True))

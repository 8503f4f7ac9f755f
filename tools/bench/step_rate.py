"""How fast a system trains: one setting after the other, each with its own student, and where a step's time goes."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import psutil
import torch
from torch import Tensor

from model.blocks import ShortForm, use_short_form
from pipeline.accelerator import Accelerator
from pipeline.batch.batch import Batch
from pipeline.world import World
from shards.dataset import ShardDataset
from tools.bench.roofline import Work, count_step, measure_peaks
from tools.loaders import TrainingLoader
from tools.systems import system_of
from tools.systems.base import Recipe
from training.clock import STAGES, StepClock
from training.flops import model_flops_utilisation
from training.learner import Learner
from training.memory import chunk_that_fits
from training.metrics import Interval
from training.peaks import Peaks, peaks_of

NUM_WARM_UP = 3  # steps in which kernels are chosen and compiled
NUM_COPIES = 5
NUM_LINK_BYTES = 2**27


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of taking the recipe's step.

    Attributes:
        name: on the command line.
        train: values of the section `train` that differ from the recipe's.
        short_form: of attention over time.
    """

    name: str
    train: Mapping[str, Any] = field(default_factory=dict)
    short_form: ShortForm = "matmul"


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="recipe"),
        Variant(name="eager", train={"compile": None}),
        Variant(name="compiled", train={"compile": "default"}),
        Variant(name="fp32", train={"precision": "fp32"}),
        Variant(name="bf16", train={"precision": "bf16"}),
        Variant(name="fp16", train={"precision": "fp16"}),
        Variant(name="recompute", train={"recompute": True}),
        Variant(name="sdpa", short_form="sdpa"),
    )
}


@dataclass(frozen=True, kw_only=True)
class StepRate:
    """What one variant gave at one batch size.

    Attributes:
        variant: its name.
        batch_size: samples of a step.
        chunk_size: of them at once; less than asked for where memory was short.
        out_of_memory: whether it was.
        precision: of the forward pass.
        compiled: mode of `torch.compile`.
        device: its name.
        clips_per_second: of steps behind the first ones.
        seconds: of a step, by stage, the whole as "step", and "other" for what is in no stage.
        data_wait_share: of the time.
        copy_seconds: of a batch's way to the device, beside the steps; None where it stays where it was read.
        copy_bytes_per_second: likewise.
        link_bytes_per_second: of one large page-locked copy, the most that the way there gives.
        memory_gib: the most, by name.
        mfu: share of the peak.
        work: of a step.
        peaks: of the device.
    """

    variant: str
    batch_size: int
    chunk_size: int
    out_of_memory: bool
    precision: str
    compiled: str | None
    device: str
    clips_per_second: float
    seconds: Mapping[str, float]
    data_wait_share: float
    copy_seconds: float | None
    copy_bytes_per_second: float | None
    link_bytes_per_second: float | None
    memory_gib: Mapping[str, float]
    mfu: float
    work: Work
    peaks: Peaks


def measure_step(
    recipe: Recipe,
    datasets: Mapping[str, ShardDataset],
    variant: Variant,
    *,
    batch_size: int,
    seconds: float,
    peaks: Peaks | None = None,
) -> StepRate:
    """Train for a moment at a rate of zero, through the loader and the code of a run.

    Args:
        recipe: of any system.
        datasets: by source.
        variant: what differs from the recipe.
        batch_size: samples of a step.
        seconds: how long, in whole steps, one at least.
        peaks: of the device; without them those of its data sheet, or measured.

    Raises:
        ValueError: The variant cannot be had here, or not one sample fits into memory.
    """
    train = replace(recipe.train, **variant.train)
    recipe = replace(recipe, train=train, data=replace(recipe.data, global_batch_size=batch_size, mix=None))
    torch.manual_seed(train.seed)
    accelerator, system = train.accelerator(), system_of(recipe)
    objective = system.make_objective(recipe)
    use_short_form(objective, variant.short_form)
    _forget_peaks(accelerator.device)
    learner = Learner(objective, train, recipe.optim, World(), accelerator)
    with contextlib.closing(TrainingLoader(recipe, datasets, accelerator, World())) as loader:
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        chunk_size = _warm_up(learner, batches)
        window = _train(learner, loader, batches, seconds)
        row = window.row(loader.stats())
        memory = _memory(accelerator)
        batch = next(batches)
        copy_bytes, copy_seconds = _copy(loader, accelerator)
        link = None if copy_seconds is None else _link(accelerator)
    size, step = len(batch["valid"]), window.seconds / window.num_steps
    fresh = system.make_objective(recipe).to(accelerator.device)
    work, forward_flops = count_step(fresh, batch, size, learner.autocast)
    peaks = peaks or peaks_of(accelerator.device) or measure_peaks(accelerator, learner.dtype or torch.float32)
    stages = {stage: row[f"{stage}_seconds"] for stage in STAGES}
    return StepRate(
        variant=variant.name,
        batch_size=batch_size,
        chunk_size=min(chunk_size or size, size),
        out_of_memory=chunk_size != train.chunk_size,
        precision=str(learner.dtype or torch.float32).removeprefix("torch."),
        compiled=learner.compiled,
        device=accelerator.name,
        clips_per_second=row["clips_per_second"],
        seconds={**stages, "other": max(step - sum(stages.values()), 0.0), "step": step},
        data_wait_share=row["data_wait_share"],
        copy_seconds=copy_seconds,
        copy_bytes_per_second=None if copy_seconds is None else copy_bytes / copy_seconds,
        link_bytes_per_second=link,
        memory_gib=memory,
        mfu=model_flops_utilisation(forward_flops * row["clips_per_second"], peaks.flops_per_second),
        work=work,
        peaks=peaks,
    )


def _warm_up(learner: Learner, batches: Iterator[Batch]) -> int | None:
    """Take the first steps; where memory is short, in chunks that fit. Returns the chunk size that it became."""
    for batch in itertools.islice(batches, NUM_WARM_UP):
        taken = False
        with contextlib.suppress(torch.OutOfMemoryError):
            learner.step(batch, 0.0, StepClock(learner.accelerator))
            taken = True
        if not taken:
            at_once = min(learner.config.chunk_size or len(batch["valid"]), len(batch["valid"]))
            size = chunk_that_fits(learner, batch, below=at_once)
            if size is None:
                raise ValueError(f"not one sample fits into the memory of {learner.device}; take a smaller model")
            learner.config = replace(learner.config, chunk_size=size)
            learner.step(batch, 0.0, StepClock(learner.accelerator))
    return learner.config.chunk_size


def _train(learner: Learner, loader: TrainingLoader, batches: Iterator[Batch], seconds: float) -> Interval:
    window, began = Interval(learner.accelerator, loader.stats()), perf_counter()
    while not window.num_steps or perf_counter() - began < seconds:
        with window.clock.stage("data"):
            batch = next(batches)
        window.add(learner.step(batch, 0.0, window.clock))
        del batch
    return window


def _copy(loader: TrainingLoader, accelerator: Accelerator) -> tuple[int, float | None]:
    """Bytes of a batch, and the seconds of its way to the device with nothing beside it; none where it stays."""
    if not accelerator.travels:
        return 0, None
    batch = next(iter(next(iter(loader.sources.values()))))
    tensors = list(batch.values()) if batch.memory is None else [batch.memory]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return num_bytes, _fastest_copy(tensors, accelerator)


def _link(accelerator: Accelerator) -> float:
    """Bytes a second of a large copy out of page-locked memory."""
    locked = torch.zeros(NUM_LINK_BYTES, dtype=torch.uint8, pin_memory=accelerator.device.type == "cuda")
    return NUM_LINK_BYTES / _fastest_copy([locked], accelerator)


def _fastest_copy(tensors: list[Tensor], accelerator: Accelerator) -> float:
    """Seconds until tensors of the host are on the device, with nothing beside it."""
    times = []
    for _ in range(NUM_COPIES):
        begin = accelerator.stamp()
        copies, mark = accelerator.copy(tensors)
        accelerator.wait_for(mark)
        end = accelerator.stamp()
        accelerator.synchronize()
        times.append(accelerator.seconds_between(begin, end))
        for copy in copies:
            accelerator.keep(copy)
        del copies
    return min(times)


def _forget_peaks(device: torch.device) -> None:
    """Give back what the variant before has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _memory(accelerator: Accelerator) -> dict[str, float]:
    """GiB at most, by name: those of a GPU, or what the process holds now."""
    own = accelerator.memory()
    return own or {"process_gib": psutil.Process().memory_info().rss / 2**30}

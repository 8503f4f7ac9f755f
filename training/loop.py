"""The training loop: one for every recipe. It counts optimiser steps, and an objective says what a batch costs."""

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.checkpoint import (
    Checkpoint,
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    refuse_other_recipe,
    rng_tensors,
    save_checkpoint,
)
from training.config import TrainConfig
from training.curves import draw_curves
from training.metrics import MetricsFile, Row, Window, format_row, read_metrics
from training.optim import OptimConfig, learning_rate, make_optimizer

# What a run may not change between two of its checkpoints; the loader's state guards data set, seed and batch size.
FIXED_SECTIONS = ("system", "model", "objective", "optim")


class BatchSource(Protocol):
    """What the loop needs of a loader: `pipeline.DeviceLoader` and `pipeline.ShardLoader` have it."""

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """The rest of the current epoch."""
        ...

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, as JSON."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended.

    Attributes:
        steps: optimiser steps of the run, those before a resume included.
        first_loss: loss in the first row of metrics.
        final_loss: loss in the last row of metrics.
        clips_per_second: median of the rows.
        checkpoint: the last checkpoint.
    """

    steps: int
    first_loss: float
    final_loss: float
    clips_per_second: float
    checkpoint: Path


class Trainer:
    """Trains an objective on a loader's batches and leaves a run folder: metrics, curves, checkpoints."""

    def __init__(
        self,
        objective: nn.Module,
        loader: BatchSource,
        *,
        config: TrainConfig,
        optim: OptimConfig,
        recipe: Mapping[str, Any],
        run_dir: Path,
        report: Callable[[str], None] = print,
    ) -> None:
        """Prepare a run; nothing is written before `run`.

        Args:
            objective: maps a batch to f32 `[B]` scores by name, "loss" among them.
            loader: gives batches on the device, in an order of its own.
            config: the loop.
            optim: the optimiser.
            recipe: the resolved configuration as JSON, kept in every checkpoint.
            run_dir: the folder of the run.
            report: takes each line meant for the terminal.

        Raises:
            ValueError: If the loader has no batch.
        """
        if len(loader) == 0:
            raise ValueError("the data set is smaller than one global batch; lower data.global_batch_size")
        self.config, self.optim, self.recipe = config, optim, dict(recipe)
        self.run_dir, self.report, self.loader = run_dir, report, loader
        self.device = config.torch_device()
        self.objective = objective.to(self.device).train()
        self.optimizer = make_optimizer(objective, optim)
        self.step = 0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue after `checkpoint` as if the run had never stopped.

        Raises:
            ValueError: If it belongs to another recipe, data set, seed or batch size; the message names both values.
        """
        refuse_other_recipe(checkpoint, self.recipe, FIXED_SECTIONS)
        self.objective.load_state_dict(checkpoint.model)
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        self.loader.load_state_dict(checkpoint.loader)
        load_rng_tensors(checkpoint.rng, self.device)
        self.step = checkpoint.step

    def run(self) -> TrainSummary:
        """Train up to `config.steps`.

        Raises:
            FloatingPointError: If the loss is no longer finite.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        last_saved = self.run_dir / "checkpoints" / f"step-{self.step:08d}"
        with (
            MetricsFile(self.metrics_path, after_step=self.step) as metrics,
            contextlib.closing(_endless(self.loader)) as batches,
        ):
            window = Window()
            while self.step < self.config.steps:
                asked = time.perf_counter()
                batch = next(batches)
                waited_seconds = time.perf_counter() - asked
                scores = self._train_step(batch)
                window.add(scores, num_clips=len(batch["valid"]), waited_seconds=waited_seconds)
                saving = self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps
                if saving or self.step % self.config.log_every == 0:
                    self._log(window, metrics)
                    window = Window()
                if saving:
                    last_saved = self._save()
        rows = read_metrics(self.metrics_path)
        return TrainSummary(
            steps=self.step,
            first_loss=rows[0]["loss"] if rows else math.nan,
            final_loss=rows[-1]["loss"] if rows else math.nan,
            clips_per_second=statistics.median(row["clips_per_second"] for row in rows) if rows else math.nan,
            checkpoint=last_saved,
        )

    @property
    def metrics_path(self) -> Path:
        """The run's JSONL file."""
        return self.run_dir / "metrics.jsonl"

    def _train_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One optimiser step on a rank's part of the global batch; gives scalars on the device.

        Every sample weighs the same however the batch is cut, so a chunk's share of the loss is its sum over the
        number of valid samples in the whole batch.
        """
        self.step += 1
        rate = learning_rate(self.step, self.config.steps, self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        num_valid = batch["valid"].sum().clamp(min=1)
        totals: dict[str, Tensor] = {}
        for chunk in _chunks(batch, self.config.chunk_size):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.uses_bf16(self.device)):
                scores: dict[str, Tensor] = self.objective(chunk)
            shares = {name: score.where(chunk["valid"], 0).sum() / num_valid for name, score in scores.items()}
            shares["loss"].backward()  # type: ignore[no-untyped-call]
            for name, share in shares.items():
                totals[name] = totals[name] + share.detach() if name in totals else share.detach()
        totals["grad_norm"] = nn.utils.clip_grad_norm_(self.objective.parameters(), self.optim.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return totals

    def _log(self, window: Window, metrics: MetricsFile) -> None:
        rate = learning_rate(self.step, self.config.steps, self.optim)
        row: Row = {"step": self.step, **window.row(), "lr": rate}
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"the loss is {row['loss']} at step {self.step} (learning rate {rate:.2e}); "
                "lower optim.lr or look at the targets, then resume from the last checkpoint"
            )
        metrics.write(row)
        self.report(format_row(row, self.config.steps))

    def _save(self) -> Path:
        checkpoint = Checkpoint(
            step=self.step,
            model=self.objective.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
            rng=rng_tensors(self.device),
            loader=self.loader.state_dict(),
            recipe=self.recipe,
        )
        draw_curves(read_metrics(self.metrics_path), self.run_dir / "curves.png")
        return save_checkpoint(self.run_dir / "checkpoints", checkpoint, keep=self.config.keep_checkpoints)


def _endless(loader: BatchSource) -> Generator[Mapping[str, Tensor], None, None]:
    """One epoch after the other."""
    while True:
        yield from loader


def _chunks(batch: Mapping[str, Tensor], size: int | None) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into runs of at most `size` samples."""
    num_samples = len(batch["valid"])
    for start in range(0, num_samples, size or num_samples):
        yield {name: value[start : start + (size or num_samples)] for name, value in batch.items()}

"""The training loop: one for every recipe. It counts optimiser steps, and an objective says what a batch costs."""

import contextlib
import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from pipeline.batch.batch import Batch
from pipeline.source import BatchSource
from pipeline.world import World
from training.checkpoint import Checkpoint, refuse_other_recipe, save_checkpoint
from training.config import TrainConfig
from training.curves import draw_curves
from training.diagnosis import Diagnosis
from training.distributed import StopRequest
from training.flops import forward_flops_per_clip, model_flops_utilisation, peak_flops_per_second
from training.guard import NonFiniteGuard
from training.held_out import Evaluation, HeldOut, metrics_of, refuse_unmeasured
from training.initial import restore
from training.learner import Learner
from training.metrics import Interval, MetricsFile, Row, format_row
from training.optim import OptimConfig, learning_rate, rates, refuse_long_warmup
from training.parts import kept_state
from training.state import load_optimizer_tensors, load_rng_tensors, optimizer_tensors, rng_tensors
from training.trackers import Track, open_trackers, refuse_missing_trackers

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended.

    Attributes:
        steps: optimiser steps of the run, those before a resume included.
        first_loss: loss in the first row of metrics.
        final_loss: loss in the last row of metrics.
        clips_per_second: of all ranks, median of the rows.
        checkpoint: the last checkpoint.
        stopped: whether SIGTERM ended it before its last step.
    """

    steps: int
    first_loss: float
    final_loss: float
    clips_per_second: float
    checkpoint: Path
    stopped: bool = False


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
        world: World = World(),  # noqa: B008
        validation: BatchSource | None = None,
        evaluations: Mapping[str, Evaluation] = MappingProxyType({}),
        report: Callable[[str], None] = print,
        key_of: Callable[[int], str] = str,
        view: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a run; nothing is written before `run`.

        Args:
            objective: a `training.objective.Objective`; the same weights on every rank.
            loader: gives this rank's batches on the device, in an order of its own.
            config: the loop.
            optim: the optimiser.
            recipe: the resolved configuration as JSON, kept in every checkpoint, with `config` as it runs.
            run_dir: the folder of the run; rank 0 writes it, every rank reads it.
            world: the ranks; with more than one, in a `process_group`.
            validation: batches of held-out data, of which every checkpoint takes the scores.
            evaluations: measured at every checkpoint, by name.
            report: takes each line meant for the terminal, on rank 0.
            key_of: names a sample by its number in the data set, for messages.
            view: of the training data, kept with the weights.

        Raises:
            ValueError: If the loader has no batch, the warm-up is longer than the run, a tracker is not installed, the
                objective declares parts that it does not have, or nothing measures what makes the best checkpoint.
        """
        if len(loader) == 0:
            raise ValueError("the data set is smaller than one global batch; lower data.global_batch_size")
        config = config.resolved(loader.num_batches)
        self.num_steps = config.num_steps(loader.num_batches)
        refuse_long_warmup(self.num_steps, optim)
        refuse_unmeasured(config, validation)
        self.config, self.optim, self.world = config, optim, world
        self.recipe = {**recipe, "train": dataclasses.asdict(config)}
        self.view = None if view is None else dict(view)
        self.run_dir, self.report, self.loader = run_dir, report, loader
        self.device = config.torch_device(world.local_rank)
        self.learner = Learner(objective, config, optim, world, self.device)
        self.objective = self.learner.objective
        self.held_out = HeldOut(self.learner, validation, evaluations)
        self.diagnosis = Diagnosis(self.learner)
        self.step = 0
        self._guard = NonFiniteGuard(config.max_nonfinite, key_of)
        refuse_missing_trackers(config.trackers if self.leads else ())
        self._trackers: list[Track] = []
        self._peak = peak_flops_per_second(self.device)
        self._forward_flops: dict[str, float] = {}  # of a sample, by source

    @property
    def leads(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.world.rank == 0

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.run_dir / "checkpoints"

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue after `checkpoint` as if the run had never stopped; the number of ranks may be another.

        Raises:
            ValueError: If it belongs to another recipe, frozen part, data set, seed, batch size or to a run of another
                length; the message names both values.
        """
        refuse_other_recipe(checkpoint, self.recipe)
        self.loader.load_state_dict(checkpoint.loader)
        self._refuse_other_length(checkpoint)
        restore(self.objective, checkpoint)
        load_optimizer_tensors(self.learner.optimizer, checkpoint.optimizer)
        if checkpoint.scaler and self.learner.scaler.is_enabled():
            self.learner.scaler.load_state_dict(checkpoint.scaler)
        load_rng_tensors(checkpoint.rng, self.device)
        self.step = checkpoint.step

    def _refuse_other_length(self, checkpoint: Checkpoint) -> None:
        """The learning rate is laid out over all steps: others would bend it, or warm it up a second time."""
        planned = checkpoint.recipe.get("train", {}).get("steps", self.num_steps)
        if planned != self.num_steps:
            raise ValueError(
                f"the checkpoint at step {checkpoint.step} is of a run of {planned} steps, this one would have "
                f"{self.num_steps}: its learning rate is laid out over {planned}, and a run is neither lengthened nor "
                f"shortened; resume with --train.steps {planned}, or train {self.num_steps} steps in another folder"
            )

    def run(self) -> TrainSummary:
        """Train up to the last step, or until SIGTERM; either leaves a checkpoint.

        Raises:
            FloatingPointError: If loss or gradient is not finite in too many steps in a row.
        """
        if self.leads:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._trackers = open_trackers(self.config.trackers, self.run_dir, self.recipe)
        last_saved, stopped = self.checkpoints / f"step-{self.step:08d}", False
        stop = StopRequest(self.world)
        with (
            stop.listening(),
            MetricsFile(self.run_dir / "metrics.jsonl", after_step=self.step, writes=self.leads) as metrics,
            contextlib.closing(_endless(self.loader)) as batches,
        ):
            window = self._window()
            while self.step < self.num_steps and not stopped:
                with window.clock.stage("data"):
                    batch = next(batches)
                self._train_step(batch, window)
                if self.step % self.config.log_every == 0 or self.step == self.num_steps:
                    self.diagnosis.look(batch)
                del batch  # its memory can be filled again while the next one is waited for
                stopped = stop.agreed()
                saving = stopped or self.step % self.config.checkpoint_every == 0 or self.step == self.num_steps
                if saving or self.step % self.config.log_every == 0:
                    row = self._row(window, last_saved, measure=saving and not stopped)
                    self._publish(row, window, metrics)
                    if saving:
                        last_saved = self._save(row, metrics.rows, warn=not stopped)
                    window = self._window()
            stop.settle()
        return self._summary(metrics.rows, last_saved, stopped and self.step < self.num_steps)

    def _window(self) -> Interval:
        return Interval(self.device, self.loader.stats())

    def _train_step(self, batch: Batch, window: Interval) -> None:
        if self._peak is not None:
            if batch.source not in self._forward_flops:
                self._forward_flops[batch.source] = forward_flops_per_clip(self.objective, batch)
            window.forward_flops += self._forward_flops[batch.source] * len(batch["valid"]) * self.world.size
        window.take(batch)
        self.step += 1
        rate = learning_rate(self.step, self.num_steps, self.optim)
        result = self.learner.step(batch, rate, window.clock)
        window.add(result)
        self._guard.add(self.step, result, batch)

    def _row(self, window: Interval, last_saved: Path, *, measure: bool) -> Row:
        try:
            num_skipped = self._guard.review()
        except FloatingPointError as error:
            last = f"the last good checkpoint is {last_saved}" if last_saved.exists() else "there is no checkpoint yet"
            raise FloatingPointError(f"{error}; {last}") from None
        row: Row = {"step": self.step, **window.row(self.loader.stats(), self.world), "num_skipped": num_skipped}
        row["lr"] = learning_rate(self.step, self.num_steps, self.optim)
        row |= {f"lr_{part}": rate for part, rate in rates(self.learner.optimizer, row["lr"]).items()}
        if self._peak is not None:
            rate = window.forward_flops / window.seconds
            row["mfu"] = model_flops_utilisation(rate, self._peak, self.world.size)
        row |= self.diagnosis.row(row)
        return row | self.held_out.measure() if measure else row

    def _publish(self, row: Row, window: Interval, metrics: MetricsFile) -> None:
        metrics.write(row)
        if not self.leads:
            return
        for track in self._trackers:
            track(row)
        seconds_left = (self.num_steps - self.step) * window.seconds / window.num_steps
        self.report(format_row({**row, "seconds_left": seconds_left}, self.num_steps, also=self.config.best_metric))
        if row["num_invalid"]:
            log.warning("%d samples of the last %d steps did not count", row["num_invalid"], window.num_steps)

    def _save(self, row: Row, rows: list[Row], *, warn: bool) -> Path:
        path = self.checkpoints / f"step-{self.step:08d}"
        if not self.leads:
            return path
        checkpoint = Checkpoint(
            step=self.step,
            model=kept_state(self.objective, self.learner.parts),
            optimizer=optimizer_tensors(self.learner.optimizer),
            rng=rng_tensors(self.device),
            loader=self.loader.state_dict(),
            recipe=self.recipe,
            scaler=self.learner.scaler.state_dict(),
            metrics=metrics_of(row, self.config, warn=warn),
            frozen_digest=self.learner.frozen_digest,
            view=self.view,
        )
        draw_curves(rows, self.run_dir / "curves.png")
        config = self.config
        return save_checkpoint(
            self.checkpoints,
            checkpoint,
            keep=config.keep_checkpoints,
            metric=config.best_metric,
            mode=config.best_mode,
        )

    def _summary(self, rows: list[Row], last_saved: Path, stopped: bool) -> TrainSummary:
        losses = [row["loss"] for row in rows if "loss" in row]
        return TrainSummary(
            steps=self.step,
            first_loss=losses[0] if losses else math.nan,
            final_loss=losses[-1] if losses else math.nan,
            clips_per_second=statistics.median(row["clips_per_second"] for row in rows) if rows else math.nan,
            checkpoint=last_saved,
            stopped=stopped,
        )


def _endless(loader: BatchSource) -> Generator[Batch, None, None]:
    """One epoch after the other."""
    while True:
        yield from loader

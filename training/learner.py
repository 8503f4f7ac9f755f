"""One optimiser step: precision, chunks of a batch, and ranks that share it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.blocks import recompute_blocks
from pipeline.batch.batch import Batch
from pipeline.world import World
from training.clock import StepClock
from training.config import TrainConfig
from training.distributed import sum_over_ranks
from training.optim import OptimConfig, make_optimizer


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gave; all tensors are on the device, so that nobody has to wait for it.

    Attributes:
        scores: means over the valid samples of all ranks, and `grad_norm`; f32 scalars.
        finite: bool scalar: loss and gradients were finite, so the step was taken. The same on all ranks.
        sample_losses: f32 `[B]`, this rank's.
        num_valid: i64 scalar, samples of all ranks that counted.
    """

    scores: dict[str, Tensor]
    finite: Tensor
    sample_losses: Tensor
    num_valid: Tensor


class Learner:
    """An objective on its device, wrapped for ranks and compilers, with its optimiser."""

    def __init__(
        self, objective: nn.Module, config: TrainConfig, optim: OptimConfig, world: World, device: torch.device
    ) -> None:
        """Move the objective to the device and wrap it."""
        self.config, self.optim, self.world, self.device = config, optim, world, device
        self.objective = objective.to(device).train()
        self.optimizer = make_optimizer(objective, optim)
        self.dtype = config.autocast_dtype(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if config.recompute:
            recompute_blocks(objective)
        if config.compile is not None:
            objective.compile(mode=config.compile)  # in place: the names in a checkpoint stay the same
        self.module: nn.Module = objective
        if world.size > 1:
            self.module = DistributedDataParallel(
                objective,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass; weights and optimiser are f32 whatever it is."""
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def step(self, batch: Batch, rate: float, clock: StepClock) -> StepResult:
        """Train on this rank's part of a global batch.

        Every valid sample weighs the same however the batch is cut into chunks and ranks: a share of the loss is its
        sum over the number of valid samples of all ranks, and the wrapper, which averages over ranks, is given the
        share times their number.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with clock.stage("forward"):
            num_valid = sum_over_ranks(batch["valid"].sum(), self.world).clamp(min=1)
        totals: dict[str, Tensor] = {}
        losses = []
        chunks = list(cut(batch, self.config.chunk_size))
        for number, chunk in enumerate(chunks, start=1):
            with self._gradients_exchanged(number == len(chunks)):
                with clock.stage("forward"):
                    with self.autocast():
                        scores: dict[str, Tensor] = self.module(chunk)
                    shares = {name: s.where(chunk["valid"], 0).sum() / num_valid for name, s in scores.items()}
                with clock.stage("backward"):
                    self.scaler.scale(shares["loss"] * self.world.size).backward()  # type: ignore[no-untyped-call]
            losses.append(scores["loss"].detach().clone())  # a compiled forward may write over its outputs
            for name, share in shares.items():
                totals[name] = totals[name] + share.detach() if name in totals else share.detach()
        with clock.stage("optimizer"):
            totals = self._over_ranks(totals)
            finite = self._update(totals)
        return StepResult(scores=totals, finite=finite, sample_losses=torch.cat(losses), num_valid=num_valid)

    def _gradients_exchanged(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Ranks exchange gradients once a step, with the last chunk."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return contextlib.nullcontext()

    def _over_ranks(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        summed = sum_over_ranks(torch.stack(list(totals.values())), self.world)
        return dict(zip(totals, summed.unbind(), strict=True))

    def _update(self, totals: dict[str, Tensor]) -> Tensor:
        """Clip and step, unless loss or gradients are not finite; adds `grad_norm` to `totals`.

        The decision stays on the device: AdamW's fused kernel takes it as `found_inf` and then changes nothing.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.optim.clip_grad_norm)
        totals["grad_norm"] = norm
        finite = norm.isfinite() & totals["loss"].isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    @torch.no_grad()
    def score(self, batches: Iterator[Batch]) -> float:
        """The mean loss over the valid samples of `batches` of all ranks, which must get equally many."""
        total = torch.zeros(2, device=self.device)
        for batch in batches:
            for chunk in cut(batch, self.config.chunk_size):
                with self.autocast():
                    loss = self.objective(chunk)["loss"]
                total += torch.stack([loss.where(chunk["valid"], 0).sum(), chunk["valid"].sum()])
        loss_sum, num_valid = sum_over_ranks(total, self.world).tolist()
        return float(loss_sum / max(num_valid, 1))


def cut(batch: Batch, size: int | None) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into runs of at most `size` samples; None leaves it whole."""
    num_samples = len(batch["valid"])
    for start in range(0, num_samples, size or num_samples):
        yield dict(batch.slice(slice(start, start + (size or num_samples))))

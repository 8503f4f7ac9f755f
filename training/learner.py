"""One optimiser step: precision, chunks of a batch, weights of samples, and ranks that share it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.blocks import recompute_blocks
from pipeline.accelerator import Accelerator, accelerator_of
from pipeline.batch.batch import Batch
from pipeline.world import World
from training.attention import FastestAttention
from training.clock import StepClock
from training.compiling import compile_mode
from training.config import TrainConfig
from training.distributed import sum_over_ranks
from training.objective import declared
from training.optim import OptimConfig, make_optimizer, set_rate
from training.parts import freeze, frozen_digest, train_mode
from training.scores import Sums, means_over_ranks, score_batch


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gave; all tensors are on the device, so that nobody has to wait for it.

    Attributes:
        scores: `loss`, the weighted mean over the valid samples of all ranks, and `grad_norm`; f32 scalars.
        sums: the objective's further scores, of this rank alone: name -> f32 `[2]`, their weighted sum and the weight.
        finite: bool scalar: loss and gradients were finite. The same on all ranks.
        taken: bool scalar: they were, and some sample had a weight; otherwise nothing has moved. The same on all ranks.
        sample_losses: f32 `[B]`, this rank's.
        num_samples: i64 scalar, samples of all ranks, padding left out.
        num_valid: i64 scalar, those of them that could be read.
    """

    scores: dict[str, Tensor]
    sums: Sums
    finite: Tensor
    taken: Tensor
    sample_losses: Tensor
    num_samples: Tensor
    num_valid: Tensor


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What the passes over a global batch gave beside the gradients; `StepResult` says more of each.

    Attributes:
        loss: f32 scalar, of all ranks.
        counted: bool scalar: some sample of all ranks had a weight.
        sums: this rank's.
        sample_losses: this rank's.
        num_samples: of all ranks.
        num_valid: of all ranks.
    """

    loss: Tensor
    counted: Tensor
    sums: Sums
    sample_losses: Tensor
    num_samples: Tensor
    num_valid: Tensor


class Learner:
    """An objective on its device, wrapped for ranks and compilers, with its optimiser."""

    def __init__(
        self,
        objective: nn.Module,
        config: TrainConfig,
        optim: OptimConfig,
        world: World,
        device: torch.device | Accelerator,
    ) -> None:
        """Freeze what the objective declares frozen, move it to the device and wrap it.

        Raises:
            ValueError: It declares parts that it does not have, or nothing to train; or the device cannot do what is
                configured.
        """
        self.accelerator = accelerator_of(device)
        self.dtype = config.autocast_dtype(self.accelerator)
        config.refuse_overwritten_gradients(self.accelerator)
        self.config, self.optim, self.world = config, optim, world
        self.device = device = self.accelerator.device
        self.parts = declared(objective)
        self.frozen_digest = frozen_digest(objective, self.parts)
        self.objective = objective.to(device)
        freeze(objective, self.parts)
        self.optimizer = make_optimizer(objective, optim, self.parts)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if config.recompute:
            recompute_blocks(objective)
        self.compiled = compile_mode(config.compile, device)
        if self.compiled is not None:
            objective.compile(mode=self.compiled)  # in place: the names in a checkpoint stay the same
        self._attention = FastestAttention(self.accelerator)
        self.module: nn.Module = objective
        if world.size > 1:
            self.module = DistributedDataParallel(
                objective,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=not self.parts.uses_all,
            )

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass; weights and optimiser are f32 whatever it is."""
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def step(self, batch: Batch, rate: float, clock: StepClock) -> StepResult:
        """Train on this rank's part of a global batch.

        Every valid sample counts by its weight however the batch is cut into chunks and ranks.

        Raises:
            ValueError: The objective gives no loss a sample, or leaves parameters out that it has not declared.
        """
        set_rate(self.optimizer, rate)
        found = self.backward(batch, clock)
        with clock.stage("optimizer"):
            norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.optim.clip_grad_norm)
            finite = norm.isfinite() & found.loss.isfinite()
            taken = finite & found.counted
            self._move(taken)
        return StepResult(
            scores={"loss": found.loss, "grad_norm": norm},
            sums=found.sums,
            finite=finite,
            taken=taken,
            sample_losses=found.sample_losses,
            num_samples=found.num_samples,
            num_valid=found.num_valid,
        )

    def backward(self, batch: Batch, clock: StepClock) -> Passes:
        """Leave the gradients of a global batch in the parameters.

        The weight of its samples is known behind the last chunk only. Until then a chunk's share of the loss is its
        weighted sum over the number of rows of all ranks, which all have as many, and the wrapper, which averages over
        ranks, is given the share times their number; the gradients are divided by the weight at the end. So ranks meet
        where gradients are exchanged, and once behind that.

        Raises:
            ValueError: See `step`.
        """
        divisor = len(batch["valid"]) * self.world.size
        loss, weight = torch.zeros(2, device=self.device).unbind()
        sums, losses, source = Sums(), [], batch.source
        chunks = list(cut(batch, self.config.chunk_size))
        self._choose_attention(batch)
        with self.autocast():  # around all chunks: weights are cast once a step
            for number, chunk in enumerate(chunks, start=1):
                with self._gradients_exchanged(number == len(chunks)):
                    with clock.stage("forward"), self._attention.used():
                        scores = score_batch(self.module, chunk)
                        share = scores.loss_sum() / divisor
                    if not share.requires_grad:
                        raise ValueError(f"the loss of a batch{_of(source)} depends on no parameter that is trained")
                    with clock.stage("backward"), torch.autocast(self.device.type, enabled=False):
                        self.scaler.scale(share * self.world.size).backward()  # type: ignore[no-untyped-call]
                losses.append(scores.loss.detach().clone())  # a compiled forward may write over its outputs
                loss, weight = loss + share.detach(), weight + scores.weight_sum()
                sums.add(scores, source)
        self._refuse_left_out(source)
        with clock.stage("optimizer"):
            counts = [(batch["index"] >= 0).sum(), batch["valid"].sum()]  # exact in f32 up to 16 million
            totals = sum_over_ranks(torch.stack([loss, weight, *(count.float() for count in counts)]), self.world)
            loss, weight, num_samples, num_valid = totals.unbind()
            counted = weight > 0
            factor = torch.where(counted, divisor / weight, 0)  # 1 where every sample counts as one
            self.scaler.unscale_(self.optimizer)
            torch._foreach_mul_([p.grad for p in self.objective.parameters() if p.grad is not None], factor)
        return Passes(
            loss=loss * factor,
            counted=counted,
            sums=sums,
            sample_losses=torch.cat(losses),
            num_samples=num_samples.long(),
            num_valid=num_valid.long(),
        )

    def _choose_attention(self, batch: Batch) -> None:
        """Measure attention on the first batch, where there is a choice."""
        with self.autocast():
            num_samples = min(self.config.chunk_size or len(batch["valid"]), len(batch["valid"]))
            self._attention.choose(self.objective, batch, num_samples)

    def _gradients_exchanged(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Ranks exchange gradients once a step, with the last chunk."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return contextlib.nullcontext()

    def _refuse_left_out(self, source: str) -> None:
        """Ranks that do not look for parameters without a gradient would wait for them without end."""
        if self.world.size == 1 or not self.parts.uses_all:
            return
        left = [n for n, p in self.objective.named_parameters() if p.requires_grad and p.grad is None]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ValueError(
                f"a batch{_of(source)} gives {left[0]}{more} no gradient; an objective of which "
                "some batches leave a part out has to declare uses_all = False to be trained on several ranks"
            )

    def _move(self, taken: Tensor) -> None:
        """Take the optimiser's step, or change nothing; and drop the gradients.

        The decision stays on the device: AdamW's fused kernel gets it as `found_inf`.
        """
        self.optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def score(self, batches: Iterator[Batch]) -> dict[str, float]:
        """The objective's scores, `loss` among them: weighted means over the valid samples of `batches` of all ranks.

        The objective is in evaluation mode meanwhile. The ranks must get equally many batches.
        """
        sums = Sums()
        self.objective.eval()
        for batch in batches:
            for chunk in cut(batch, self.config.chunk_size):
                with self.autocast(), self._attention.used():
                    scores = score_batch(self.objective, chunk)
                sums.add(scores, batch.source, with_loss=True)
        train_mode(self.objective, self.parts)
        return {"loss": 0.0, **means_over_ranks(sums, self.world, self.device)}


def _of(source: str) -> str:
    return f" of {source}" if source else ""


def cut(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Cut a batch into runs of at most `size` samples; None leaves it whole."""
    num_samples = len(batch["valid"])
    for start in range(0, num_samples, size or num_samples):
        yield batch.slice(slice(start, start + (size or num_samples)))

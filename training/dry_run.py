"""A run's first step, without the step: what a batch is, what is trained of what, what it costs. Nothing is written."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.batch.batch import Batch
from training.clock import StepClock
from training.learner import Learner, Passes
from training.loop import Trainer
from training.scores import means_over_ranks

NUM_LOOKED_THROUGH = 50  # batches of a mix, for one of each source
DEPTH = 2  # of a name, in the table of parameters


def dry_run(trainer: Trainer) -> Iterator[str]:
    """Lines for the terminal: per source of the data the first batch, the parts and their gradients, the scores.

    All ranks have to run it. No weight moves, and the scale of fp16's loss stays what it is.

    Raises:
        FloatingPointError: The loss or a gradient of a batch is not finite, whatever the loss is scaled by.
        ValueError: The objective does not fit the batch.
    """
    learner = trainer.learner
    scaling = learner.scaler.state_dict()
    for batch in _first_of_each_source(trainer):
        yield repr(batch)
        found, gradients, num_skipped = _backward(learner, batch)
        yield from _table(learner, gradients)
        if num_skipped:
            yield (
                f"at the loss scale of fp16, {scaling['scale']:g}, gradients are not finite: "
                f"training skips about {num_skipped} step(s) at first, each of which halves it"
            )
        scores = {"loss": float(found.loss), **means_over_ranks(found.sums, learner.world, learner.device)}
        trainer.diagnosis.look(batch)
        scores |= trainer.diagnosis.row({**scores, "step": trainer.step})
        learner.optimizer.zero_grad(set_to_none=True)
        if learner.scaler.is_enabled():
            learner.scaler.update()  # it unscales once an update
            learner.scaler.load_state_dict(scaling)
        yield "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        wrong = [name for name, score in scores.items() if not math.isfinite(score)]
        wrong += [f"the gradient of {n}" for n, gradient in gradients.items() if not bool(gradient.isfinite().all())]
        if wrong:
            what = "the loss" if wrong[0] == "loss" else wrong[0]
            raise FloatingPointError(f"{what} is not finite on samples {batch['index'].tolist()}")


def _backward(learner: Learner, batch: Batch) -> tuple[Passes, dict[str, Tensor], int]:
    """The passes over a batch, and the gradients by name, at the scale of the loss that training would come to.

    A scale too large for fp16 is no fault: training skips such steps, and halves it at each. The steps that it would
    skip are the last that is returned; 0 where gradients are finite at once, or at no scale.
    """
    num_skipped = 0
    while True:
        found = learner.backward(batch, StepClock(learner.accelerator))
        gradients = {name: p.grad for name, p in learner.objective.named_parameters() if p.grad is not None}
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients.values())
        if finite:
            return found, gradients, num_skipped
        ends_run = num_skipped + 1 == learner.config.max_nonfinite
        if ends_run or not learner.scaler.is_enabled() or not bool(found.loss.isfinite()):
            return found, gradients, 0
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        num_skipped += 1


def _first_of_each_source(trainer: Trainer) -> Iterator[Batch]:
    met: set[str] = set()
    for batch in itertools.islice(trainer.loader, NUM_LOOKED_THROUGH):
        if batch.source not in met:
            met.add(batch.source)
            yield batch
        if not batch.source:
            return


@dataclass
class _Part:
    """Parameters that are named and treated alike."""

    num_parameters: int = 0
    gradients: list[Tensor] = field(default_factory=list)


def _table(learner: Learner, gradients: dict[str, Tensor]) -> Iterator[str]:
    """A line a part: its parameters, whether it is trained, at which rate, whether kept, and its gradient's norm."""
    parts: dict[tuple[str, str, str, str], _Part] = {}
    scales = {name: group["scale"] for group in learner.optimizer.param_groups for name in group["param_names"]}
    for name, parameter in learner.objective.named_parameters():
        trained = parameter.requires_grad
        rate = f"{learner.optim.lr * scales[name]:.2e}" if trained else ""
        kept = "" if learner.parts.is_kept(name) else "not in checkpoints"
        key = (".".join(name.split(".")[:DEPTH]), "trained" if trained else "frozen", rate, kept)
        part = parts.setdefault(key, _Part())
        part.num_parameters += parameter.numel()
        if name in gradients:
            part.gradients.append(gradients[name])
    width = max(len(name) for name, *_ in parts)
    for (name, state, rate, kept), part in parts.items():
        norm = sum(float(gradient.square().sum()) for gradient in part.gradients) ** 0.5
        flow = f"gradient {norm:.3g}" if part.gradients else "no gradient" if state == "trained" else ""
        cells = (f"{name:<{width}}", f"{part.num_parameters:>13,}", f"{state:<7}", f"{rate:<8}", flow, kept)
        yield "  ".join(("", *cells)).rstrip()

"""What fits into a device's memory, by trial."""

import contextlib

import torch

from pipeline.batch.batch import Batch
from training.learner import Learner, cut
from training.scores import score_batch


def out_of_memory(learner: Learner, batch: Batch) -> str:
    """Say in one line what would have fitted, after a step on `batch` ran out of memory.

    Parts of the batch go forward and backward, each half as large as the one before, until one has room. Nothing of
    the ranks is touched; gradients are dropped.
    """
    at_once = min(learner.config.chunk_size or len(batch["valid"]), len(batch["valid"]))
    what = f"{learner.device} ran out of memory with {at_once} samples at once"
    size = chunk_that_fits(learner, batch, below=at_once)
    if size is None:
        return f"{what}, and one alone does not fit either: take a smaller model, or --train.recompute true"
    also = "" if learner.config.recompute else "; --train.recompute true needs less memory, too, and a third more time"
    return f"{what}: --train.chunk_size {size} fits, with the same result{also}"


def chunk_that_fits(learner: Learner, batch: Batch, *, below: int) -> int | None:
    """The first of `below` halved, quartered, ... that goes forward and backward; None if a single sample does not."""
    size = below
    while size > 1:
        size = -(-size // 2)
        if _fits(learner, batch, size):
            return size
    return None


def _fits(learner: Learner, batch: Batch, size: int) -> bool:
    """Whether `size` samples have room beside weights, gradients and the optimiser's moments."""
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()
    done = False
    with contextlib.suppress(torch.OutOfMemoryError):  # and with it the frames that hold what it had allocated
        _pass(learner, next(cut(batch, size)))
        done = True
    learner.optimizer.zero_grad(set_to_none=True)
    return done


def _pass(learner: Learner, chunk: Batch) -> None:
    trained = [p for p in learner.objective.parameters() if p.requires_grad]
    # gradients of the chunks before, and both moments where they are still to come
    missing = sum(p.numel() * (1 if p in learner.optimizer.state else 3) for p in trained)
    reserve = torch.empty(missing, device=learner.device)
    with learner.autocast():
        loss = score_batch(learner.objective, chunk).loss_sum()
    loss.backward()  # type: ignore[no-untyped-call]
    del reserve

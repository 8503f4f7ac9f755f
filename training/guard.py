"""Steps whose loss or gradient was not finite: skipped, counted, their samples named; a run of them ends training."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.batch.batch import Batch
from training.learner import StepResult

log = logging.getLogger(__name__)
NUM_NAMED = 8


@dataclass(frozen=True)
class _Step:
    number: int
    finite: Tensor
    losses: Tensor
    index: Tensor
    source: str


class NonFiniteGuard:
    """Remembers the steps of an interval, and looks at them when the interval ends: looking waits for the device."""

    def __init__(self, limit: int, key_of: Callable[[int], str]) -> None:
        """Prepare.

        Args:
            limit: this many skipped steps in a row end the run.
            key_of: names a sample by its number in the data set.
        """
        self._limit, self._key_of = limit, key_of
        self._steps: list[_Step] = []
        self._in_a_row = 0

    def add(self, number: int, result: StepResult, batch: Batch) -> None:
        """Take in a step."""
        index = batch["index"].clone()
        self._steps.append(_Step(number, result.finite, result.sample_losses, index, batch.source))

    def review(self) -> int:
        """Log the skipped steps of the interval and begin the next one.

        Returns:
            How many steps were skipped.

        Raises:
            FloatingPointError: If there were too many in a row.
        """
        steps, self._steps = self._steps, []
        num_skipped = 0
        for step in steps:
            if bool(step.finite):
                self._in_a_row = 0
                continue
            num_skipped += 1
            self._in_a_row += 1
            log.warning("step %d skipped: loss or gradient is not finite; %s", step.number, self._blame(step))
            if self._in_a_row >= self._limit:
                raise FloatingPointError(
                    f"loss or gradient was not finite in {self._in_a_row} steps in a row, the last is step "
                    f"{step.number}; lower optim.lr or look at the targets of the samples named above"
                )
        return num_skipped

    def _blame(self, step: _Step) -> str:
        """The samples with a loss that is not finite; if there are none here, the batch."""
        samples = step.index[~step.losses.isfinite()].tolist()
        what = f"the losses of {len(samples)} samples on this rank are not"
        if not samples:
            samples, what = step.index.tolist(), "no sample's loss stands out on this rank, its batch"
        keys = ", ".join(self._key_of(sample) for sample in samples[:NUM_NAMED] if sample >= 0)
        what += f" ({step.source})" if step.source else ""
        return f"{what}: {keys}{', ...' if len(samples) > NUM_NAMED else ''}"

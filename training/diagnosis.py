"""Numbers of a row that are too dear for every step, and what an objective finds wrong with a row."""

import logging

import torch

from pipeline.batch.batch import Batch
from training.learner import Learner, cut
from training.metrics import Row
from training.objective import Diagnosed
from training.parts import train_mode
from training.scores import Sums, means_over_ranks, weigh

log = logging.getLogger(__name__)


class Diagnosis:
    """Asks an objective that is `Diagnosed`; of any other there is nothing to say."""

    def __init__(self, learner: Learner) -> None:
        """Prepare."""
        self._learner = learner
        self._objective = learner.objective if isinstance(learner.objective, Diagnosed) else None
        self._sums = Sums()
        self._wrong: frozenset[str] = frozenset()

    @torch.no_grad()
    def look(self, batch: Batch) -> None:
        """Take the numbers of a batch, in evaluation mode and the precision of training; all ranks together."""
        if self._objective is None:
            return
        learner = self._learner
        learner.objective.eval()
        for chunk in cut(batch, learner.config.chunk_size):
            with learner.autocast():
                found = dict(self._objective.diagnose(dict(chunk)))
            self._sums.add(weigh(found, chunk["valid"]))
        train_mode(learner.objective, learner.parts)

    def row(self, row: Row) -> Row:
        """What was found since the last row, over all ranks, and what follows from it and from the rest of the row."""
        if self._objective is None:
            return {}
        found = means_over_ranks(self._sums, self._learner.world, self._learner.device)
        self._sums = Sums()
        numbers, wrong = self._objective.review({**row, **found})
        if self._learner.world.rank == 0:
            for name in wrong.keys() - self._wrong:  # once, until it is right again
                log.warning("step %d: %s", row["step"], wrong[name])
        self._wrong = frozenset(wrong)
        return {**found, **numbers}

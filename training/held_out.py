"""What is measured at a checkpoint: the scores of held-out data, and evaluators."""

import logging
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipeline.source import BatchSource
from training.checkpoint import VALIDATION_LOSS
from training.config import TrainConfig
from training.learner import Learner
from training.metrics import TIMINGS, Row
from training.parts import train_mode

# Measures an objective, which is in evaluation mode meanwhile, on all ranks; metrics by name, the same on every rank.
Evaluation = Callable[[nn.Module], Mapping[str, float]]
log = logging.getLogger(__name__)


class HeldOut:
    """Measures a learner's objective, the same way every time, and leaves the run as if it had not."""

    def __init__(self, learner: Learner, validation: BatchSource | None, evaluations: Mapping[str, Evaluation]) -> None:
        """Prepare; the validation's draws are those of its position now."""
        self.learner, self.validation, self.evaluations = learner, validation, evaluations
        self._start = validation.state_dict() if validation else {}

    def measure(self, *, evaluate: bool = True) -> Row:
        """`validation_NAME` for each score of the objective, `EVALUATION_METRIC` for each metric of an evaluation.

        Without `evaluate`, no evaluation is made.
        """
        device, row = self.learner.device, Row()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if self.validation is not None:
                self.validation.load_state_dict(self._start)  # the same masks every time
                scores = self.learner.score(iter(self.validation))
                row |= {f"validation_{name}": value for name, value in scores.items()}
            for name, evaluation in self.evaluations.items() if evaluate else ():
                self.learner.objective.eval()
                metrics = evaluation(self.learner.objective)
                train_mode(self.learner.objective, self.learner.parts)
                row |= {f"{name}_{metric}": float(value) for metric, value in metrics.items()}
        return row


def refuse_unmeasured(config: TrainConfig, validation: BatchSource | None) -> None:
    """Tell before the first step that the best checkpoint is to be chosen by a number that nobody measures.

    Raises:
        ValueError: It says what is missing.
    """
    metric = config.best_metric
    if metric in TIMINGS:
        raise ValueError(f"train.best_metric is {metric}, which the clock decides; name a loss or another score")
    if validation is None and metric.startswith("validation_") and metric != VALIDATION_LOSS:
        raise ValueError(f"train.best_metric is {metric}, but no data is held out: give some with --val")


def metrics_of(row: Row, config: TrainConfig, *, warn: bool) -> dict[str, float]:
    """What a checkpoint keeps of a row: finite numbers that do not depend on the clock.

    With `warn`, it is logged if what the best checkpoint is chosen by is not among them.
    """
    metrics = {name: value for name, value in row.items() if name not in TIMINGS and math.isfinite(value)}
    if warn and config.best_metric not in metrics and config.best_metric != VALIDATION_LOSS:
        there = ", ".join(name for name in metrics if name != "step")
        log.warning("the best checkpoint goes by %s, which was not measured: there is %s", config.best_metric, there)
    return metrics

"""What a classifier of videos gives, as every evaluation reports it: metrics, intervals, tables and rows."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evaluation.scores import (
    Held,
    bootstrap_interval,
    confusion,
    mean_class,
    per_class,
    top_k,
    wilson_interval,
)

TOP = 5


@dataclass(frozen=True)
class Classified:
    """What is said of a classifier; see `Result` for the fields' meaning."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    tables: dict[str, list[dict[str, Any]]]
    rows: list[dict[str, Any]]
    protocol: dict[str, Any] = field(default_factory=dict)


def classify(scores: Sequence[Tensor], held: Held, names: Sequence[str], *, seed: int = 0) -> Classified:
    """Score classifiers, one a seed, on the same held-out samples.

    Args:
        scores: probabilities f32 `[m, C]` of the samples, one a seed; views of a video are averaged.
        held: the samples.
        names: of the C classes.
        seed: of the bootstrap.

    Raises:
        ValueError: There is no sample, or a label that no class has.
    """
    if not len(held.labels):
        raise ValueError("there is no held-out sample with a label to score on")
    labels, count = held.labels, len(held.labels)
    if int(labels.max()) >= len(names):
        raise ValueError(f"label {int(labels.max())} does not exist: there are {len(names)} classes")
    averaged = [held.average(each) for each in scores]
    right = [top_k(each, labels, 1) for each in averaged]
    correct = torch.stack(right).float().mean(dim=0)  # [n], the share of the seeds that are right
    shares = [int(each.sum()) / count for each in right]
    top1 = statistics.fmean(shares)
    metrics = {"top1": top1, "top1_spread": statistics.stdev(shares) if len(shares) > 1 else 0.0}
    intervals = {"top1": wilson_interval(top1, count)}
    if len(names) > TOP:
        metrics["top5"] = statistics.fmean(int(top_k(each, labels, TOP).sum()) / count for each in averaged)
        intervals["top5"] = wilson_interval(metrics["top5"], count)
    metrics["mean_class_top1"] = mean_class(correct, labels)
    intervals["mean_class_top1"] = bootstrap_interval(lambda weights: mean_class(correct, labels, weights), count, seed)
    metrics |= dict(zip(("top1_low", "top1_high"), intervals["top1"], strict=True))
    guesses = torch.stack([each.argmax(dim=1) for each in averaged], dim=1)  # [n, seeds]
    tables = {"per_class": per_class(correct, labels, names), "confusion": confusion(guesses[:, 0], labels, names)}
    rows = [
        {"key": key, "label": label, "predicted": guess}
        for key, label, guess in zip(held.names, labels.tolist(), guesses.tolist(), strict=True)
    ]
    protocol = {
        "num_classes": len(names),
        "num_val": count,
        "most_views": held.most_views,
        "views": "scores averaged over the views of a video" if held.most_views > 1 else "one view a video",
        "interval": "Wilson, 95 %, for the number of held-out samples",
        "interval_of_the_rest": f"bootstrap over videos, 95 %, seed {seed}",
        "confusion": "of the first seed",
    }
    return Classified(metrics, intervals, tables, rows, protocol)

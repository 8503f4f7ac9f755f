"""What scores are worth: accuracies, confusions, views put together by video, and how sure a number is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_DRAWS = 1000  # of a bootstrap


@dataclass(frozen=True)
class Held:
    """The samples that something was scored on, those of one video together.

    Attributes:
        labels: i64 `[n]`, of the videos.
        names: of the videos; of samples without one, their keys.
        groups: i64 `[m]`, which video each of the m samples is of.
    """

    labels: Tensor
    names: Sequence[str]
    groups: Tensor

    @classmethod
    def of(cls, labels: Tensor, videos: Sequence[str]) -> "Held":
        """Put samples together by their video, in the order in which the videos come first.

        Args:
            labels: i64 `[m]`.
            videos: of each sample.

        Raises:
            ValueError: Two views of one video have different labels.
        """
        numbers: dict[str, int] = {}
        groups = torch.tensor([numbers.setdefault(video, len(numbers)) for video in videos], dtype=torch.int64)
        of_video = torch.empty(len(numbers), dtype=labels.dtype)
        of_video[groups] = labels
        wrong = (of_video[groups] != labels).nonzero()[:, 0].tolist()
        if wrong:
            raise ValueError(f"the views of video {videos[wrong[0]]!r} have different labels; build the set anew")
        return cls(of_video, tuple(numbers), groups)

    @property
    def most_views(self) -> int:
        """Samples of the video that has most."""
        return int(self.groups.bincount().max()) if len(self.groups) else 0

    def average(self, scores: Tensor) -> Tensor:
        """The mean over a video's samples: f32 `[m, C]` to `[n, C]`."""
        if self.most_views == 1:
            return scores
        total = scores.new_zeros(len(self.labels), scores.shape[1]).index_add_(0, self.groups, scores)
        return total / self.groups.bincount()[:, None]


def ranks_of_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand before the label, i64 `[n]`; of two equal scores the lower class stands before.

    So rank 0 is what `argmax` takes, and no tie is ever counted in a model's favour twice.
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def top_k(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the k highest scores, bool `[n]`."""
    return ranks_of_labels(scores, labels) < k


def mean_class(correct: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """The mean of the accuracies of the classes that are there; `weights` says how often each sample counts."""
    weights = torch.ones_like(correct) if weights is None else weights.to(correct)
    total = torch.bincount(labels, weights)
    right = torch.bincount(labels, weights * correct)
    there = total > 0
    return float((right[there] / total[there]).mean())


def per_class(correct: Tensor, labels: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: its name, how many there are, and the share that is right; None of a class that is not there."""
    total = torch.bincount(labels, minlength=len(names)).tolist()
    right = torch.bincount(labels, correct, minlength=len(names)).tolist()
    return [
        {"class": name, "count": count, "top1": value / count if count else None}
        for name, count, value in zip(names, total, right, strict=True)
    ]


def confusion(guess: Tensor, labels: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: its name, and how often each class was said of it; what was never said is left out."""
    counts = torch.bincount(labels * len(names) + guess, minlength=len(names) ** 2).view(len(names), -1).tolist()
    return [
        {"class": name, "predicted": {names[other]: count for other, count in enumerate(row) if count}}
        for name, row in zip(names, counts, strict=True)
    ]


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Where a share that was counted on `count` samples lies, with 95 % confidence: Wilson's score interval.

    It stays within [0, 1] and has a width at 0 and 1 too (Wilson 1927). It is about which samples were held out; what
    another training run or another machine would have given is not in it.
    """
    z = 1.96  # standard deviations of a normal distribution that hold 95 % of it
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(statistic: Callable[[Tensor], float], count: int, seed: int = 0) -> tuple[float, float]:
    """Where a statistic of `count` videos lies, with 95 % confidence, if others had been drawn (Efron 1979).

    Between the 2.5 and the 97.5 percentile of `NUM_DRAWS` draws.

    Args:
        statistic: gets how often each video was drawn, f32 `[count]`, with `count` draws in all.
        count: of videos.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    found: NDArray[np.float64] = np.empty(NUM_DRAWS)
    for draw in range(NUM_DRAWS):
        counts = np.bincount(random.integers(0, count, count), minlength=count)
        found[draw] = statistic(torch.from_numpy(counts).float())
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)

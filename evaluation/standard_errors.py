"""How sure means and paired differences are, by their standard errors over what was sampled."""

from __future__ import annotations

import math

from torch import Tensor

Z = 1.96  # standard errors on either side of a mean: 95 % of a normal distribution


def interval_of_mean(shares: Tensor) -> tuple[float, float]:
    """Where the mean of shares `[n]`, at least two, lies with 95 % confidence, as other samples would have given it."""
    mean, half = float(shares.mean()), Z * float(shares.std()) / math.sqrt(len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)


def paired(ours: Tensor, other: Tensor, *, less_is_better: bool = False) -> tuple[float, float]:
    """By how much the mean of `[n]` is better than that of another, sample by sample, and that in standard errors.

    Samples of which one is not a number are left out; of fewer than two there is neither, and of equal differences no
    error: the second number is then none, too.
    """
    gains = (other - ours if less_is_better else ours - other).double()
    gains = gains[~gains.isnan()]
    if len(gains) < 2:
        return math.nan, math.nan
    error = float(gains.std()) / math.sqrt(len(gains))
    mean = float(gains.mean())
    return mean, mean / error if error else math.nan


def per_word(differences: Tensor, words: Tensor) -> tuple[float, float]:
    """The difference of a word, and its standard error as that of a ratio of two sums (Cochran 1977, chapter 6).

    Args:
        differences: f64 `[n]`, of all words of a sample together; n is at least two.
        words: f64 `[n]`, of each sample.
    """
    difference, count = float(differences.sum() / words.sum()), len(words)
    residuals = differences - difference * words
    return difference, math.sqrt(float(residuals.square().sum()) * count / (count - 1)) / float(words.sum())

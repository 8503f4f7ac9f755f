"""Which source each batch of a mix comes from: pure functions of whole numbers, so that all ranks agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW = 50


def epoch_counts(weights: Sequence[float], num_heaviest: int) -> list[int]:
    """Batches of each source in an epoch that is one pass over the heaviest of them.

    Args:
        weights: of the sources; they need not add up to 1. The first of equal ones counts as the heaviest.
        num_heaviest: batches of its pass.

    Returns:
        Whole numbers in proportion to the weights: `num_heaviest`, and what the others get beside it.
    """
    heaviest = weights.index(max(weights))
    share = weights[heaviest] / sum(weights)
    others = [0 if place == heaviest else weight for place, weight in enumerate(weights)]
    counts = shares(others, round(num_heaviest / share) - num_heaviest) if any(others) else list(map(int, others))
    counts[heaviest] = num_heaviest
    return counts


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total` (largest remainders first)."""
    exact: NDArray[np.float64] = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    for place in np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]:
        counts[place] += 1
    return [int(count) for count in counts]


def spread(counts: Sequence[int]) -> NDArray[np.int64]:
    """Spread the batches of each source evenly over an epoch.

    Every full window of `WINDOW` batches from the epoch's start on holds the share of each source, rounded up or down;
    of two sources, any window of any size does.

    Args:
        counts: batches of each source.

    Returns:
        i64 `[sum(counts)]`, the source of each batch.
    """
    total = sum(counts)
    given = [0] * len(counts)
    order: list[int] = []
    for quota in _window_quotas(counts):
        left = list(quota)
        for number in range(len(order) + 1, len(order) + sum(quota) + 1):
            behind = [count * number - total * done for count, done in zip(counts, given, strict=True)]
            source = max((source for source, some in enumerate(left) if some), key=behind.__getitem__)
            order.append(source)
            given[source] += 1
            left[source] -= 1
    return np.array(order, np.int64)


def _window_quotas(counts: Sequence[int]) -> list[list[int]]:
    """How many batches of each source each window holds; the last one may be shorter.

    An entry is the exact share, rounded up or down, and rows and columns add up (controlled rounding; Cox, 1987). A
    source is rounded up at most once a window, so who needs it in all windows that are left goes first, then who is
    most behind.
    """
    total = sum(counts)
    num_full, rest = divmod(total, WINDOW)
    full = [count * WINDOW // total for count in counts]
    last = [count * rest // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda source: -(counts[source] * rest % total))
    for source in by_remainder[: rest - sum(last)]:
        last[source] += 1
    need = [count - num_full * least - end for count, least, end in zip(counts, full, last, strict=True)]
    lack = [0] * len(counts)
    quotas = []
    for left in range(num_full, 0, -1):
        lack = [old + count * WINDOW - total * least for old, count, least in zip(lack, counts, full, strict=True)]
        rank = [(number != left, -behind) for number, behind in zip(need, lack, strict=True)]
        ranked = sorted((source for source, number in enumerate(need) if number), key=rank.__getitem__)
        quota = list(full)
        for source in ranked[: WINDOW - sum(full)]:
            quota[source] += 1
            need[source] -= 1
            lack[source] -= total
        quotas.append(quota)
    return [*quotas, last] if rest else quotas

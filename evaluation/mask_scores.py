"""What masks are worth, by numpy alone: IoU, how well edges meet, which mask answers for which object, whole videos.

J and F of a video are those of SA-V's official evaluator (facebookresearch/sam2, sav_dataset/sav_evaluator.py): the
first and the last annotated frame do not count, nor do those before an object was first seen in truth or prediction.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOUNDARY = 0.008  # of a picture's diagonal: how far apart edges may lie
Masks = NDArray[np.bool_]


def region_similarity(found: Masks, real: Masks) -> float:
    """J, the intersection over union of two masks `[H, W]`; 1 of two empty ones."""
    either = np.count_nonzero(found | real)
    return np.count_nonzero(found & real) / either if either else 1.0


def boundary_similarity(found: Masks, real: Masks) -> float:
    """F, the harmonic mean of precision and recall of the edge's pixels of two masks `[H, W]`; 1 of two without edges.

    A pixel of an edge is right where the other edge passes within `BOUNDARY` of the picture's diagonal, rounded up to
    pixels.
    """
    radius = math.ceil(BOUNDARY * math.hypot(*found.shape))
    edges = [edge(mask) for mask in (found, real)]
    counts = [np.count_nonzero(each) for each in edges]
    if not all(counts):
        return float(counts[0] == counts[1])
    precision, recall = (
        np.count_nonzero(own & widen(other, radius)) / count
        for own, other, count in zip(edges, reversed(edges), counts, strict=True)
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def edge(mask: Masks) -> Masks:
    """Pixels that differ from the one to the right, below, or right below; in the last row and column, one of them.

    Bool `[H, W]`; where an object touches the picture's last row or column, there is no edge (Martin's seg2bmap).
    """
    border = np.zeros_like(mask)
    border[:-1, :-1] = (
        (mask[:-1, :-1] ^ mask[:-1, 1:]) | (mask[:-1, :-1] ^ mask[1:, :-1]) | (mask[:-1, :-1] ^ mask[1:, 1:])
    )
    border[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    border[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return border


def widen(mask: Masks, radius: int) -> Masks:
    """All pixels `[H, W]` within a disk of `radius` pixels around one of the mask's."""
    height, width = mask.shape
    sums = np.zeros((height, width + 2 * radius + 1), np.int32)  # of the pixels to the left, with a margin
    sums[:, radius + 1 : radius + 1 + width] = mask.cumsum(axis=1)
    sums[:, radius + 1 + width :] = sums[:, radius + width, None]
    wide = np.zeros_like(mask)
    for down in range(-radius, radius + 1):
        half = math.isqrt(radius**2 - down**2)
        row = sums[:, radius + half + 1 :][:, :width] > sums[:, radius - half :][:, :width]
        first, last = max(0, down), height + min(0, down)
        if first < last:
            wide[first:last] |= row[first - down : last - down]
    return wide


def pairwise_ious(found: Masks, real: Masks) -> NDArray[np.float64]:
    """J of every mask of `[Q, H, W]` with every one of `[N, H, W]`: f64 `[Q, N]`."""
    one, other = (masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32) for masks in (found, real))
    both = (one @ other.T).astype(np.float64)
    either = one.sum(axis=1, dtype=np.float64)[:, None] + other.sum(axis=1, dtype=np.float64) - both
    ious: NDArray[np.float64] = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return ious


def assign(worth: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Give each column a row of its own so that what is gained is most: the Hungarian method, O(columns^2 * rows).

    Args:
        worth: `[R, C]`, finite.

    Returns:
        i64 `[C]`, the row of each column, -1 of those for which none is left.
    """
    rows, columns = worth.shape
    if columns > rows:
        column_of = assign(worth.T)
        found = np.full(columns, -1, np.int64)
        found[column_of] = np.arange(rows)
        return found
    # Kuhn's method with potentials, a shortest augmenting path for each column; row and column 0 stand for none.
    column_price, row_price = np.zeros(columns + 1), np.zeros(rows + 1)
    column_at = np.zeros(rows + 1, np.int64)  # which column a row is given to
    for column in range(1, columns + 1):
        column_at[0], row = column, 0
        lowest, before = np.full(rows + 1, np.inf), np.zeros(rows + 1, np.int64)
        seen = np.zeros(rows + 1, np.bool_)
        while column_at[row]:
            seen[row] = True
            at = column_at[row]
            costs = -worth[:, at - 1] - column_price[at] - row_price[1:]
            better = ~seen[1:] & (costs < lowest[1:])
            lowest[1:][better], before[1:][better] = costs[better], row
            row = int(np.where(seen, np.inf, lowest)[1:].argmin()) + 1
            step = lowest[row]
            column_price[column_at[seen]] += step
            row_price[seen] -= step
            lowest[~seen] -= step
        while row:
            column_at[row] = column_at[before[row]]
            row = int(before[row])
    found = np.full(columns, -1, np.int64)
    given = np.flatnonzero(column_at[1:])
    found[column_at[1:][given] - 1] = given
    return found


def matched_ious(found: Masks, real: Masks) -> NDArray[np.float64]:
    """J of N objects `[N, H, W]` with masks of `[Q, H, W]`, each of its own, so that their sum is most: f64 `[N]`.

    0 of an object for which there is no mask left.
    """
    worth = pairwise_ious(found, real)
    rows = assign(worth)
    return np.where(rows >= 0, worth[rows, np.arange(len(rows))] if len(worth) else 0.0, 0.0)


def video_scores(found: Masks, real: Masks) -> tuple[float, float] | None:
    """J and F of one object over a video.

    Args:
        found: bool `[n, H, W]`, of the annotated frames.
        real: likewise.

    Returns:
        Means over the frames that count; None where the object is in none of them in truth: it has no score.
    """
    found, real = found[1:-1], real[1:-1]
    shown = (found | real).any(axis=(1, 2))
    if not real.any():
        return None
    frames = range(int(shown.argmax()), len(real))
    regions = [region_similarity(found[frame], real[frame]) for frame in frames]
    borders = [boundary_similarity(found[frame], real[frame]) for frame in frames]
    return float(np.mean(regions)), float(np.mean(borders))

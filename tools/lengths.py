"""How long samples are: frames, tokens and other rows, as histograms for the terminal and as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.dataset import ShardDataset
from tools.png import png_of
from tools.terminal import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BINS = 16
_WIDTH = 40
Lengths = Mapping[str, NDArray[np.int64]]


def lengths_of(dataset: ShardDataset) -> dict[str, NDArray[np.int64]]:
    """Rows or pieces of every sample by field; fields of the same lengths are one, `frames, times`.

    Raises:
        ValueError: no field has lengths.
    """
    found: dict[str, NDArray[np.int64]] = {}
    for field in dataset.schema:
        if not field.has_lengths:
            continue
        lengths = dataset.lengths(field.name)
        same = next((name for name, others in found.items() if np.array_equal(others, lengths)), None)
        if same is None:
            found[field.name] = lengths
        else:
            found[f"{same}, {field.name}"] = found.pop(same)
    if not found:
        raise ValueError(f"{dataset.place} has neither rows nor packed pieces: all samples are of one length")
    return found


def bins(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At most `MOST_BINS` bins of one whole width from the shortest to the longest: counts, and their borders."""
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    width = -(-(high - low + 1) // MOST_BINS)
    borders = np.arange(low, high + width + 1, width)
    return np.histogram(lengths, borders - 0.5)[0], borders


def facts(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Number, sum, extremes, mean and quantiles, and the histogram."""
    counts, borders = bins(lengths)
    quantiles = np.percentile(lengths, [50, 90, 99]).tolist() if len(lengths) else [0.0] * 3
    return {
        "samples": len(lengths),
        "total": int(lengths.sum()),
        "min": int(borders[0]),
        "max": int(lengths.max(initial=0)),
        "mean": float(lengths.mean()) if len(lengths) else 0.0,
        **dict(zip(("median", "p90", "p99"), quantiles, strict=True)),
        "borders": borders.tolist(),
        "counts": counts.tolist(),
    }


def describe(found: Lengths) -> str:
    """Histograms of bars as lines for people."""
    lines: list[str] = []
    for name, lengths in found.items():
        about = facts(lengths)
        lines.append(
            f"{name}: {about['total']:,} in {about['samples']:,} samples, {about['min']:,} to {about['max']:,}, mean "
            f"{about['mean']:.1f}, median {about['median']:g}, 90 % up to {about['p90']:g}, 99 % up to {about['p99']:g}"
        )
        lines += _bars(about["counts"], about["borders"])
    return "\n".join(map(clean, lines))


def _bars(counts: Sequence[int], borders: Sequence[int]) -> list[str]:
    names = [_spell(low, high - 1) for low, high in itertools.pairwise(borders)]
    width, most = max(map(len, names)), max(*counts, 1)
    return [
        f"  {name:>{width}} {count:>9,} {'█' * round(_WIDTH * count / most)}"
        for name, count in zip(names, counts, strict=True)
    ]


def _spell(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def draw(found: Lengths, title: str) -> bytes:
    """The histograms beside each other; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(found), 3), layout="constrained")
    for axis, (name, lengths) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        _draw(axis, name, lengths)
    figure.suptitle(clean(title), fontsize=9, parse_math=False)
    return png_of(figure)


def _draw(axis: Axes, name: str, lengths: NDArray[np.int64]) -> None:
    counts, borders = bins(lengths)
    axis.bar(borders[:-1], counts, width=np.diff(borders) * 0.92, align="edge", color="#4477aa")
    axis.set_xlabel(f"{name} in a sample", fontsize=8)
    axis.set_ylabel("samples", fontsize=8)
    axis.tick_params(labelsize=7)

"""Masks as runs, COCO's compressed RLE: how SA-V writes its masks, and how data sets keep them.

A mask is read column by column. `counts` are the lengths of its runs, of zeros first, each but the first three as its
difference from the one two before, in groups of five bits, the lowest first, as text from "0" on (cocoapi's maskApi.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 7680 * 4320
_FIRST_CHARACTER = 48
_MORE, _SIGN = 0x20, 0x10  # bits of a group: another one follows; of the last one, the number is negative
_MOST_GROUPS = 7  # 35 bits: no run is as long


def encode(mask: NDArray[Any]) -> dict[str, Any]:
    """Write a mask down.

    Args:
        mask: [H, W]; true or non-zero is the object.

    Returns:
        `{"size": [H, W], "counts": text}`, as pycocotools writes it.

    Raises:
        ValueError: it has no pixels, or is not two-dimensional.
    """
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is [H, W] with pixels, got {list(mask.shape)}")
    flat = (mask.T != 0).ravel()
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    before = [0, 0] if flat[0] else [0]  # a run of no zeros
    runs = np.diff(np.concatenate([before, borders, [flat.size]]))
    return {"size": [int(side) for side in mask.shape], "counts": _spell(runs)}


def decode(rle: Mapping[str, Any], size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Read what `encode` wrote, or pycocotools.

    Args:
        rle: `{"size": [H, W], "counts": text}`.
        size: what H and W have to be; None takes any.

    Returns:
        bool [H, W], contiguous by columns.

    Raises:
        ValueError: it is none, is of another size, or its runs are not those of its size.
    """
    height, width = size_of(rle)
    if size is not None and (height, width) != size:
        raise ValueError(f"the RLE is of {height} x {width} px, expected {size[0]} x {size[1]}")
    runs = _runs(rle, height * width)
    values = np.zeros(len(runs), np.bool_)
    values[1::2] = True
    mask: NDArray[np.bool_] = np.repeat(values, runs).reshape(width, height).T
    return mask


def size_of(rle: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a mask.

    Raises:
        ValueError: there are none, or they are not those of a picture.
    """
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError("an RLE is an object with the size [height, width] and counts")
    height, width = size
    if not all(type(side) is int and side > 0 for side in size) or height * width > MAX_PIXELS:
        raise ValueError(f"an RLE's size is two whole numbers of up to {MAX_PIXELS} pixels in all, got {size!s:.60}")
    return height, width


def resize(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Take of each cell of a grid the pixel in its middle: bool [H, W] to bool `size`.

    As in a squashed picture, pixel i of n covers the i-th of n equal parts.
    """
    rows, columns = (
        (2 * np.arange(after) + 1) * before // (2 * after) for after, before in zip(size, mask.shape, strict=True)
    )
    small: NDArray[np.bool_] = mask[rows[:, None], columns]
    return small


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """The box around a mask as shares of its width and height: (x0, y0, x1, y1), half-open, so a full mask ends at 1.

    None where it is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    height, width = mask.shape
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    return x0 / width, y0 / height, x1 / width, y1 / height


def _spell(runs: NDArray[np.int64]) -> str:
    """Lengths of runs as text."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    places = np.arange(_MOST_GROUPS)
    groups = (values[:, None] >> (5 * places)) & 0x1F  # [runs, 7]
    left = values[:, None] >> (5 * (places + 1))
    done = left == np.where(groups & _SIGN, -1, 0)
    last = done.argmax(axis=1)[:, None]
    groups = np.where(places < last, groups | _MORE, groups) + _FIRST_CHARACTER
    text: bytes = groups[places <= last].astype(np.uint8).tobytes()
    return text.decode("ascii")


def _runs(rle: Mapping[str, Any], num_pixels: int) -> NDArray[np.int64]:
    """The lengths of the runs.

    Raises:
        ValueError: they are no text, or do not cover the mask exactly.
    """
    text = rle.get("counts")
    if not isinstance(text, str):
        raise ValueError(f"an RLE's counts are COCO's compressed text, got {type(text).__name__}")
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    groups = data.astype(np.int64) - _FIRST_CHARACTER
    last = np.flatnonzero((groups & _MORE) == 0)
    if not len(data) or groups.min() < 0 or groups.max() >= 2 * _MORE or len(last) == 0 or last[-1] != len(data) - 1:
        raise ValueError("an RLE's counts are no text that COCO writes")
    begins = np.concatenate([[0], last[:-1] + 1])
    sizes = last - begins + 1
    if sizes.max() > _MOST_GROUPS:
        raise ValueError("an RLE's counts hold a number that no run has")
    place = np.arange(len(data)) - np.repeat(begins, sizes)
    runs = np.add.reduceat((groups & 0x1F) << (5 * place), begins)
    runs -= np.where(groups[last] & _SIGN, np.int64(1) << (5 * sizes), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0 or runs.max() > num_pixels or int(runs.sum()) != num_pixels:
        raise ValueError(f"an RLE's runs are not those of its {num_pixels} pixels")
    return runs

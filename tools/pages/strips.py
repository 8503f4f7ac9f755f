"""Frames beside each other in one picture."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP = 6  # pixels between frames


def strip(frames: NDArray[np.uint8], least_side: int) -> bytes:
    """Frames beside each other as a PNG, each cell enlarged by a whole number.

    Args:
        frames: u8 [T, h, w, 4], RGB and how opaque.
        least_side: pixels that a frame is high at least.
    """
    times, height, width, _ = frames.shape
    scale = max(1, math.ceil(least_side / height))
    height, width = scale * height, scale * width
    together = np.zeros((height, times * width + (times - 1) * GAP, 4), dtype=np.uint8)
    for number, frame in enumerate(frames.repeat(scale, axis=1).repeat(scale, axis=2)):
        left = number * (width + GAP)
        together[:, left : left + width] = frame
    buffer = io.BytesIO()
    Image.fromarray(together).save(buffer, format="png", optimize=True)
    return buffer.getvalue()

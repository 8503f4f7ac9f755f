"""Frames beside each other in one picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.png import encode_png

GAP = 6  # pixels between frames
LEAST_SIDE = 96  # pixels that a frame is high at least


def strip(frames: NDArray[np.uint8], least_side: int = LEAST_SIDE) -> bytes:
    """Frames beside each other as a PNG, each cell enlarged by a whole number.

    Args:
        frames: u8 [T, h, w, 3], RGB, or [T, h, w, 4], RGB and how opaque.
        least_side: pixels that a frame is high at least.
    """
    times, height, width, num_colours = frames.shape
    scale = max(1, math.ceil(least_side / height))
    height, width = scale * height, scale * width
    together = np.zeros((height, times * width + (times - 1) * GAP, 4), dtype=np.uint8)
    for number, frame in enumerate(frames.repeat(scale, axis=1).repeat(scale, axis=2)):
        left = number * (width + GAP)
        together[:, left : left + width, 3] = 255
        together[:, left : left + width, :num_colours] = frame
    return encode_png(Image.fromarray(together))

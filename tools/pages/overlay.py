"""Masks painted over frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.mask_scores import edge, widen

# Told apart by most eyes (Okabe and Ito), again and again where there are more masks.
COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    np.uint8,
)
SHARE = 0.45  # of its colour inside of a mask


def overlay(frame: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A frame u8 `[H, W, 3]` with masks bool `[N, H, W]` over it: number i has colour i, and an edge of it."""
    painted = frame.astype(np.float32)
    for number, mask in enumerate(masks):
        colour = COLOURS[number % len(COLOURS)].astype(np.float32)
        painted[mask] += SHARE * (colour - painted[mask])
        painted[widen(edge(mask), 1) & mask] = colour
    return np.rint(painted).astype(np.uint8)

"""Frames and tubes: both directions of the two layouts a clip and its target can have on disk.

A token has a time t (of T') and a spatial position s (of S, row-major over the patch grid). Outside the file tokens
stand in the order i = t * S + s. The tubes layout turns that around: one position over all time is contiguous, so that
a tube mask, which keeps whole positions, keeps few large runs of bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray


def clip_to_tubes(clip: NDArray[np.uint8], tubelet: int, patch: int) -> NDArray[np.uint8]:
    """Cut a clip into tubes.

    Args:
        clip: u8 `[T, H, W, C]`; T a multiple of `tubelet`, H and W of `patch`.
        tubelet: frames per tubelet.
        patch: pixels per patch side.

    Returns:
        u8 `[S, T', tubelet, patch, patch, C]`, contiguous.

    Raises:
        ValueError: a side is not a multiple.
    """
    frames, height, width = clip.shape[:3]
    if frames % tubelet or height % patch or width % patch:
        raise ValueError(
            f"a clip of {frames} frames of {height}x{width} cannot be cut into tubelets of {tubelet} frames and "
            f"patches of {patch} pixels: each side must be a multiple"
        )
    tubes = rearrange(clip, "(t k) (h p) (w q) c -> (h w) t k p q c", k=tubelet, p=patch, q=patch)
    return np.ascontiguousarray(tubes)


def tubes_to_clip(tubes: NDArray[np.uint8], grid_height: int) -> NDArray[np.uint8]:
    """Put tubes `[S, T', tubelet, patch, patch, C]` together again: u8 `[T, H, W, C]`, contiguous.

    Raises:
        ValueError: S is not a multiple of `grid_height`.
    """
    if tubes.shape[0] % grid_height:
        raise ValueError(f"{tubes.shape[0]} positions cannot form a grid of height {grid_height}")
    return np.ascontiguousarray(rearrange(tubes, "(h w) t k p q c -> (t k) (h p) (w q) c", h=grid_height))


def target_to_tubes(target: NDArray[Any], num_times: int) -> NDArray[Any]:
    """Reorder tokens `[N, D]`, i = t * S + s, to `[S, T', D]`, contiguous.

    Raises:
        ValueError: N is not a multiple of `num_times`.
    """
    if target.shape[0] % num_times:
        raise ValueError(f"{target.shape[0]} tokens are not a multiple of {num_times} times")
    return np.ascontiguousarray(rearrange(target, "(t s) d -> s t d", t=num_times))


def tubes_to_target(tubes: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `target_to_tubes`: `[S, T', D]` to `[N, D]`, i = t * S + s, contiguous."""
    return np.ascontiguousarray(rearrange(tubes, "s t d -> (t s) d"))

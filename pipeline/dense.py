"""Batches in the shapes that other code expects: video `[B, C, T, H, W]` and tokens `[B, N, D]`, from either layout.

Whole clips, read without `gather`:

    loader = ShardLoader(dataset, LoaderConfig(fields=("clip", "target", "label")))
    for batch in DeviceLoader(loader, "cuda", normalize={"clip": IMAGENET}):
        video = dense_video(batch["clip"], size=(224, 224))  # f32 [B, 3, 16, 224, 224]
        targets = dense_tokens(batch["target"])              # f16 [B, 1568, 384]
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def dense_video(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """Put a batch of clips together as dense video.

    Args:
        clip: frames `[B, T, H, W, C]`, or all tubes `[B, S, T', tubelet, patch, patch, C]`, as a loader gives them; u8
            or normalised, on any device.
        size: height and width of a frame in pixels, which tubes alone do not tell.

    Returns:
        `[B, C, T, H, W]`, contiguous, with the dtype of `clip`.

    Raises:
        ValueError: `clip` is neither, or does not hold all of a frame of that size, such as the tubes a mask leaves.
    """
    height, width = size
    if clip.ndim == 5 and tuple(clip.shape[2:4]) == size:
        return rearrange(clip, "b t h w c -> b c t h w").contiguous()
    if clip.ndim == 7:
        num_positions, rows, columns = clip.shape[1], *clip.shape[4:6]
        if height % rows == 0 and width % columns == 0 and num_positions == height // rows * (width // columns):
            tubes = "b (y x) n t h w c -> b c (n t) (y h) (x w)"
            return rearrange(clip, tubes, y=height // rows).contiguous()
    raise ValueError(
        f"clip has shape {list(clip.shape)}, which is not whole video of {height} x {width} pixels; needed are frames "
        f"[B, T, {height}, {width}, C] or all tubes [B, S, T', tubelet, patch, patch, C]: read them without `gather`"
    )


def dense_tokens(target: Tensor) -> Tensor:
    """Put tokens in one line, i = t * S + s.

    Args:
        target: tokens `[B, N, D]` as they are, or tubes `[B, S, T', D]` of all positions or of those a mask names.

    Returns:
        `[B, N, D]`, contiguous; of some positions `[B, T' * S', D]`, in their order at each time.

    Raises:
        ValueError: `target` has neither shape.
    """
    if target.ndim == 4:
        return rearrange(target, "b s t d -> b (t s) d").contiguous()
    if target.ndim == 3:
        return target.contiguous()
    raise ValueError(f"target has shape {list(target.shape)}; needed is [B, N, D] or [B, S, T', D]")

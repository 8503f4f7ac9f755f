"""Pixels to tokens: one linear map of every tubelet of `tubelet x patch x patch` RGB pixels."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from shards.format.pixels import IMAGENET_MEAN, IMAGENET_STD

MIDDLE = 128  # of a byte's values: the bytes less this are exact in bf16 and centred, so little cancels


class TubeletEmbedding(nn.Module):
    """The parameters of a Conv3d whose stride is its kernel, applied as the matrix product that it is.

    A dense video and loose tubes go through the same product, so both give the same tokens; a checkpoint of any
    ViT with a Conv3d stem loads by name. Bytes are normalised on the way: ImageNet's mean and deviation go into the
    weight and the bias of the product, which see them as they are on disk.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, *, dim: int, tubelet: int, patch: int) -> None:
        super().__init__()
        kernel = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, dim, kernel_size=kernel, stride=kernel)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        # (pixel / 255 - mean) / std = (pixel - MIDDLE) * scale + shift, by channel
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", (MIDDLE / 255 - mean) / std, persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Embed pixels: u8, or floats that are normalised.

        Args:
            clip: a dense video `[B, 3, T, H, W]`, or tubes `[B, S', T', tubelet, patch, patch, 3]`.

        Returns:
            Tokens `[B, T', S', D]`.

        Raises:
            ValueError: If `clip` has neither shape.
        """
        tubelets, weight, bias = self._tubelets(clip), self.proj.weight, self.proj.bias
        if clip.dtype == torch.uint8:
            tubelets = tubelets.to(compute_dtype(clip.device, weight.dtype)) - MIDDLE
            channels = weight.movedim(1, -1)  # [D, t, h, w, 3]
            bias = (bias if bias is not None else 0) + (channels * self.shift).sum((1, 2, 3, 4))
            return F.linear(tubelets, (channels * self.scale).flatten(1), bias)
        return F.linear(tubelets, rearrange(weight, "d c t h w -> d (t h w c)"), bias)  # [B, T', S', D]

    def _tubelets(self, clip: Tensor) -> Tensor:
        """Flatten the pixels of each tubelet: `[B, T', S', tubelet*patch*patch*3]`."""
        t, h, w = self.proj.kernel_size
        if clip.ndim == 7 and tuple(clip.shape[3:]) == (t, h, w, 3):
            return rearrange(clip, "b s n t h w c -> b n s (t h w c)")
        if clip.ndim == 5 and clip.shape[1] == 3:
            return rearrange(clip, "b c (n t) (y h) (x w) -> b n (y x) (t h w c)", t=t, h=h, w=w)
        raise ValueError(
            f"clip has shape {tuple(clip.shape)}; allowed are a video [B, 3, T, H, W] and "
            f"tubes [B, S, T', {t}, {h}, {w}, 3]"
        )


def compute_dtype(device: torch.device, otherwise: torch.dtype) -> torch.dtype:
    """The dtype of matrix products here: autocast's where it is on."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return otherwise


def video_or_tubes(clip: Tensor) -> Tensor:
    """A clip as the loader gives it, as an encoder takes it.

    Frames `[B, T, H, W, 3]` become a video `[B, 3, T, H, W]`; tubes stay what they are.
    """
    return rearrange(clip, "b t h w c -> b c t h w") if clip.ndim == 5 else clip

"""Pixels to tokens: one linear map of every tubelet of `tubelet x patch x patch` RGB pixels."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class TubeletEmbedding(nn.Module):
    """The parameters of a Conv3d whose stride is its kernel, applied as the matrix product that it is.

    A dense video and loose tubes go through the same product, so both give the same tokens; a checkpoint of any
    ViT with a Conv3d stem loads by name.
    """

    def __init__(self, *, dim: int, tubelet: int, patch: int) -> None:
        super().__init__()
        kernel = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, dim, kernel_size=kernel, stride=kernel)

    def forward(self, clip: Tensor) -> Tensor:
        """Embed normalised pixels.

        Args:
            clip: a dense video `[B, 3, T, H, W]`, or tubes `[B, S', T', tubelet, patch, patch, 3]`.

        Returns:
            Tokens `[B, T', S', D]`.

        Raises:
            ValueError: If `clip` has neither shape.
        """
        weight = rearrange(self.proj.weight, "d c t h w -> d (t h w c)")
        return F.linear(self._tubelets(clip), weight, self.proj.bias)  # [B, T', S', D]

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


def video_or_tubes(clip: Tensor) -> Tensor:
    """A clip as the loader gives it, as an encoder takes it.

    Frames `[B, T, H, W, 3]` become a video `[B, 3, T, H, W]`; tubes stay what they are.
    """
    return rearrange(clip, "b t h w c -> b c t h w") if clip.ndim == 5 else clip

"""What past frames leave behind for the next one: a resampler that sums them up, and the attention that reads the sum.

features of T frames [B, T, C, h, w] -> T * h * w tokens -> Perceiver resampler -> a few latents [B, 64, C]
a frame's tokens [B, N, C] -> x + attention(norm(x), norm(latents)), of which nothing arrives at the start
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPREAD = 0.02  # standard deviation of latents and embeddings at the start


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The two modules; both are as wide as the features.

    Attributes:
        num_latents: what the past is summed up in.
        num_layers: of the resampler.
        num_heads: of its attention and of that of the frame's tokens.
        ffn_dim: width inside of the resampler's two linear layers.
        time_embedding: whether a token says which of the past frames it is of.
        cell_embedding: whether it says where in the frame it is; without the two the past is an unordered bag.
    """

    num_latents: int = 64
    num_layers: int = 2
    num_heads: int = 8
    ffn_dim: int = 768
    time_embedding: bool = False
    cell_embedding: bool = False

    def __post_init__(self) -> None:
        for name in ("num_latents", "num_layers", "num_heads", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it has to be at least 1")


class CrossAttention(nn.Module):
    """Multi-head attention of some tokens to others of the same width."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Xavier's uniform weights, biases of zero.

        Raises:
            ValueError: the width is no multiple of the heads.
        """
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"features are {dim} wide, which {num_heads} heads do not share (model.num_heads)")
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        for part in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """What `[B, Q, D]` find in `[B, K, D]`: `[B, Q, D]`."""
        q, k, v = self.q_proj(asking), self.k_proj(asked), self.v_proj(asked)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, heads, L, d]
        found = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(found.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class ResamplerLayer(nn.Module):
    """Latents attend to tokens, then go through two linear layers; each is added to them."""

    def __init__(self, dim: int, config: MemoryConfig) -> None:
        super().__init__()
        self.norm_latents, self.norm_tokens, self.norm_ffn = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = CrossAttention(dim, config.num_heads)
        self.fc1, self.fc2 = nn.Linear(dim, config.ffn_dim), nn.Linear(config.ffn_dim, dim)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Latents `[B, L, D]` that have seen tokens `[B, K, D]`."""
        latents = latents + self.attention(self.norm_latents(latents), self.norm_tokens(tokens))
        return latents + self.fc2(F.gelu(self.fc1(self.norm_ffn(latents))))  # type: ignore[no-any-return]


class MemoryResampler(nn.Module):
    """Perceiver resampler (Flamingo, arXiv 2204.14198): any number of past frames into a few latents."""

    def __init__(self, dim: int, config: MemoryConfig, *, num_frames: int, num_cells: int) -> None:
        """Draw weights from torch's generator.

        Args:
            dim: channels of the features.
            config: its sizes.
            num_frames: the most past frames, which the time embedding tells apart.
            num_cells: places of a frame, which the cell embedding tells apart.
        """
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.num_latents, dim) * SPREAD)
        self.time_pos_embed = nn.Parameter(torch.randn(num_frames, dim) * SPREAD) if config.time_embedding else None
        self.cell_pos_embed = nn.Parameter(torch.randn(num_cells, dim) * SPREAD) if config.cell_embedding else None
        self.layers = nn.ModuleList([ResamplerLayer(dim, config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, context: Tensor) -> Tensor:
        """Sum up features `[B, T, C, h, w]` of past frames, oldest first, in latents `[B, num_latents, C]`.

        Raises:
            ValueError: there are more frames or other places than an embedding tells apart.
        """
        tokens = context.to(self.latents.dtype).flatten(-2).transpose(-1, -2)  # [B, T, h * w, C]
        num_frames, num_cells = tokens.shape[1:3]
        if self.time_pos_embed is not None:
            self._refuse(num_frames > len(self.time_pos_embed), num_frames, "frames", self.time_pos_embed)
            tokens = tokens + self.time_pos_embed[-num_frames:, None]  # the newest is always the last
        if self.cell_pos_embed is not None:
            self._refuse(num_cells != len(self.cell_pos_embed), num_cells, "cells", self.cell_pos_embed)
            tokens = tokens + self.cell_pos_embed
        tokens = tokens.flatten(1, 2)  # [B, T * h * w, C], a frame's cells beside each other
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            latents = layer(latents, tokens)
        return self.norm(latents)  # type: ignore[no-any-return]

    @staticmethod
    def _refuse(wrong: bool, found: int, what: str, embedding: Tensor) -> None:
        if wrong:
            raise ValueError(f"the memory holds {found} {what}, its embedding tells {len(embedding)} apart")


class MemoryAttention(nn.Module):
    """A frame's tokens read the latents: x + attention(norm(x), norm(latents)), which begins as x itself."""

    def __init__(self, dim: int, config: MemoryConfig) -> None:
        super().__init__()
        self.norm, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, config.num_heads)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Map tokens `[B, N, C]`, given latents `[B, L, C]`."""
        return tokens + self.attention(self.norm(tokens), self.norm_latents(latents))  # type: ignore[no-any-return]


class MemoryRing:
    """The features of the last frames of one video, or of B videos side by side."""

    def __init__(self, size: int) -> None:
        """Begin with none; the newest `size` are kept."""
        self._frames: deque[Tensor] = deque(maxlen=size)

    def __len__(self) -> int:
        """Frames that are kept."""
        return len(self._frames)

    def reset(self) -> None:
        """Forget all, as at a cut or at another video's first frame."""
        self._frames.clear()

    def push(self, features: Tensor) -> None:
        """Keep a frame's features, `[B, C, h, w]`."""
        self._frames.append(features.detach())

    def context(self) -> Tensor | None:
        """What the resampler takes, `[B, T, C, h, w]`, oldest first; None where there is nothing yet."""
        return torch.stack(tuple(self._frames), dim=1) if self._frames else None

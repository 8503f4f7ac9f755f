"""SALT: a plain ViT over video that predicts the frozen teacher's tokens where it was not allowed to look.

Two ways to hide a token (Li et al. 2025, arXiv 2509.24317; V-JEPA, arXiv 2404.08471):
- "dense": a mask token takes its place in the encoder, and a linear head reads the prediction off the encoder's output.
- "jepa": the encoder sees the visible tokens alone, and a narrow predictor gets the mask tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from model.blocks import NORM_EPS, Block, Norm, init_weights
from model.grid import GridConfig
from model.positions import sinusoid_table
from model.tubelets import TubeletEmbedding

Mode = Literal["dense", "jepa"]


@dataclass(frozen=True, kw_only=True)
class SALTConfig(GridConfig):
    """Size of the student; ViT-Ti, S and B are 192, 384 and 768 wide with 3, 6 and 12 heads.

    Attributes:
        mode: how tokens are hidden, see the module's text.
        dim: width of the encoder, D.
        depth: blocks of the encoder.
        heads: attention heads of the encoder.
        mlp_ratio: hidden width of an MLP as a multiple of its width.
        predictor_dim: width of the predictor ("jepa" only).
        predictor_depth: its blocks.
        predictor_heads: its attention heads.
    """

    mode: Mode = "dense"
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    predictor_dim: int = 384
    predictor_depth: int = 6
    predictor_heads: int = 6
    target_dim: int = 1280

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_multiples(("dim", "heads"), ("predictor_dim", "predictor_heads"))
        if self.mode not in ("dense", "jepa"):
            raise ValueError(f"mode={self.mode!r}; allowed are 'dense' and 'jepa'")
        if min(self.depth, self.predictor_depth) < 1 or self.mlp_ratio <= 0:
            raise ValueError("depth, predictor_depth and mlp_ratio have to be positive")


class ViTEncoder(nn.Module):
    """A ViT with the parameter names of timm's, a Conv3d stem and one learned position per token of the clip."""

    def __init__(self, config: SALTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = TubeletEmbedding(dim=config.dim, tubelet=config.tubelet, patch=config.patch)
        self.pos_embed = nn.Parameter(sinusoid_table(config.num_tokens, config.dim)[None])  # [1, N, D]
        self.blocks = nn.Sequential(
            *(Block(dim=config.dim, num_heads=config.heads, mlp_ratio=config.mlp_ratio) for _ in range(config.depth))
        )
        self.norm = Norm(config.dim, eps=NORM_EPS)
        self.apply(init_weights)

    def forward(self, clip: Tensor) -> Tensor:
        """Encode whole clips (video or tubes, as `TubeletEmbedding` takes them) into `[B, T', S, D]`."""
        x = self.embed(clip)
        return rearrange(self.encode(x), "b (t s) d -> b t s d", t=self.config.num_times)

    def embed(self, clip: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Turn pixels into tokens with their positions.

        Args:
            clip: all of it, or only the tubes that make up `tokens`, in their order.
            tokens: i64 `[B, K]`, numbers of the tokens wanted; None for all.

        Returns:
            `[B, K, D]`.

        Raises:
            ValueError: If the grid of `clip` is neither the configured one nor that of `tokens`.
        """
        x: Tensor = self.patch_embed(clip).flatten(1, 2)  # [B, T' * S', D]
        num_tokens = self.config.num_tokens if tokens is None else tokens.shape[1]
        if x.shape[1] not in (self.config.num_tokens, num_tokens):
            raise ValueError(
                f"clip gives {x.shape[1]} tokens; the model is configured for {self.config.num_times} x "
                f"{self.config.num_positions}, of which {num_tokens} are wanted"
            )
        if tokens is not None and x.shape[1] != num_tokens:
            x = take_tokens(x, tokens)
        return x + self.positions_of(tokens).to(x.dtype)

    def positions_of(self, tokens: Tensor | None) -> Tensor:
        """The positions of some tokens, `[B, K, D]`, or of all, `[1, N, D]`."""
        return self.pos_embed if tokens is None else self.pos_embed[0][tokens]

    def encode(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """Run the blocks and the last norm over tokens `[B, K, D]`; of `num_last` at the end, or of all."""
        return self.norm(run_blocks(self.blocks, x, num_last))  # type: ignore[no-any-return]


class TokenPredictor(nn.Module):
    """Joint blocks over what the encoder made of the visible tokens, and mask tokens for the others."""

    positions: Tensor

    def __init__(self, config: SALTConfig) -> None:
        super().__init__()
        width = config.predictor_dim
        self.embed = nn.Linear(config.dim, width) if width != config.dim else nn.Identity()
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("positions", sinusoid_table(config.num_tokens, width), persistent=False)  # [N, P]
        self.blocks = nn.Sequential(
            *(
                Block(dim=width, num_heads=config.predictor_heads, mlp_ratio=config.mlp_ratio)
                for _ in range(config.predictor_depth)
            )
        )
        self.norm = Norm(width, eps=NORM_EPS)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Map tokens `[B, K, D]` at `visible` to features `[B, M, P]` at `masked`."""
        seen = self.embed(seen)
        positions = self.positions.to(seen.dtype)
        hidden = self.mask_token.to(seen.dtype) + positions[masked]
        x = torch.cat([seen + positions[visible], hidden], dim=1)
        return self.norm(run_blocks(self.blocks, x, masked.shape[1]))  # type: ignore[no-any-return]


class SALT(nn.Module):
    """The student. After training only the encoder is kept."""

    def __init__(self, config: SALTConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ViTEncoder(config)
        if config.mode == "dense":
            self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.dim), std=0.02))
            self.head = nn.Linear(config.dim, config.target_dim)
        else:
            self.predictor = TokenPredictor(config)
            self.head = nn.Linear(config.predictor_dim, config.target_dim)
        init_weights(self.head)

    def forward(self, clip: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict the teacher's tokens at the masked places.

        Args:
            clip: pixels (u8, or normalised floats) of the whole clip, or of the tubes of the visible tokens.
            visible: i64 `[B, K]`, numbers of the tokens that may be seen; token i is at t = i // S, s = i % S.
            masked: i64 `[B, M]`, numbers of the tokens to predict.

        Returns:
            `[B, M, target_dim]`, in the order of `masked`.
        """
        x = self.encoder.embed(clip, visible)  # [B, K, D]
        if self.config.mode == "jepa":
            return self.head(self.predictor(self.encoder.encode(x), visible, masked))  # type: ignore[no-any-return]
        # Attention knows no order but the positions', so mask tokens may follow the visible ones.
        hidden = self.mask_token + self.encoder.positions_of(masked)
        x = torch.cat([x, hidden.to(x.dtype)], dim=1)
        return self.head(self.encoder.encode(x, masked.shape[1]))  # type: ignore[no-any-return]


def run_blocks(blocks: nn.Sequential, x: Tensor, num_last: int | None) -> Tensor:
    """Joint blocks over tokens `[B, K, D]`, a grid of one time; the last one only for `num_last` at the end."""
    *first, last = blocks
    x = x[:, None]
    for block in first:
        x = block(x)
    return last(x, num_last)[:, 0]  # type: ignore[no-any-return]


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Pick tokens of each sample: `[B, N, D]` and i64 `[B, K]` give `[B, K, D]`."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[2]))

"""Transformer blocks over a grid of tokens `[B, T, S, D]`: joint attention, or time and space in turn."""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # as in timm's ViT and in VideoMAE's own code
Factorisation = Literal["twice", "single", "separate"]
Axis = Literal["time", "space", "joint"]


class Attention(nn.Module):
    """Multi-head self-attention with one `qkv` and one `proj`, along any axis of the grid."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *axes: Axis) -> Tensor:
        """Attend along `axes` in turn: queries and keys are computed once, each result is the next one's values.

        Args:
            x: tokens `[B, T, S, D]`.
            axes: "time" within each spatial position, "space" within each time step, "joint" over all tokens.

        Returns:
            Tokens `[B, T, S, D]`.
        """
        q, k, v = rearrange(self.qkv(x), "b t s (three h d) -> three b h t s d", three=3, h=self.num_heads)
        for axis in axes:
            v = _attend(q, k, v, axis)
        return self.proj(rearrange(v, "b h t s d -> b t s (h d)"))  # type: ignore[no-any-return]


_FLAT = {"time": "(b s) h t d", "space": "(b t) h s d", "joint": "b h (t s) d"}


def _attend(q: Tensor, k: Tensor, v: Tensor, axis: Axis) -> Tensor:
    """Scaled dot-product attention of `[B, heads, T, S, d]` along one axis of the grid."""
    batch, _, num_times, num_positions, _ = q.shape
    flat = _FLAT[axis]
    q, k, v = (rearrange(x, f"b h t s d -> {flat}") for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, f"{flat} -> b h t s d", b=batch, t=num_times, s=num_positions)


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., D]` to `[..., D]`."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm block: attention, then an MLP, each added to its input.

    `factorised` says how attention is split over time and space; None is joint attention over all tokens.
    - "twice": the same module first over time, then over space, each with its residual. The parameters are those of
      a joint block, so the two are interchangeable.
    - "single": queries and keys are computed once; space attention takes the result of time attention as its values.
    - "separate": time attention has a module and a norm of its own (TimeSformer, arXiv 2102.05095).
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float, factorised: Factorisation | None = None) -> None:
        super().__init__()
        self.factorised = factorised
        self.recompute = False
        if factorised == "separate":
            self.norm_time = nn.LayerNorm(dim, eps=NORM_EPS)
            self.attn_time = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, round(mlp_ratio * dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, T, S, D]` to tokens of the same shape."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)  # type: ignore[no-any-return]
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        if self.factorised is None:
            x = x + self.attn(self.norm1(x), "joint")
        elif self.factorised == "single":
            x = x + self.attn(self.norm1(x), "time", "space")
        elif self.factorised == "twice":
            x = x + self.attn(self.norm1(x), "time")
            x = x + self.attn(self.norm1(x), "space")
        else:
            x = x + self.attn_time(self.norm_time(x), "time")
            x = x + self.attn(self.norm1(x), "space")
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


def recompute_blocks(module: nn.Module) -> None:
    """Make every block in `module` keep its input only, and compute the rest again for the backward pass.

    A part that is not made of these blocks is asked to do likewise, if it can: by its `recompute_activations()`.
    """
    for block in module.modules():
        if isinstance(block, Block):
            block.recompute = True
        elif callable(ask := getattr(block, "recompute_activations", None)):
            ask()


def init_weights(module: nn.Module) -> None:
    """Truncated normal (0.02) for weights, zero for biases, one for norms; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)

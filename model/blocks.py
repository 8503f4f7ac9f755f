"""Transformer blocks over a grid of tokens `[B, T, S, D]`: joint attention, or time and space in turn."""

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # as in timm's ViT and in VideoMAE's own code
MAX_SHORT = 16  # tokens of a sequence below which a fused kernel's tile of 128 x 128 is next to empty
Factorisation = Literal["twice", "single", "separate"]
Axis = Literal["time", "space", "joint"]
ShortForm = Literal["matmul", "sdpa"]


class Norm(nn.LayerNorm):
    """Layer normalisation that reads and writes the dtype of its input; its statistics are f32 whatever that is.

    Autocast would take the tokens to f32 and back, in front of every block: twice the bytes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[..., D]`."""
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention with one `qkv` and one `proj`, along any axis of the grid."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.short_form: ShortForm = "matmul"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *axes: Axis, num_last: int | None = None) -> Tensor:
        """Attend along `axes` in turn: queries and keys are computed once, each result is the next one's values.

        Args:
            x: tokens `[B, T, S, D]`.
            axes: "time" within each spatial position, "space" within each time step, "joint" over all tokens.
            num_last: how many positions at the end of S ask, of joint attention; None for all.

        Returns:
            Tokens `[B, T, S, D]`, or `[B, T, num_last, D]`.
        """
        q, k, v = self._heads(x, self.qkv.weight, self.qkv.bias) if num_last is None else self._asked(x, num_last)
        for axis in axes:
            v = self._attend(q, k, v, axis)
        return self.proj(v.flatten(-2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """Project, and view the result as one `[B, T, S, heads, d]` a projection.

        The backward pass stacks their gradients where the product with `weight` reads them, without another copy.
        """
        size = x.shape[-1] // self.num_heads
        projected = F.linear(x, weight, bias)
        return projected.view(*x.shape[:-1], -1, self.num_heads, size).unbind(-3)

    def _asked(self, x: Tensor, num_last: int) -> tuple[Tensor, ...]:
        """Queries of the last positions, keys and values of all."""
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        asked = self._heads(x[:, :, -num_last:], weight[:dim], bias[:dim])
        return (*asked, *self._heads(x, weight[dim:], bias[dim:]))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, axis: Axis) -> Tensor:
        """Scaled dot-product attention of `[B, T, S, heads, d]` along one axis of the grid."""
        batch, num_times, num_positions = q.shape[:3]
        flat = _FLAT[axis]
        q, k, v = (rearrange(x, f"b t s h d -> {flat}") for x in (q, k, v))
        short = axis == "time" and num_times <= MAX_SHORT and self.short_form == "matmul"
        out = attend_short(q, k, v) if short else attend_long(q, k, v)
        return rearrange(out, f"{flat} -> b t s h d", b=batch, t=num_times, s=num_positions)


_FLAT = {"time": "(b s) h t d", "space": "(b t) h s d", "joint": "b h (t s) d"}


def attend_long(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of `[..., L, d]` by torch's kernels."""
    return F.scaled_dot_product_attention(q, k, v)


def attend_short(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same for a handful of tokens: two batched products and a softmax in f32, which a compiler fuses."""
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])  # [..., L, L]
    return scores.softmax(-1).to(v.dtype) @ v


def use_short_form(module: nn.Module, form: ShortForm) -> None:
    """How every attention in `module` treats short sequences; "sdpa" is to compare with."""
    for attention in module.modules():
        if isinstance(attention, Attention):
            attention.short_form = form


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
            self.norm_time = Norm(dim, eps=NORM_EPS)
            self.attn_time = Attention(dim, num_heads)
        self.norm1 = Norm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = Norm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, round(mlp_ratio * dim))

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """Map tokens `[B, T, S, D]` to tokens of the same shape.

        Of a joint block, only those at the `num_last` positions at the end of S may be wanted: `[B, T, num_last, D]`.
        """
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, num_last, use_reentrant=False)  # type: ignore[no-any-return]
        return self._forward(x, num_last)

    def _forward(self, x: Tensor, num_last: int | None) -> Tensor:
        if self.factorised is None:
            kept = x if num_last is None else x[:, :, -num_last:]
            x = kept + self.attn(self.norm1(x), "joint", num_last=num_last)
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

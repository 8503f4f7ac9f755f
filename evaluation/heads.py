"""Classifiers on frozen tokens: linear on their mean, or a query that looks at all of them."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import NORM_EPS, Block, Mlp

MLP_RATIO = 4.0


class LinearHead(nn.Module):
    """The mean of the tokens, standardised as the training features were, and a linear map."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, num_classes: int, generator: torch.Generator | None = None) -> None:
        """Start with weights from `generator`."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[B, C]` of tokens `[B, N, D]`."""
        return self.of_means(tokens.float().mean(dim=1))

    def of_means(self, means: Tensor) -> Tensor:
        """Logits `[B, C]` of the means of the tokens, `[B, D]`."""
        return self.linear((means - self.mean) / self.scale)  # type: ignore[no-any-return]


class CrossAttentionBlock(nn.Module):
    """A query looks at the tokens, then goes through an MLP; each is added to its input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, round(MLP_RATIO * dim))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Map queries `[B, Q, D]` and tokens `[B, N, D]` to `[B, Q, D]`."""
        q = self._by_head(self.query(query))
        k, v = (self._by_head(part) for part in self.key_value(self.norm1(tokens)).chunk(2, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, Q, D]
        query = query + self.proj(seen)
        return query + self.mlp(self.norm2(query))  # type: ignore[no-any-return]

    def _by_head(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)


class AttentiveHead(nn.Module):
    """One learned query that looks at all tokens, and a linear map.

    One block is V-JEPA's probe (arXiv 2404.08471): the query's cross-attention. Four are V-JEPA 2's (arXiv 2506.09985):
    three blocks of self-attention over the tokens before it.
    """

    def __init__(
        self, width: int, num_classes: int, *, blocks: int, heads: int, generator: torch.Generator | None = None
    ) -> None:
        """Start with weights from `generator`.

        Raises:
            ValueError: The heads do not divide the width, or there is no block.
        """
        super().__init__()
        if blocks < 1 or heads < 1 or width % heads:
            raise ValueError(f"blocks={blocks}, heads={heads}, width={width}; a block at least, and heads that divide")
        self.blocks = nn.ModuleList(Block(dim=width, num_heads=heads, mlp_ratio=MLP_RATIO) for _ in range(blocks - 1))
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.cross = CrossAttentionBlock(width, heads)
        self.linear = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.query, std=0.02, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[B, C]` of tokens `[B, N, D]`."""
        x = tokens[:, None]  # attention over all of them: a grid of one time
        for block in self.blocks:
            x = block(x)
        pooled = self.cross(self.query.expand(len(tokens), -1, -1), x[:, 0])
        return self.linear(pooled[:, 0])  # type: ignore[no-any-return]


def cosine(step: int, num_steps: int) -> float:
    """The share of the learning rate at a step: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / num_steps))

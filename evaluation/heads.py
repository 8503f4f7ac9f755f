"""Classifiers on frozen tokens, and the files that they are kept in."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import NORM_EPS, Block, Mlp
from shards.format.publish import publish_bytes

HeadKind = Literal["linear", "attentive"]
HEADER = "reelshard_probe"
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


Head = LinearHead | AttentiveHead


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """What a kept head needs to be used again.

    Attributes:
        kind: of head.
        width: of the tokens.
        label_names: of the classes.
        layer: of the encoder whose tokens it reads.
        encoder: what it was called.
        encoder_digest: of its weights; the head is of no use with others.
        blocks: of an attentive head.
        heads: of an attentive head.
        view_hash: of the view that it was trained on; None where nobody wrote it down.
    """

    kind: HeadKind
    width: int
    label_names: Sequence[str]
    layer: int
    encoder: str
    encoder_digest: str
    blocks: int = 1
    heads: int = 1
    view_hash: str | None = None

    def make(self, generator: torch.Generator | None = None) -> Head:
        """A head of this kind with fresh weights."""
        if self.kind == "linear":
            return LinearHead(self.width, len(self.label_names), generator)
        return AttentiveHead(
            self.width, len(self.label_names), blocks=self.blocks, heads=self.heads, generator=generator
        )


def save_head(path: Path, head: Head, facts: HeadFacts) -> None:
    """Write a head as safetensors, what it needs in the header."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    publish_bytes(path, safetensors.torch.save(tensors, {HEADER: json.dumps(asdict(facts), sort_keys=True)}))


def load_head(path: Path) -> tuple[Head, HeadFacts]:
    """Read a head that `save_head` wrote, in evaluation mode.

    Raises:
        ValueError: It is none, or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(HEADER, "null"))
        if not isinstance(record, dict):
            raise ValueError("its header holds no probe")
        facts = HeadFacts(**{**record, "label_names": tuple(record["label_names"])})
        head = facts.make()
        head.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a probe that `evaluate probe --out` wrote: {reason}") from error
    head.eval().requires_grad_(False)
    return head, facts


def cosine(step: int, num_steps: int) -> float:
    """The share of the learning rate at a step: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / num_steps))

"""DINOv2 read by queries: one pass over a picture keeps its keys and values, and any number of queries read them.

A query is a token that attends to the patches (and the CLS token) at every layer, while they do not attend to it: what
they are does not depend on who reads them, so that one pass serves all. This is the one place that knows what
transformers calls the parts of a DINOv2.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.pretrained import load_pretrained

ALLOWED = "Give a DINOv2 id on the Hub, or a folder made by its save_pretrained"
HEADS = ("classifier.",)  # of checkpoints that were made to classify


@dataclass(frozen=True)
class SeenPictures:
    """What a pass over N pictures leaves to be read.

    Attributes:
        keys: of every layer, `[N, P, D]`: what the patches' own attention used, with its gradients.
        values: of every layer, `[N, P, D]`.
        tokens: the last layer's, normalised, `[N, P, D]`: the CLS token and the patches.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    tokens: Tensor

    def take(self, numbers: Tensor) -> SeenPictures:
        """Some of them, by their numbers, i64 `[K]`."""
        return SeenPictures([k[numbers] for k in self.keys], [v[numbers] for v in self.values], self.tokens[numbers])


def load_dinov2(name: str) -> nn.Module:
    """Load a DINOv2 in f32, to be trained; nothing is printed.

    Args:
        name: an id on the Hub, or a folder that `save_pretrained` made.

    Raises:
        ValueError: it cannot be loaded, or its weights are not those of its configuration.
    """
    from transformers import Dinov2Model

    dino = load_pretrained(Dinov2Model, name, dtype=torch.float32, heads=HEADS, allowed=ALLOWED, what="encoder")
    return dino.train().requires_grad_(True)


def width_of(dino: nn.Module) -> int:
    """D, of its tokens."""
    config: Any = dino.config
    return int(config.hidden_size)


def refuse_other_pixels(dino: nn.Module, size: Sequence[int]) -> None:
    """Look whether pictures of height and width `size` can be cut into patches.

    Raises:
        ValueError: they cannot.
    """
    config: Any = dino.config
    patch = int(config.patch_size)
    if any(side % patch for side in size):
        raise ValueError(
            f"pictures of {size[0]} x {size[1]} pixels are no whole number of patches of {patch} x {patch}"
        )


def look(dino: nn.Module, pixels: Tensor) -> SeenPictures:
    """Pass over pictures once, as DINOv2 does, and keep the keys and values of all its layers.

    Args:
        dino: a `Dinov2Model`.
        pixels: f32 `[N, 3, H, W]`, normalised.
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []
    with contextlib.ExitStack() as hooks:
        for layer in _layers(dino):
            for projection, kept in ((layer.attention.k_proj, keys), (layer.attention.v_proj, values)):
                handle = projection.register_forward_hook(_keep_in(kept))
                hooks.callback(handle.remove)
        tokens = dino(pixel_values=pixels).last_hidden_state
    return SeenPictures(keys, values, tokens)


def read_deep(dino: nn.Module, seen: SeenPictures, queries: Tensor) -> Tensor:
    """Take one query through every layer of each picture.

    Args:
        dino: that looked.
        seen: N pictures.
        queries: `[N, D]`.

    Returns:
        `[N, D]`, normalised as tokens are.
    """
    hidden = queries[:, None]  # [N, 1, D]
    for number, layer in enumerate(_layers(dino)):
        own, keys, values = _by_head(layer, seen, number, hidden)
        found = F.scaled_dot_product_attention(own, keys, values, scale=layer.attention.scaling)  # [N, heads, 1, d]
        hidden = _step(layer, hidden, found.transpose(1, 2).flatten(2))
    return _norm(dino, hidden)[:, 0]


def read_last(seen: SeenPictures, queries: Tensor) -> Tensor:
    """Let each query attend once, to the last layer's tokens: the ablation that `read_deep` is compared with.

    Args:
        seen: N pictures.
        queries: `[N, D]`.

    Returns:
        `[N, D]`, a weighted mean of the picture's tokens.
    """
    return F.scaled_dot_product_attention(queries[:, None], seen.tokens, seen.tokens)[:, 0]


def attention_deep(dino: nn.Module, seen: SeenPictures, queries: Tensor) -> Tensor:
    """Where each query looks at each layer: the weights behind `read_deep`, f32 `[layers, N, heads, P]`."""
    hidden, found = queries[:, None], []
    for number, layer in enumerate(_layers(dino)):
        own, keys, values = _by_head(layer, seen, number, hidden)
        weights = (own @ keys.transpose(-1, -2) * layer.attention.scaling).float().softmax(dim=-1)  # [N, heads, 1, P]
        found.append(weights[:, :, 0])
        hidden = _step(layer, hidden, (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2))
    return torch.stack(found)


def attention_last(seen: SeenPictures, queries: Tensor) -> Tensor:
    """Where each query looks in `read_last`, f32 `[1, N, 1, P]`."""
    scores = (seen.tokens @ queries[..., None])[..., 0] / math.sqrt(queries.shape[-1])  # [N, P]
    return scores.float().softmax(dim=-1)[None, :, None]


def _layers(dino: Any) -> Sequence[Any]:
    layers: Sequence[Any] = dino.encoder.layer
    return layers


def _norm(dino: Any, hidden: Tensor) -> Tensor:
    normalised: Tensor = dino.layernorm(hidden)
    return normalised


def _keep_in(kept: list[Tensor]) -> Any:
    return lambda module, arguments, output: kept.append(output)


def _by_head(layer: Any, seen: SeenPictures, number: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The query, keys and values of a layer by head, `[N, heads, 1 or P, d]`."""
    heads: int = layer.attention.num_attention_heads
    own = layer.attention.q_proj(layer.norm1(hidden))
    query, keys, values = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (own, seen.keys[number], seen.values[number])
    )
    return query, keys, values


def _step(layer: Any, hidden: Tensor, found: Tensor) -> Tensor:
    """The rest of a layer, for the query's row alone: `[N, 1, D]` and what its attention found, `[N, 1, D]`."""
    hidden = hidden + layer.drop_path(layer.layer_scale1(layer.attention.o_proj(found)))
    stepped: Tensor = hidden + layer.drop_path(layer.layer_scale2(layer.mlp(layer.norm2(hidden))))
    return stepped

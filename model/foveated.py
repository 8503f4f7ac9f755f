"""A language model that sees each frame of a video as one token, and says itself what to look for in the next one.

    frames -> DINOv2, once -> keys and values <- queries   coarse: one learned query for all frames
                                   |                       fine: what the language model wrote at the frame before
                                   v
                   [a token a frame | text | padding] -> language model -> text, and the queries of the next frames

In training all frames are looked at twice, with the coarse query and with the fine ones that follow from it, each time
in one pass; `autoregressive` goes frame by frame, as one does who sees a video for the first time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model.dinov2 import (
    SeenPictures,
    attention_deep,
    attention_last,
    load_dinov2,
    look,
    read_deep,
    read_last,
    refuse_other_pixels,
    width_of,
)
from model.language import (
    cross_entropy,
    last_hidden,
    load_language_model,
    new_cache,
    word_embeddings,
)
from shards.format.pixels import IMAGENET_MEAN, IMAGENET_STD

Mode = Literal["coarse_only", "coarse_fine", "autoregressive"]
MODES: tuple[Mode, ...] = get_args(Mode)
SCALE_FACTOR = 4.0  # by which visual_scale may miss the spread of the language model's embeddings
TOKENS_AT_ONCE = 4096  # whose logits are in memory, where activations are computed again


@dataclass(frozen=True, kw_only=True)
class FoveatedConfig:
    """A DINOv2, a language model, and what joins them.

    Attributes:
        dinov2: id on the Hub, or a folder that `save_pretrained` made.
        llm: likewise, any causal language model.
        query_dim: width of the queries; W_q takes them to the width of DINOv2.
        query_bias: whether W_q has a bias, which makes small queries alike; for an ablation.
        query_std: of the two learned queries at the start.
        deep_query: whether a query goes through every layer of DINOv2; otherwise it attends once, to the last layer's
            tokens; for an ablation.
        visual_scale: what a frame's token is multiplied by, so that it is as large as a word's; "auto" is the standard
            deviation of the language model's embeddings.
    """

    dinov2: str = "facebook/dinov2-small"
    llm: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    query_dim: int = 384
    query_bias: bool = False
    query_std: float = 1.0
    deep_query: bool = True
    visual_scale: float | Literal["auto"] = 0.14

    def __post_init__(self) -> None:
        if self.query_dim < 1:
            raise ValueError(f"model.query_dim is {self.query_dim}; it has to be at least 1")
        for name, value in (("query_std", self.query_std), ("visual_scale", self.visual_scale)):
            if value != "auto" and not 0 < float(value) < float("inf"):
                raise ValueError(f"model.{name} is {value}; it has to be more than 0")


@dataclass(frozen=True)
class SeenVideos:
    """Videos that DINOv2 has passed over: N real frames of B videos, one video's after the other's.

    Attributes:
        pictures: of the real frames.
        rows: i64 `[N]`, whose frame it is.
        times: i64 `[N]`, which frame of it.
        lengths: i64 `[B]`, frames of each.
        longest: of the lengths.
    """

    pictures: SeenPictures
    rows: Tensor
    times: Tensor
    lengths: Tensor
    longest: int

    def padded(self, values: Tensor) -> Tensor:
        """Of `[N, D]`, `[B, T, D]` with zeros behind each video's own."""
        empty = values.new_zeros(len(self.lengths), self.longest, values.shape[-1])
        return empty.index_put((self.rows, self.times), values)


class FoveatedVLM(nn.Module):
    """Composed of a loaded DINOv2, a loaded language model and the few layers between them."""

    pixel_mean: Tensor
    pixel_std: Tensor
    visual_scale: Tensor

    def __init__(self, dinov2: nn.Module, llm: nn.Module, config: FoveatedConfig) -> None:
        """Take the two, and draw the layers between them from torch's generator.

        Raises:
            ValueError: `visual_scale` is far from the spread of the language model's embeddings.
        """
        super().__init__()
        self.config = config
        self.dinov2, self.llm = dinov2, llm
        seeing, reading = width_of(dinov2), word_embeddings(llm).weight.shape[1]
        self.query_proj = nn.Linear(config.query_dim, seeing, bias=config.query_bias)  # W_q
        self.dino_to_llm = nn.Linear(seeing, reading)
        self.llm_to_query = nn.Linear(reading, config.query_dim)
        self.q_static = nn.Parameter(torch.randn(config.query_dim) * config.query_std)
        self.q_init = nn.Parameter(torch.randn(config.query_dim) * config.query_std)
        self.recompute = False
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("pixel_mean", mean[:, None, None] * 255, persistent=False)
        self.register_buffer("pixel_std", std[:, None, None] * 255, persistent=False)
        self.register_buffer("visual_scale", _visual_scale(llm, config))

    def recompute_activations(self) -> None:
        """Keep of each layer its input only, and of the logits none, and compute the rest again on the way back."""
        self.recompute = True
        for part in (self.dinov2, self.llm):
            whole: Any = part
            whole.activation_checkpointing_enable({"use_reentrant": False})

    def forward(
        self,
        frames: Tensor | None,
        frames_length: Tensor | None,
        tokens: Tensor,
        tokens_length: Tensor,
        *,
        mode: Mode = "coarse_fine",
        wanted: Tensor | None = None,
    ) -> Tensor:
        """What each text token costs, given the frames and the tokens before it.

        Args:
            frames: u8 `[B, T, 3, H, W]`, padded; None where there is text alone.
            frames_length: i64 `[B]`, real frames of each; with `frames`.
            tokens: integers `[B, L]`, padded.
            tokens_length: i64 `[B]`, real tokens of each.
            mode: how the frames are looked at.
            wanted: bool `[B, L]`, the tokens that are scored; None scores all.

        Returns:
            f32 `[B, L]`: cross entropy, and 0 where nothing is scored; see `scored`.
        """
        seen = None if frames is None or frames_length is None else self.see(frames, frames_length)
        shown = None if seen is None else self.show(seen, mode)
        return self.costs(seen, shown, tokens, self.scored(seen, tokens, tokens_length, wanted))

    def see(self, frames: Tensor, frames_length: Tensor) -> SeenVideos | None:
        """Let DINOv2 pass over the real frames of u8 `[B, T, 3, H, W]`, once; None if there are none.

        Raises:
            ValueError: the frames are no whole number of DINOv2's patches.
        """
        refuse_other_pixels(self.dinov2, frames.shape[3:])
        here = torch.arange(frames.shape[1], device=frames.device) < frames_length[:, None]
        rows, times = here.nonzero().unbind(dim=1)
        if not len(rows):
            return None
        pixels = frames[rows, times].float()  # [N, 3, H, W]
        pictures = look(self.dinov2, (pixels - self.pixel_mean) / self.pixel_std)
        return SeenVideos(pictures, rows, times, frames_length, int(times.max()) + 1)

    def read(self, pictures: SeenPictures, queries: Tensor) -> Tensor:
        """What queries `[N, query_dim]` find in N pictures, as the language model takes it: `[N, D_llm]`."""
        asked = self.query_proj(queries)
        found = read_deep(self.dinov2, pictures, asked) if self.config.deep_query else read_last(pictures, asked)
        token: Tensor = self.dino_to_llm(found) * self.visual_scale
        return token

    def attention(self, pictures: SeenPictures, queries: Tensor) -> Tensor:
        """Where queries `[N, query_dim]` look in N pictures: f32 `[layers, N, heads, P]`."""
        asked = self.query_proj(queries)
        if not self.config.deep_query:
            return attention_last(pictures, asked)
        return attention_deep(self.dinov2, pictures, asked)

    def queries(self, seen: SeenVideos, mode: Mode) -> Tensor:
        """What is asked of each frame, `[N, query_dim]`."""
        if mode == "coarse_only":
            return self.q_static.expand(len(seen.rows), -1)
        return self._walk(seen)[0] if mode == "autoregressive" else self._fine_queries(seen)

    def show(self, seen: SeenVideos, mode: Mode) -> Tensor:
        """The token of each frame, `[N, D_llm]`."""
        if mode == "autoregressive":
            return self._walk(seen)[1]
        return self.read(seen.pictures, self.queries(seen, mode))

    def _fine_queries(self, seen: SeenVideos) -> Tensor:
        """Those that the language model writes over the coarse tokens, each for the frame behind its own."""
        coarse = seen.padded(self.show(seen, "coarse_only"))  # padding stands behind, where causal attention ends
        written = self.llm_to_query(last_hidden(self.llm, coarse))[:, :-1]  # [B, T - 1, query_dim]
        first = self.q_init.to(written.dtype).expand(len(written), 1, -1)
        return torch.cat([first, written], dim=1)[seen.rows, seen.times]

    def _walk(self, seen: SeenVideos) -> tuple[Tensor, Tensor]:
        """Frame by frame: each query follows from the fine tokens before it. Queries and tokens, `[N, ...]`."""
        cache = new_cache(self.llm)
        query = self.q_init.expand(len(seen.lengths), -1)  # [B, query_dim]
        asked, shown = [], []
        for time in range(seen.longest):
            numbers = (seen.times == time).nonzero()[:, 0]
            rows = seen.rows[numbers]
            found = self.read(seen.pictures.take(numbers), query[rows])
            asked.append((numbers, query[rows]))
            shown.append((numbers, found))
            step = found.new_zeros(len(seen.lengths), found.shape[-1]).index_put((rows,), found)
            hidden = last_hidden(self.llm, step[:, None], cache)  # of a video that has ended, nothing is read any more
            query = self.llm_to_query(hidden[:, 0])
        return _in_order(asked), _in_order(shown)

    def scored(
        self, seen: SeenVideos | None, tokens: Tensor, tokens_length: Tensor, wanted: Tensor | None = None
    ) -> Tensor:
        """Which tokens have a cost, bool `[B, L]`: the wanted ones, less a first token that nothing precedes."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        before = place if seen is None else place + seen.lengths[:, None]
        scored = (place < tokens_length[:, None]) & (before > 0)
        return scored if wanted is None else scored & wanted

    def costs(self, seen: SeenVideos | None, shown: Tensor | None, tokens: Tensor, scored: Tensor) -> Tensor:
        """Cross entropy of the `scored` tokens behind the frames' tokens, f32 `[B, L]`, 0 elsewhere.

        A row is [frames | text | padding]: what padding there is stands behind all that counts, and no mask is needed.
        """
        embedded = self.rows(seen, shown, tokens)
        hidden = last_hidden(self.llm, embedded)  # [B, R, D_llm]
        rows, places = scored.nonzero().unbind(dim=1)
        starts = torch.zeros_like(rows) if seen is None else seen.lengths[rows]
        before = hidden[rows, starts + places - 1]  # [M, D_llm]
        costs = self._cross_entropy(before, tokens[rows, places].long())
        nothing = hidden.flatten(1)[:, :1].float() * 0  # so that a batch without a scored token has a gradient, of 0
        return nothing.expand(scored.shape).index_put((rows, places), costs)

    def rows(self, seen: SeenVideos | None, shown: Tensor | None, tokens: Tensor) -> Tensor:
        """[frames | text | padding] of each row, `[B, R, D_llm]`, at least one place long."""
        tokens = F.pad(tokens, (0, int(not tokens.shape[1]))).long()
        if seen is None or shown is None:
            return word_embeddings(self.llm)(tokens)  # type: ignore[no-any-return]
        places = torch.arange(seen.longest + tokens.shape[1], device=tokens.device) - seen.lengths[:, None]
        packed: Tensor = word_embeddings(self.llm)(tokens.gather(1, places.clamp(0, tokens.shape[1] - 1)))
        return packed.index_put((seen.rows, seen.times), shown.to(packed.dtype))

    def _cross_entropy(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Of M tokens, from `[M, D_llm]` before them; f32 `[M]`."""
        cost = partial(cross_entropy, self.llm)
        if not (self.recompute and torch.is_grad_enabled()):
            return cost(hidden, tokens)
        parts = zip(torch.split(hidden, TOKENS_AT_ONCE), torch.split(tokens, TOKENS_AT_ONCE), strict=True)
        return torch.cat([checkpoint(cost, *part, use_reentrant=False) for part in parts])


def load_foveated(config: FoveatedConfig) -> FoveatedVLM:
    """Load both models in f32, to be trained; nothing is printed.

    Raises:
        ValueError: one cannot be loaded, or they do not fit the configuration.
    """
    return FoveatedVLM(load_dinov2(config.dinov2), load_language_model(config.llm), config)


def _in_order(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Values `[N, D]` by their numbers, from pairs of some numbers and their values."""
    numbers, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return values[numbers.argsort()]


def _visual_scale(llm: nn.Module, config: FoveatedConfig) -> Tensor:
    spread = word_embeddings(llm).weight.detach().std()
    if config.visual_scale == "auto":
        return spread
    scale = torch.tensor(float(config.visual_scale))
    if not spread.is_meta and not scale / SCALE_FACTOR < spread < scale * SCALE_FACTOR:
        raise ValueError(
            f"model.visual_scale is {config.visual_scale}, the embeddings of {config.llm!r} have a standard deviation "
            f"of {float(spread):.3g}: frames would drown out words, or be drowned out; set model.visual_scale to auto"
        )
    return scale

"""Text that a foveated VLM writes about what it has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from model.foveated import FoveatedVLM, Mode
from model.language import ends_of_text, last_hidden, logits, new_cache, word_embeddings
from model.likelihood import log_likelihoods


@torch.inference_mode()
def generate(
    vlm: FoveatedVLM, frames: Tensor | None, tokens: Tensor, *, max_new_tokens: int, mode: Mode = "autoregressive"
) -> Iterator[int]:
    """Go on after a prompt, always with the likeliest token, up to the end of the text.

    Args:
        vlm: in evaluation mode.
        frames: u8 `[T, 3, H, W]` of one video; None for text alone.
        tokens: integers `[L]`, the prompt.
        max_new_tokens: the most that are given.
        mode: how the frames are looked at.

    Yields:
        Tokens, each as soon as it is known; the one that ends the text is not among them.

    Raises:
        ValueError: there is neither a frame nor a token to go on from.
    """
    cache, ends = new_cache(vlm.llm), ends_of_text(vlm.llm)
    embedded = _begin(vlm, frames, tokens, mode)
    for _ in range(max_new_tokens):
        token = logits(vlm.llm, last_hidden(vlm.llm, embedded, cache)[:, -1]).argmax(dim=-1)  # [1]
        if int(token) in ends:
            return
        yield int(token)
        embedded = word_embeddings(vlm.llm)(token[None])


@torch.inference_mode()
def weigh(
    vlm: FoveatedVLM,
    frames: Tensor | None,
    tokens: Tensor,
    options: Sequence[Sequence[int]],
    *,
    mode: Mode = "autoregressive",
) -> list[float]:
    """The log-likelihoods, in nats, of several continuations of a prompt; arguments as of `generate`.

    Args:
        options: tokens of each, one at least.
    """
    cache: Any = new_cache(vlm.llm)
    first = logits(vlm.llm, last_hidden(vlm.llm, _begin(vlm, frames, tokens, mode), cache)[0, -1])

    def go_on(more: Tensor) -> Tensor:
        cache.batch_repeat_interleave(len(more))
        return logits(vlm.llm, last_hidden(vlm.llm, word_embeddings(vlm.llm)(more), cache))

    return log_likelihoods(first, options, go_on)


def _begin(vlm: FoveatedVLM, frames: Tensor | None, tokens: Tensor, mode: Mode) -> Tensor:
    """Frames and prompt as the language model takes them, `[1, R, D_llm]`."""
    num_frames = 0 if frames is None else len(frames)
    if not num_frames + len(tokens):
        raise ValueError("there is neither a frame nor a word of a prompt to write behind")
    seen = None if frames is None else vlm.see(frames[None], torch.tensor([num_frames], device=tokens.device))
    embedded = vlm.rows(seen, None if seen is None else vlm.show(seen, mode), tokens[None])
    return embedded[:, : num_frames + len(tokens)]

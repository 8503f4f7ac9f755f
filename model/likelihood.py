"""How likely a language model finds several ways to go on, of which the beginning is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def shared_beginning(prompt: Sequence[int], whole: Sequence[Sequence[int]]) -> int:
    """How many tokens of a prompt all continuations of it begin with; some tokenizers join its end with what follows.

    Args:
        prompt: tokens of the prompt alone.
        whole: tokens of the prompt with each continuation.
    """
    count = min([len(prompt), *(len(each) - 1 for each in whole)])
    return next((place for place in range(count) if any(each[place] != prompt[place] for each in whole)), count)


def log_likelihoods(first: Tensor, options: Sequence[Sequence[int]], go_on: Callable[[Tensor], Tensor]) -> list[float]:
    """The log-likelihood of each of K continuations of at least one token, in nats.

    Args:
        first: logits `[V]` of the token behind what they have in common.
        options: their tokens.
        go_on: gives logits `[K, L, V]` behind each of i64 `[K, L]` tokens, one row a continuation; it is asked at most
            once, and not at all if each continuation is one token.
    """
    found = [float(first.float().log_softmax(dim=-1)[option[0]]) for option in options]
    longest = max(map(len, options))
    if longest == 1:
        return found
    padded = torch.tensor([[*option, *[0] * (longest - len(option))] for option in options], device=first.device)
    costs = go_on(padded[:, :-1]).float().log_softmax(dim=-1).gather(2, padded[:, 1:, None])[..., 0]  # [K, L - 1]
    return [
        start + float(rest[: len(option) - 1].sum()) for start, rest, option in zip(found, costs, options, strict=True)
    ]

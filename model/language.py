"""Any causal language model of transformers, in the few words that a model built around one needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.pretrained import load_pretrained, one_line, quiet

ALLOWED = "Give a causal language model's id on the Hub, or a folder made by its save_pretrained"


def load_language_model(name: str) -> nn.Module:
    """Load a causal language model in f32, to be trained; nothing is printed.

    Args:
        name: an id on the Hub, or a folder that `save_pretrained` made.

    Raises:
        ValueError: it cannot be loaded, or its weights are not those of its configuration.
    """
    from transformers import AutoModelForCausalLM

    llm = load_pretrained(AutoModelForCausalLM, name, dtype=torch.float32, allowed=ALLOWED, what="language model")
    return llm.train().requires_grad_(True)


def word_embeddings(llm: Any) -> nn.Embedding:
    """Its table of tokens, `[vocabulary, D]`."""
    table: nn.Embedding = llm.get_input_embeddings()
    return table


def new_cache(llm: Any) -> Any:
    """An empty cache of keys and values, which `last_hidden` fills."""
    from transformers import DynamicCache

    return DynamicCache(config=llm.config)


def last_hidden(llm: Any, embedded: Tensor, cache: Any = None) -> Tensor:
    """The last layer over embeddings `[B, R, D]`, behind what the cache holds; causal, without a mask of padding."""
    found = llm.base_model(inputs_embeds=embedded, past_key_values=cache, use_cache=cache is not None)
    hidden: Tensor = found.last_hidden_state
    return hidden


def logits(llm: Any, hidden: Tensor) -> Tensor:
    """What comes next, from `[..., D]`: `[..., vocabulary]`."""
    scores: Tensor = llm.get_output_embeddings()(hidden)
    return scores


def cross_entropy(llm: Any, hidden: Tensor, tokens: Tensor) -> Tensor:
    """The cost of M tokens after `[M, D]`, f32 `[M]`, whatever the precision around it is."""
    scores = logits(llm, hidden)
    with torch.autocast(scores.device.type, enabled=False):
        return F.cross_entropy(scores.float(), tokens, reduction="none")


def ends_of_text(llm: Any) -> set[int]:
    """The tokens with which it ends a text."""
    ends = llm.generation_config.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def vocabulary_of(name: str) -> int:
    """How many tokens a model knows, by its configuration alone.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoConfig

    with quiet(), one_line(name, ALLOWED, "language model"):
        return int(AutoConfig.from_pretrained(name).vocab_size)

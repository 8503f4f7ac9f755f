"""The demo's text encoder: a tiny CLIP with random weights, which tells captions apart and knows nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
MAX_TOKENS = 16
WIDTH = 64


def make_text_encoder(captions: Iterable[str], folder: Path) -> None:
    """Save a CLIP text encoder and its tokenizer of whole words as `save_pretrained` does.

    Args:
        captions: what it has to know the words of.
        folder: where it goes.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = sorted({word for caption in captions for word in re.findall(r"\w+|[^\w\s]+", caption)})
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_factor=4.0,
        pad_token_id=vocabulary["<pad>"],
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
    )
    CLIPTextModelWithProjection(config).eval().save_pretrained(folder)
    save_word_tokenizer(vocabulary, folder)


def save_word_tokenizer(vocabulary: dict[str, int], folder: Path) -> None:
    """Save a tokenizer of whole words, with numbers, of which the first are those of `SPECIAL`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)

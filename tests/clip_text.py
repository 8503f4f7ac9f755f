"""A tiny random CLIP text encoder with a tokenizer of whole words, saved as transformers saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

WORDS = "a dog cat runs jumps over the lazy fox pushing something from left to right".split()  # noqa: SIM905
WIDTH, MAX_TOKENS = 12, 10
TEXT: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def save_tokenizer(folder: Path, *, ends: bool = True, more: int = 0, words: Sequence[str] = WORDS) -> None:
    """A tokenizer of the model's vocabulary, which closes each text unless told not to."""
    names = ["<pad>", "<unk>", "<s>", "</s>", *words, *(f"more{number}" for number in range(more))]
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    template = "<s> $A </s>" if ends else "<s> $A"
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 2), ("</s>", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def save_text_encoder(folder: Path, *, seed: int = 0, words: Sequence[str] = WORDS) -> Path:
    """The text encoder alone, with its tokenizer of `words`."""
    torch.manual_seed(seed)
    vocab_size = max(TEXT["vocab_size"], len(words) + 4)
    CLIPTextModelWithProjection(CLIPTextConfig(**{**TEXT, "vocab_size": vocab_size})).save_pretrained(folder)
    save_tokenizer(folder, words=words)
    return folder


def save_whole_clip(folder: Path) -> Path:
    """Text and vision encoder in one checkpoint, as CLIPs on the Hub are, with the tokenizer."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "projection_dim": WIDTH,
    }
    config = CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder

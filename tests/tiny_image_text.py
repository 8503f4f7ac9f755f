"""A SmolVLM, an Idefics 3 and a LLaVA of random weights, small enough for tests, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

from tests.chats import write_tokenizer

TILE, PATCH = 32, 8
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_TILES = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
_SMOLVLM_TOKENS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_TILES]


def save_smolvlm(folder: Path, **of_text: Any) -> Path:
    """Tiles of 32 px, 4 tokens each; an image of 64 px becomes four of them and one of the whole."""
    return _save_tiled(folder, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil, of_text)


def save_idefics3(folder: Path) -> Path:
    """As SmolVLM, which came of it."""
    return _save_tiled(folder, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil, {})


def _save_tiled(folder: Path, make_config: Any, make_model: Any, make_processor: Any, of_text: dict[str, Any]) -> Path:
    tokens = _save_tokenizer(folder, _SMOLVLM_TOKENS, SMOLVLM_TEMPLATE)
    config = make_config(
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=256,
        tie_word_embeddings=True,
        vision_config=_vision(),
        text_config=_text(len(tokens), **of_text),
    )
    torch.manual_seed(0)
    model: Any = make_model(config)
    model.save_pretrained(folder)
    sizes = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    make_processor(**sizes).save_pretrained(folder)
    return folder


def save_llava(folder: Path, **of_text: Any) -> Path:
    """16 tokens a picture of 32 px; the tokenizer begins texts with a token of its own."""
    tokens = _save_tokenizer(folder, ["<image>"], LLAVA_TEMPLATE)
    config = LlavaConfig(
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16, **_vision()},
        text_config=_text(len(tokens), **of_text),
    )
    torch.manual_seed(0)
    model: Any = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}).save_pretrained(
        folder
    )
    return folder


def _save_tokenizer(folder: Path, tokens: list[str], template: str) -> Any:
    write_tokenizer(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
        "initializer_range": 0.3,
    }


def _text(vocab_size: int, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 256,
        "bos_token_id": 257,
        "eos_token_id": 258,
        "initializer_range": 0.2,
        **changes,
    }

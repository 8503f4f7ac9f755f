"""What the demo's foveated VLM is made of: a byte-level tokenizer and two tiny models, saved by transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import Dinov2Model, LlamaForCausalLM

VOCABULARY = 512  # the 256 bytes, what is merged of them, and the special tokens
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# ChatML, as SmolLM2's own template has it.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DINO_WIDTH, LLM_WIDTH = 24, 32
SPREAD = 0.1  # of fresh weights: five times the usual, so that what is looked at matters from the start


def make_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """A tokenizer of bytes, and of what is frequent in some texts, with SmolLM2's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    pad, begin, end = SPECIAL
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, bos_token=begin, eos_token=end)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def make_models(folder: Path, *, size: int, seed: int) -> None:
    """`folder/dinov2` and `folder/llm`, with fresh weights.

    Args:
        folder: where they go.
        size: of the pictures that DINOv2 is made for, in pixels.
        seed: of the weights.
    """
    from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    dino: Dinov2Model = Dinov2Model(
        Dinov2Config(
            hidden_size=DINO_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            image_size=size,
            patch_size=14,
            mlp_ratio=2,
            initializer_range=SPREAD,
        )
    )
    torch.nn.init.normal_(dino.embeddings.position_embeddings)  # places count as much as what is there
    llm: LlamaForCausalLM = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=LLM_WIDTH,
            intermediate_size=2 * LLM_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=SPREAD,
            pad_token_id=SPECIAL.index("<|endoftext|>"),
            bos_token_id=SPECIAL.index("<|im_start|>"),
            eos_token_id=SPECIAL.index("<|im_end|>"),
        )
    )
    dino.save_pretrained(folder / "dinov2")
    llm.save_pretrained(folder / "llm")

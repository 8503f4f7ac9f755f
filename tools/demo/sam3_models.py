"""The tiny SAM3s of the demo, as transformers saves them: a teacher with random weights, and a student's start."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.sam3 import CONTEXT_LEVEL
from tools.demo.text_encoder import SPECIAL, save_word_tokenizer

SIDE = 112  # pixels of a frame; level 3 of the pyramid is 4 x 4 cells
WIDTH = 32
MAX_TOKENS = 32
# Fewer queries than look-alikes: who cannot tell them apart cannot answer with all of them.
NUM_QUERIES = 1
TEACHER_SPREAD, STUDENT_SPREAD = 0.15, 0.1  # of weights: with less, random features hardly depend on the picture
PLACE_SPREAD = 0.4  # of the student's position embeddings: a token has to know where it is to ask what was there
FEATURE_SCALE = 0.025  # of the teacher's level 3: the memory's embeddings begin small, and are added to it


def make_models(prompts: Sequence[str], teacher: Path, student: Path, seed: int = 0) -> None:
    """Save both, the student with a tokenizer of the prompts' words.

    Args:
        prompts: what the student will be asked.
        teacher: folder of the first; its features are frozen and random, but tell where things are.
        student: folder of the second.
        seed: of both; they are not alike.
    """
    from transformers import Sam3Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = sorted({word for prompt in prompts for word in re.findall(r"\w+|[^\w\s]+", prompt)})
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    for number, (folder, spread) in enumerate(((teacher, TEACHER_SPREAD), (student, STUDENT_SPREAD))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2 * seed + number)
            model: Any = Sam3Model(_config(vocabulary, spread))
            encoder = model.vision_encoder
            if folder == teacher:
                for parameter in encoder.neck.fpn_layers[CONTEXT_LEVEL].proj2.parameters():
                    parameter.data.mul_(FEATURE_SCALE)
            else:
                encoder.backbone.embeddings.position_embeddings.data.normal_(std=PLACE_SPREAD)
            model.save_pretrained(folder)
    save_word_tokenizer(vocabulary, student)


def _config(vocabulary: dict[str, int], spread: float) -> Any:
    from transformers import Sam3Config

    attention = {"hidden_size": WIDTH, "num_attention_heads": 2}
    layer = {**attention, "num_layers": 1, "intermediate_size": 2 * WIDTH}
    backbone = {
        **attention,
        "model_type": "sam3_vit_model",
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "image_size": SIDE,
        "pretrain_image_size": SIDE,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "initializer_range": spread,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
    }
    text = {
        **attention,
        "model_type": "clip_text_model",
        "vocab_size": len(vocabulary),
        "intermediate_size": 2 * WIDTH,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": vocabulary["<pad>"],
        "bos_token_id": vocabulary["<s>"],
        "eos_token_id": vocabulary["</s>"],
    }
    return Sam3Config(
        vision_config={"fpn_hidden_size": WIDTH, "initializer_range": spread, "backbone_config": backbone},
        text_config=text,
        geometry_encoder_config=layer,
        detr_encoder_config=layer,
        mask_decoder_config=attention,
        detr_decoder_config={**layer, "num_layers": 2, "num_queries": NUM_QUERIES},
        initializer_range=spread,
    )

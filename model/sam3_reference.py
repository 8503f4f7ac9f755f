"""Small SAM3s to begin with: transformers' own parts at sizes for a student, their text encoder CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.pretrained import load_pretrained

MAX_TOKENS = 32  # of a prompt
WIDTHS = {"reference": 384, "reference-192": 192}  # of the vision transformer
TEXT_HEADS = (
    "vision_model.",
    "visual_projection.",
    "text_projection.",
    "logit_scale",
    "text_model.embeddings.position_ids",
)
POSITIONS = "embeddings.position_embedding.weight"
ALLOWED = "Give model.clip, an id on the Hub or a folder of a CLIP"


def reference_config(name: str, image_size: int, text: Mapping[str, Any]) -> Any:
    """The sizes of a student for pictures of `image_size` px.

    With the text encoder of CLIP ViT-B/32 and a memory it has 107.2 million parameters, "reference-192" 90.4.

    Args:
        name: one of `WIDTHS`.
        image_size: a multiple of 28.
        text: configuration of the text encoder.
    """
    from transformers import Sam3Config

    width = WIDTHS[name]
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 12,
        "num_attention_heads": width // 64,
        "image_size": image_size,
        "window_size": 12,
        "global_attn_indexes": [2, 5, 8, 11],
    }
    layers = {"num_layers": 3, "intermediate_size": 1024}
    return Sam3Config(
        vision_config={"backbone_config": backbone},
        text_config={**text, "max_position_embeddings": min(MAX_TOKENS, text["max_position_embeddings"])},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 100},
        attn_implementation="sdpa",
    )


def make_reference(name: str, image_size: int, clip: str) -> nn.Module:
    """A student with fresh weights from torch's generator, and CLIP's for its text.

    Args:
        name: one of `WIDTHS`.
        image_size: of its pictures, a multiple of 28.
        clip: id or folder of the CLIP.

    Raises:
        ValueError: the CLIP cannot be loaded.
    """
    from transformers import CLIPTextModel, Sam3Model

    text: Any = load_pretrained(
        CLIPTextModel, clip, dtype=torch.float32, heads=TEXT_HEADS, allowed=ALLOWED, what="text encoder"
    )
    sam: nn.Module = Sam3Model(reference_config(name, image_size, text.config.to_dict()))
    own = sam.get_submodule("text_encoder.text_model")
    own.load_state_dict(_shortened(text.state_dict(), own.state_dict()))
    return sam


def _shortened(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP's tensors by the student's names, with positions for as many tokens as a prompt has."""
    renamed = {name.removeprefix("text_model."): value for name, value in given.items()}
    return {name: value[:MAX_TOKENS] if name == POSITIONS else value for name, value in renamed.items() if name in own}

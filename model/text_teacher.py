"""The frozen text encoder of CLIP: captions in, one embedding each out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.pretrained import (
    choose_device,
    choose_dtype,
    load_pretrained,
    one_line,
    quiet,
    spell_device,
    weights_sha256,
)
from model.teacher import TeacherConfig
from shards.format.publish import canonical_json

ALLOWED = "Give a CLIP id on the Hub, or a folder made by save_pretrained of the model and of its tokenizer"
# What a whole CLIP has besides its text encoder, by the beginning of the names.
HEADS = ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids")
LEGACY_EOS = 2  # of configurations older than the field; the text then ends at its largest token


class CLIPTextTeacher(nn.Module):
    """`CLIPTextModelWithProjection(...).text_embeds`: the last token's state in the space shared with images.

    Every caption is padded to the longest that the model takes, so that its embedding does not depend on which others
    are in its batch; a longer one is cut there.
    """

    def __init__(self, backbone: nn.Module, tokenizer: Any, name: str) -> None:
        """Take a loaded model and its tokenizer.

        Raises:
            ValueError: the tokenizer is not that of the model.
        """
        super().__init__()
        config: Any = backbone.config
        self._tokenizer_sha256 = tokenizer_sha256(tokenizer)
        self.backbone, self.tokenizer, self.name = backbone.eval().requires_grad_(False), tokenizer, name
        self.max_tokens, self.width = int(config.max_position_embeddings), int(config.projection_dim)
        self._refuse_other_tokenizer(config)
        self._weights_sha256 = weights_sha256(backbone)  # while still on the CPU

    def _refuse_other_tokenizer(self, config: Any) -> None:
        if len(self.tokenizer) > config.vocab_size:
            raise ValueError(
                f"the tokenizer of the teacher {self.name!r} knows {len(self.tokenizer)} tokens, its model "
                f"{config.vocab_size}: they are not of one checkpoint"
            )
        ids = self._tokens(["a"])["input_ids"][0].tolist()
        if config.eos_token_id != LEGACY_EOS and config.eos_token_id not in ids:
            raise ValueError(
                f"the tokenizer of the teacher {self.name!r} ends no text with token {config.eos_token_id}, where its "
                "model reads the embedding: all captions would have the same one"
            )

    @property
    def input_shape(self) -> None:
        """Nothing: it takes text."""
        return

    @property
    def output_dtype(self) -> str:
        """Of the embeddings."""
        return "<f2"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Width of an embedding."""
        return (self.width,)

    @property
    def files(self) -> Mapping[str, bytes]:
        """Nothing that the targets need beside them."""
        return {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that decides the embeddings' bits."""
        import transformers

        weight = next(self.backbone.parameters())
        config: Any = self.backbone.config
        return {
            "id": self.name,
            "output": "text_embeds",
            "revision": getattr(config, "_commit_hash", None),
            "weights_sha256": self._weights_sha256,
            "tokenizer_sha256": self._tokenizer_sha256,
            "max_tokens": self.max_tokens,
            "projection": None,
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": spell_device(weight.device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @torch.inference_mode()
    def forward(self, captions: Sequence[str]) -> NDArray[np.float16]:
        """Turn B captions into f16 [B, D]; a value beyond float16 comes out infinite, and the builder refuses it."""
        tokens = self._tokens(captions).to(next(self.backbone.parameters()).device)
        embeddings: Tensor = self.backbone(**tokens).text_embeds  # [B, D]
        return embeddings.half().cpu().numpy()

    def _tokens(self, captions: Sequence[str]) -> Any:
        return self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )


def tokenizer_sha256(tokenizer: Any) -> str:
    """Return the sha256 (hex) of all that decides a text's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = backend.to_str() if backend is not None else canonical_json(tokenizer.get_vocab()).decode()
    return hashlib.sha256(description.encode()).hexdigest()


def load_clip_text_teacher(config: TeacherConfig, device: str = "auto") -> CLIPTextTeacher:
    """Load the text encoder of a CLIP checkpoint, whole or saved alone, and its tokenizer; nothing is printed.

    Args:
        config: which; its `projection_dim` has to be None.
        device: such as "cuda:0"; "auto" takes the first GPU, or the CPU.

    Raises:
        ValueError: the checkpoint cannot be loaded, its parts do not fit together, or a projection is asked for.
    """
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    if config.projection_dim is not None:
        raise ValueError(
            f"the embeddings of {config.id!r} are kept as they are, got a projection to {config.projection_dim}; "
            "leave --projection-dim out"
        )
    place = choose_device(device)
    backbone = load_pretrained(
        CLIPTextModelWithProjection,
        config.id,
        dtype=choose_dtype(config.dtype, place),
        heads=HEADS,
        allowed=ALLOWED,
    )
    with quiet(), one_line(config.id, ALLOWED):
        tokenizer = AutoTokenizer.from_pretrained(config.id)
    return CLIPTextTeacher(backbone, tokenizer, config.name).to(place)

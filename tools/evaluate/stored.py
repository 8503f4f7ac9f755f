"""Frozen features that `evaluate features` stored: who made them, and how a batch of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.encoder import Encoder
from pipeline.dense import dense_tokens
from shards.dataset import ShardDataset
from tools.encoders import load_encoder

WHAT = "frozen encoder"  # in the provenance, beside what teachers write there


@dataclass(frozen=True)
class StoredField:
    """A field of frozen features.

    Attributes:
        name: of the field, which is that of its group.
        layer: of the encoder that it was taken of.
    """

    name: str
    layer: int

    def tokens(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The tokens f32 `[B, N, D]` of a batch; means are one token."""
        return dense_tokens(batch[self.name]).float()


def stored_field(name: str, encoder: Encoder, datasets: Mapping[str, ShardDataset]) -> StoredField:
    """Find the features in all data sets, and compare their encoder with this one.

    Raises:
        ValueError: a data set has no such field, or it was made by another encoder, or of another layer than elsewhere.
    """
    layers = {}
    for dataset in datasets.values():
        if name not in dataset.schema:
            raise ValueError(
                f"{dataset.place} has no field {name!r}; store it with `reelshard evaluate features "
                f"{dataset.place} --name {name} --checkpoint ...`"
            )
        about = dataset.manifest.about(dataset.schema[name].group).get("teacher", {})
        if about.get("what") != WHAT or about.get("encoder_digest") != encoder.digest:
            made = f"{about.get('id')} (digest {str(about.get('encoder_digest'))[:12]})"
            raise ValueError(
                f"the field {name!r} of {dataset.place} holds features of {made}, not of {encoder.name} (digest "
                f"{encoder.digest[:12]}): give the checkpoint that it was stored with"
            )
        layers[dataset.place] = int(about["layer"])
    if len(set(layers.values())) > 1:
        raise ValueError(
            f"the field {name!r} is of different layers: {', '.join(f'{n} in {p}' for p, n in layers.items())}"
        )
    return StoredField(name, next(iter(layers.values())))


class EncoderTeacher:
    """A frozen encoder as the builder knows teachers: clips in, f16 tokens of one layer out, or their mean."""

    files: Mapping[str, bytes] = {}
    output_dtype = "<f2"

    def __init__(self, encoder: Encoder, called: str, layer: int, *, means: bool) -> None:
        """Take an encoder.

        Args:
            encoder: on its device.
            called: what the provenance says of where it came from; the same on every machine.
            layer: that is kept, from 1 on.
            means: whether the mean of the tokens is kept in the place of all of them.
        """
        self.encoder, self.called, self.layer, self.means = encoder, called, layer, means

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a clip, [T, H, W, 3]."""
        channels, *rest = self.encoder.clip_shape
        return (*rest, channels)

    @property
    def output_shape(self) -> tuple[int, int]:
        """Tokens and width."""
        times, places = self.encoder.grid
        return (1 if self.means else times * places, self.encoder.width)

    @property
    def provenance(self) -> dict[str, Any]:
        """All that decides the bits."""
        from model.pretrained import spell_device

        return {
            "what": WHAT,
            "id": self.called,
            "encoder_digest": self.encoder.digest,
            "view_hash": self.encoder.view_hash,
            "layer": self.layer,
            "means": self.means,
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "device": spell_device(self.encoder.device),
            "torch": torch.__version__,
        }

    def __call__(self, clips: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Turn clips u8 [B, T, H, W, 3] into f16 [B, N, D]."""
        video = torch.from_numpy(np.ascontiguousarray(clips)).to(self.encoder.device).permute(0, 4, 1, 2, 3)
        tokens = self.encoder.layer(video.contiguous(), self.layer)
        return (tokens.mean(dim=1, keepdim=True) if self.means else tokens).half().cpu().numpy()


@dataclass(frozen=True)
class TeacherRequest:
    """How to make an `EncoderTeacher` in any process.

    Attributes:
        checkpoint: see `load_encoder`.
        dtype: of the arithmetic.
        layer: None is the last one.
        means: whether means are kept.
        overrides: of the recipe.
    """

    checkpoint: str
    dtype: str
    layer: int | None
    means: bool
    overrides: tuple[str, ...] = ()

    def make(self, device: str) -> EncoderTeacher:
        """Load it on a device.

        Raises:
            ValueError: there is no such encoder or layer.
        """
        encoder = load_encoder(self.checkpoint, device=device, dtype=self.dtype, overrides=self.overrides)
        layer = encoder.num_layers if self.layer is None else self.layer
        if not 1 <= layer <= encoder.num_layers:
            raise ValueError(f"{encoder.name} has layers 1 to {encoder.num_layers}, there is no layer {layer}")
        path = Path(self.checkpoint)
        called = path.resolve().name if path.exists() else self.checkpoint
        return EncoderTeacher(encoder, called, layer, means=self.means)


def make_encoder_teacher(device: str, *, request: TeacherRequest) -> EncoderTeacher:
    """Make one; a function of a module, as it goes to other processes."""
    return request.make(device)

"""A trained probe as a file: safetensors with the classifier, and in its header which encoder it belongs to.

A probe reads the mean of the tokens of one layer. Of the classifiers of several seeds the first one is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from evaluation.encoder import Encoder, dense_clip
from shards.format.parse import count, mapping, parse_json, sequence, text
from shards.format.publish import publish_bytes

FILE = "probe.safetensors"
FORMAT = 1
HEADER = "reelshard_probe"
TENSORS = ("mean", "scale", "weight", "bias")


@dataclass(frozen=True, kw_only=True)
class SavedProbe:
    """A linear classifier on standardised features, and what it belongs to.

    Attributes:
        mean: f32 `[D]`, of the training features.
        scale: f32 `[D]`, their deviation.
        weight: f32 `[C, D]`.
        bias: f32 `[C]`.
        classes: names of the C classes.
        layer: of the encoder, from 1 on, whose tokens it reads.
        encoder: the encoder's name, for people.
        encoder_digest: of the encoder's weights.
        about: what else is worth knowing: data, accuracy, in the types of JSON.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    classes: Sequence[str]
    layer: int
    encoder: str
    encoder_digest: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, encoder: Encoder, clip: Tensor) -> Tensor:
        """Probabilities f32 `[B, C]`, on the CPU, of clips as a loader gives them, on the encoder's device."""
        with torch.inference_mode():
            features = encoder.layer(dense_clip(clip, encoder), self.layer).mean(dim=1).cpu()
            return torch.softmax((features - self.mean) / self.scale @ self.weight.T + self.bias, dim=1)

    def refuse_other(self, encoder: Encoder) -> None:
        """Compare an encoder with the one that the probe was trained on.

        Raises:
            ValueError: its weights are others; both are named.
        """
        if encoder.digest != self.encoder_digest:
            raise ValueError(
                f"the probe was trained on {self.encoder} (weights {self.encoder_digest[:12]}), given is "
                f"{encoder.name} (weights {encoder.digest[:12]}): give that encoder, or train a probe on this one"
            )

    def describe(self) -> dict[str, str]:
        """What it is, in words."""
        return {
            "trained on": self.encoder,
            "classes": f"{len(self.classes)}",
            **{name: str(value) for name, value in self.about.items()},
        }


def save_probe(path: Path, probe: SavedProbe) -> None:
    """Write a probe; the file appears whole or not at all, and the same probe gives the same bytes."""
    header = {
        "format": FORMAT,
        "classes": list(probe.classes),
        "layer": probe.layer,
        "encoder": probe.encoder,
        "encoder_digest": probe.encoder_digest,
        "about": dict(probe.about),
    }
    tensors = {name: getattr(probe, name).detach().cpu().float().contiguous() for name in TENSORS}
    data = safetensors.torch.save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_bytes(path, data)


def load_probe(path: Path) -> SavedProbe:
    """Read a probe, or the one in a folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"there is no probe {file}; `reelshard evaluate probe --out DIR` leaves {FILE} in DIR")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            header = (opened.metadata() or {}).get(HEADER)
            tensors = {name: opened.get_tensor(name) for name in TENSORS}
        if header is None:
            raise ValueError("it has no header of a probe")
        return _read(mapping(parse_json(header.encode()), "the header"), tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{file} is no probe of this version ({error}); make it again by `evaluate probe`") from None


def _read(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedProbe:
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']}, this version reads {FORMAT}")
    classes = [text(name, "a class") for name in sequence(header["classes"], "the classes")]
    width = tensors["weight"].shape[-1]
    shapes = {"mean": (width,), "scale": (width,), "weight": (len(classes), width), "bias": (len(classes),)}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != torch.float32:
            raise ValueError(f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}, expected f32 {list(shape)}")
    return SavedProbe(
        **{name: tensors[name] for name in TENSORS},
        classes=classes,
        layer=count(header["layer"], "the layer"),
        encoder=text(header["encoder"], "the encoder"),
        encoder_digest=text(header["encoder_digest"], "the encoder's digest"),
        about=mapping(header["about"], "what it says of itself"),
    )

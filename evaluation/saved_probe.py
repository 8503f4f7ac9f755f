"""A trained probe as a file: safetensors with the classifier, and in its header which encoder it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from evaluation.encoder import Encoder, dense_clip
from evaluation.heads import AttentiveHead, LinearHead
from shards.format.parse import count, entry, mapping, parse_json, sequence, text
from shards.format.publish import publish_bytes

FILE = "probe.safetensors"
FORMAT = 1
HEADER = "reelshard_probe"


@dataclass(frozen=True, kw_only=True)
class SavedProbe:
    """A classifier on frozen tokens, and what it belongs to.

    Attributes:
        head: the classifier, in evaluation mode.
        classes: names of its classes.
        layer: of the encoder, from 1 on, whose tokens it reads.
        encoder: the encoder's name, for people.
        encoder_digest: of the encoder's weights; with others the classifier is of no use.
        about: what else is worth knowing: data, accuracy, in the types of JSON.
    """

    head: LinearHead | AttentiveHead
    classes: Sequence[str]
    layer: int
    encoder: str
    encoder_digest: str
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Of classifier."""
        return "linear" if isinstance(self.head, LinearHead) else "attentive"

    def __call__(self, encoder: Encoder, clip: Tensor) -> Tensor:
        """Probabilities f32 `[B, C]`, on the CPU, of clips as a loader gives them, on the encoder's device."""
        with torch.no_grad():
            logits = self.head.to(encoder.device)(encoder.layer(dense_clip(clip, encoder), self.layer))
            return torch.softmax(logits.float(), dim=1).cpu()

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


def save_probe(path: Path, probe: SavedProbe) -> None:
    """Write a probe; the file appears whole or not at all, and the same probe gives the same bytes."""
    head = probe.head
    header = {
        "format": FORMAT,
        "kind": probe.kind,
        "width": head.linear.in_features,
        "blocks": 1 + len(head.blocks) if isinstance(head, AttentiveHead) else 1,
        "heads": head.cross.num_heads if isinstance(head, AttentiveHead) else 1,
        "classes": list(probe.classes),
        "layer": probe.layer,
        "encoder": probe.encoder,
        "encoder_digest": probe.encoder_digest,
        "about": dict(probe.about),
    }
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in head.state_dict().items()}
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
        raise ValueError(f"there is no probe {file}; `evaluate probe --out DIR` and `evaluate ucf101` leave one in DIR")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            header = (opened.metadata() or {}).get(HEADER)
        if header is None:
            raise ValueError("its header holds no probe")
        return _read(mapping(parse_json(header.encode()), "the header"), safetensors.torch.load_file(file))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not a probe of this version ({reason}); make it by `evaluate probe`") from None


def _read(header: dict[str, Any], tensors: dict[str, Tensor]) -> SavedProbe:
    said = {name: entry(header, name, "the header") for name in ("format", "kind", "classes", "encoder", "about")}
    if said["format"] != FORMAT or said["kind"] not in ("linear", "attentive"):
        raise ValueError(f"its format is {said['format']!r} and its kind {said['kind']!r}, read are {FORMAT} and both")
    names = ("width", "blocks", "heads", "layer")
    width, blocks, heads, layer = (count(entry(header, name, "the header"), name, 1 << 16) for name in names)
    classes = [text(name, "a class") for name in sequence(said["classes"], "the classes")]
    held = tensors["linear.weight"].shape if "linear.weight" in tensors else None
    # Before a header can ask for more memory than the file has:
    if held != (len(classes), width) or blocks > len(tensors):
        raise ValueError(
            f"it says {len(classes)} classes of {width} values and {blocks} blocks, and holds {held and list(held)}"
        )
    head = (
        LinearHead(width, len(classes))
        if said["kind"] == "linear"
        else AttentiveHead(width, len(classes), blocks=blocks, heads=heads)
    )
    head.load_state_dict(tensors)
    return SavedProbe(
        head=head.eval().requires_grad_(False),
        classes=classes,
        layer=layer,
        encoder=text(said["encoder"], "the encoder"),
        encoder_digest=text(entry(header, "encoder_digest", "the header"), "the encoder's digest"),
        about=mapping(said["about"], "what it says of itself"),
    )

"""Frozen features: every clip of a data set as one vector."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.tubelets import video_or_tubes
from shards.progress import Progress, untold


@dataclass(frozen=True)
class Features:
    """The features of a data set, on the CPU.

    Attributes:
        values: f32 `[n, D]`.
        labels: i64 `[n]`.
        num_unlabelled: samples left out since they have no label.
    """

    values: Tensor
    labels: Tensor
    num_unlabelled: int = 0


def extract_features(
    encoder: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    bf16: bool = False,
    advance: Progress = untold,
) -> Features:
    """Encode clips whole (nothing is masked) and average their tokens over time and space.

    Args:
        encoder: maps a video `[B, 3, T, H, W]` or tubes `[B, S, T', tubelet, patch, patch, 3]` to tokens
            `[B, T', S, D]`; it is left in evaluation mode.
        batches: with `clip` (normalised, on the encoder's device), `label` and `valid`.
        bf16: run the encoder under bf16 autocast.
        advance: called with the number of clips after every batch.

    Raises:
        ValueError: If no sample has a label.
    """
    encoder.eval()
    values, labels = [], []
    num_valid = 0
    with torch.inference_mode():
        for batch in batches:
            clip = video_or_tubes(batch["clip"])
            with torch.autocast(clip.device.type, torch.bfloat16, enabled=bf16):
                tokens = encoder(clip)
            pooled = tokens.float().mean(dim=(1, 2)).cpu()  # [B, D]
            valid, label = batch["valid"].cpu(), batch["label"].cpu()
            keep = valid & (label >= 0)
            values.append(pooled[keep])
            labels.append(label[keep])
            num_valid += int(valid.sum())
            advance(int(valid.sum()))
    if not any(len(part) for part in labels):
        raise ValueError("no sample has a label; a probe needs a data set built from labelled videos")
    found = Features(torch.cat(values).clone(), torch.cat(labels).clone())
    return Features(found.values, found.labels, num_unlabelled=num_valid - len(found.labels))

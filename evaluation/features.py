"""Frozen features: every clip of a data set as one vector."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluation.ranks import gather_rows
from model.tubelets import video_or_tubes
from pipeline.world import World
from shards.progress import Progress, untold


@dataclass(frozen=True)
class Features:
    """The features of a data set, on the CPU, in the order of its samples.

    Attributes:
        values: f32 `[n, D]`.
        labels: i64 `[n]`.
        num_unlabelled: samples left out since they have no label.
        index: i64 `[n]`, the samples' numbers; None where nobody needs them.
    """

    values: Tensor
    labels: Tensor
    num_unlabelled: int = 0
    index: Tensor | None = None


def extract_features(
    encoder: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    bf16: bool = False,
    advance: Progress = untold,
    world: World = World(),  # noqa: B008
) -> Features:
    """Encode clips whole (nothing is masked) and average their tokens over time and space.

    Args:
        encoder: maps a video `[B, 3, T, H, W]` or tubes `[B, S, T', tubelet, patch, patch, 3]` to tokens
            `[B, T', S, D]`; it is left in evaluation mode.
        batches: this rank's, with `clip` (normalised, on the encoder's device), `index`, `label` and `valid`.
        bf16: run the encoder under bf16 autocast; otherwise it runs under whichever the caller has chosen.
        advance: told the number of clips after every batch.
        world: the ranks, all of which get the features of all.

    Raises:
        ValueError: If no sample has a label.
    """
    encoder.eval()
    values, labels, index, num_valid = [], [], [], 0
    device = torch.device("cpu")
    with torch.inference_mode():
        for batch in batches:
            clip = video_or_tubes(batch["clip"])
            device = clip.device
            with torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
                tokens = encoder(clip)
            pooled = tokens.float().mean(dim=(1, 2)).cpu()  # [B, D]
            valid, label = batch["valid"].cpu(), batch["label"].cpu()
            keep = valid & (label >= 0)
            values.append(pooled[keep])
            labels.append(label[keep])
            index.append(batch["index"].cpu()[keep])
            num_valid += int(valid.sum())
            advance(int(valid.sum()))
        if not values:
            raise ValueError("there is no batch to take features of")
        parts = [gather_rows(torch.cat(rows), world, device) for rows in (values, labels, index)]
        num_valid = int(gather_rows(torch.tensor([num_valid]), world, device).sum())
    if not len(parts[0]):
        raise ValueError("no sample has a label; a probe needs a data set built from labelled videos")
    order = parts[2].argsort()
    found, labelled, numbers = (part[order] for part in parts)
    return Features(found, labelled, num_unlabelled=num_valid - len(labelled), index=numbers)

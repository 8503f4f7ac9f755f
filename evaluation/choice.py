"""What a probe is trained on: a part of the labels, and a part of the training videos that its settings are chosen on.

Both are drawn by video, so that views of one video are never on both sides.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """What one classifier is trained with.

    Attributes:
        lr: peak learning rate.
        weight_decay: of AdamW.
    """

    lr: float
    weight_decay: float


def settings_of(lrs: Sequence[float], weight_decays: Sequence[float]) -> list[Setting]:
    """Every learning rate with every weight decay."""
    return [Setting(lr, decay) for lr, decay in itertools.product(lrs, weight_decays)]


def held_out_part(videos: Sequence[str], share: float, seed: int) -> Tensor:
    """Draw the videos that settings are chosen on.

    Args:
        videos: of each sample; of clips of one longer video, that one, since they look alike.
        share: of the videos, more than 0 and less than 1; at least one is drawn, and one is left.
        seed: of the draw.

    Returns:
        bool `[n]`, whether a sample is held out.

    Raises:
        ValueError: There is only one video.
    """
    names = sorted(set(videos))
    if len(names) < 2:
        raise ValueError(
            "there is one video to train on, of which no part can be held out to choose settings on: give one "
            "learning rate and one weight decay, and one layer"
        )
    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = {names[number] for number in _shuffled(len(names), seed)[:count]}
    return torch.tensor([video in chosen for video in videos])


def labelled_part(labels: Tensor, videos: Sequence[str], share: float, seed: int) -> Tensor:
    """Draw a share of the videos of each class, at least one.

    Args:
        labels: i64 `[n]`.
        videos: of each sample.
        share: more than 0, at most 1.
        seed: of the draw; a smaller share is part of a larger one.

    Returns:
        bool `[n]`, whether a sample's label is used.

    Raises:
        ValueError: The share is not one.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the labels is {share}; give more than 0 and at most 1")
    by_class: dict[int, set[str]] = {}
    for label, video in zip(labels.tolist(), videos, strict=True):
        by_class.setdefault(label, set()).add(video)
    chosen: set[str] = set()
    for label, found in by_class.items():
        names = sorted(found)
        count = math.ceil(share * len(names) - 1e-9)
        chosen |= {names[number] for number in _shuffled(len(names), seed + 1000003 * label)[:count]}
    return torch.tensor([video in chosen for video in videos])


def _shuffled(count: int, seed: int) -> list[int]:
    found: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return found

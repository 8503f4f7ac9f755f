"""The arrow of time: whether frozen features tell a clip from the same clip reversed (Pickup et al. 2014)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from evaluation.classified import classify
from evaluation.encoder import Encoder, dense_clip
from evaluation.features import Features, Vectors, origins_of, videos_of
from evaluation.linear import ProbeConfig, choose, probabilities, train_linear
from evaluation.probe import digests_of
from evaluation.result import Result, Split
from evaluation.scores import Held, bootstrap_interval, wilson_interval

DIRECTIONS = ("forward", "reversed")


def both_ways(encoder: Encoder) -> Vectors:
    """The means of the tokens of the last layer, of clips forward and reversed."""

    def vectors(batch: Mapping[str, Tensor]) -> Sequence[Tensor]:
        clip = dense_clip(batch["clip"], encoder)
        return [encoder(clip).mean(dim=1), encoder(clip.flip(2)).mean(dim=1)]

    return vectors


def arrow_of_time(
    found: Mapping[str, Sequence[Features]],
    data: Mapping[str, Split],
    config: ProbeConfig,
    device: torch.device,
    *,
    about: Mapping[str, Any],
    digest: str,
) -> Result:
    """Train a linear classifier to tell reversed clips, and score it on held-out ones; no label is used.

    Args:
        found: features of `train` and `val`, as `both_ways` gives them: forward, and reversed, of the same samples.
        data: `train` and `val`.
        config: the training.
        device: where it is done.
        about: what the protocol says of the encoder.
        digest: of its weights.

    Returns:
        `top1` of all clips both ways, and `paired_top1`: of how many clips the forward one looks more like forward.

    Raises:
        ValueError: There is nothing to choose settings on.
    """
    sides = {role: _joined(*found[role]) for role in ("train", "val")}
    videos = {role: videos_of(found[role][0], data[role].about, data[role].key_of) for role in sides}
    train, val, seed = sides["train"], sides["val"], config.seeds[0]
    scored = [f"{video}, {direction}" for direction in DIRECTIONS for video in videos["train"]]
    origins = origins_of(found["train"][0], data["train"].about, data["train"].key_of)
    choice = choose({1: train}, origins * 2, 2, config, device, scored=scored)
    heads = [train_linear(train, 2, config, choice.setting, seed=s, device=device) for s in config.seeds]
    scores = [probabilities(head, val, device) for head in heads]
    names = [f"{video}, {direction}" for direction in DIRECTIONS for video in videos["val"]]
    held = Held.of(val.labels, names)
    classified = classify(scores, held, DIRECTIONS, seed=seed)
    averaged = torch.stack([held.average(each)[:, 0] for each in scores])  # [seeds, 2 n], how forward each looks
    forward, backward = averaged.chunk(2, dim=1)
    paired = ((forward > backward).float() + 0.5 * (forward == backward).float()).mean(dim=0)  # [n]
    right = torch.stack([held.average(each).argmax(dim=1) == held.labels for each in scores]).float().mean(dim=0)
    of_video = torch.stack(right.chunk(2)).mean(dim=0)  # both ways of a video are drawn together
    share = float(paired.mean())
    return Result(
        metrics={**classified.metrics, "paired_top1": share, "chance": 0.5},
        rows=classified.rows,
        intervals={
            "top1": bootstrap_interval(
                lambda weights: float((of_video * weights).sum() / weights.sum()), len(paired), seed
            ),
            "paired_top1": wilson_interval(share, len(paired)),
        },
        tables=classified.tables,
        protocol={
            "evaluator": "arrow of time",
            "features": "mean of the tokens of a whole clip, forward and reversed, standardised by those of train",
            **about,
            **classified.protocol,
            "num_val": len(paired),
            "interval": "bootstrap over videos, 95 %; of paired_top1 Wilson",
            "num_train": len(found["train"][0].labels),
            **asdict(replace(config, lr=choice.setting.lr, weight_decay=choice.setting.weight_decay)),
        },
        digests=digests_of(data, digest),
        seed=seed,
    )


def _joined(forward: Features, backward: Features) -> Features:
    """Forward clips as class 0, and behind them reversed ones as class 1."""
    values = torch.cat([forward.values, backward.values])
    labels = torch.arange(2).repeat_interleave(len(forward.values))
    return Features(values, labels)

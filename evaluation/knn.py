"""k nearest neighbours: what frozen features say of a video without any training (Wu et al. 2018, arXiv 1805.01978)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.classified import classify
from evaluation.encoder import Encoder
from evaluation.features import Features, extract_features
from evaluation.probe import FeatureSet, digest_of, digests_of, in_eval, protocol_of, refuse_other_splits
from evaluation.result import Result, Split
from evaluation.scores import Held, top_k, wilson_interval
from pipeline.world import World

ROWS_AT_ONCE = 1024  # of the held-out samples; bounds the memory


@dataclass(frozen=True, kw_only=True)
class KNNConfig:
    """How neighbours vote.

    Attributes:
        ks: how many neighbours vote; the last one gives the tables, each one its own `top1_kK`.
        temperature: a neighbour's vote is exp(similarity / temperature); None gives each one vote.
        layer: of the encoder; None is the last one.
    """

    ks: tuple[int, ...] = (1, 5, 20)
    temperature: float | None = 0.07
    layer: int | None = None

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks={self.ks}; give different numbers of neighbours, each at least 1")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}; it has to be more than 0, or none")


def knn(model: nn.Module, data: Mapping[str, Split], config: KNNConfig, world: World) -> Result:
    """k nearest neighbours as an `Evaluator`: of an encoder (see `extract_features`), on `train` and `val`.

    Raises:
        ValueError: A split is not there, has no labels, other classes, or fewer samples than neighbours.
    """
    refuse_other_splits(data)
    with in_eval(model):
        found = {role: extract_features(model, data[role].batches, world=world) for role in ("train", "val")}
    layer = model.num_layers if isinstance(model, Encoder) else 1
    train, val = (FeatureSet.of_features({layer: found[role]}, data[role]) for role in ("train", "val"))
    return nearest_neighbours(train, val, config, about=protocol_of(model), digest=digest_of(model))


def nearest_neighbours(
    train: FeatureSet, val: FeatureSet, config: KNNConfig, *, about: Mapping[str, Any], digest: str
) -> Result:
    """Let the nearest training samples vote on each held-out one, by cosine; views of a video are averaged.

    Features are standardised by those of train, since a direction that all clips share would drown the cosine.

    Args:
        train: who votes.
        val: what is voted on.
        config: how.
        about: what the protocol says of the encoder.
        digest: of its weights.

    Raises:
        ValueError: There are fewer training samples than neighbours, or a label that no class has.
    """
    refuse_other_splits({"train": train.split, "val": val.split})
    names, (layer, features) = tuple(train.split.label_names), next(iter(train.layers.items()))
    count = len(features.labels)
    if max(config.ks) > count:
        raise ValueError(f"{max(config.ks)} neighbours cannot vote: there are {count} training samples with a label")
    held = Held.of(val.labels, val.videos)
    if (highest := int(max(train.labels.max(), held.labels.max()))) >= len(names):
        raise ValueError(f"label {highest} does not exist: there are {len(names)} classes")
    votes = _votes(features, val.layers[layer], len(names), config)
    found = classify([votes[config.ks[-1]]], held, names)
    shares = {k: int(top_k(held.average(votes[k]), held.labels, 1).sum()) / len(held.labels) for k in config.ks}
    most_frequent = train.labels.bincount().argmax()
    return Result(
        metrics={
            **found.metrics,
            **{f"top1_k{k}": share for k, share in shares.items()},
            "chance": float((held.labels == most_frequent).float().mean()),
        },
        rows=found.rows,
        intervals={
            **found.intervals,
            **{f"top1_k{k}": wilson_interval(share, len(held.labels)) for k, share in shares.items()},
        },
        tables=found.tables,
        protocol={
            "evaluator": "k nearest neighbours",
            "features": "mean of the tokens of a whole clip, standardised by those of train; cosine",
            **about,
            **found.protocol,
            **asdict(config),
            "layer": layer,
            "num_train": count,
        },
        digests=digests_of({"train": train.split, "val": val.split}, digest),
    )


def _votes(train: Features, val: Features, num_classes: int, config: KNNConfig) -> dict[int, Tensor]:
    """By number of neighbours: the shares of their votes, f32 `[m, C]`. Of equally near ones the first counts."""
    mean, scale = train.values.mean(dim=0), train.values.std(dim=0, correction=0).clamp(min=1e-6)
    keys, queries = (F.normalize((part.values - mean) / scale, dim=1) for part in (train, val))
    votes = {k: torch.zeros(len(queries), num_classes) for k in config.ks}
    for start in range(0, len(queries), ROWS_AT_ONCE):
        similarity = queries[start : start + ROWS_AT_ONCE] @ keys.T
        near = similarity.sort(dim=1, descending=True, stable=True)
        for k, table in votes.items():
            weights = _weights(near.values[:, :k], config.temperature)
            table[start : start + len(weights)].scatter_add_(1, train.labels[near.indices[:, :k]], weights)
    return {k: table / table.sum(dim=1, keepdim=True) for k, table in votes.items()}


def _weights(similarity: Tensor, temperature: float | None) -> Tensor:
    """Votes of neighbours, relative to the nearest one, which keeps them finite."""
    if temperature is None:
        return torch.ones_like(similarity)
    return ((similarity - similarity[:, :1]) / temperature).exp()

"""An encoder and what stands beside it: the features of all of them, in one pass over the clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from evaluation.encoder import Encoder, pixel_encoder
from evaluation.features import Features, Vectors, collect, layer_vectors
from evaluation.probe import FeatureSet
from evaluation.result import Split
from pipeline.world import World
from tools.evaluate.common import Bench
from tools.evaluate.stored import StoredField
from tools.progress import track

TRAINED = "trained"


def with_baselines(encoder: Encoder, baselines: Sequence[str], seed: int) -> dict[str, Encoder]:
    """The encoder as "trained", and those of "untrained" and "pixels" that are wanted."""
    found = {TRAINED: encoder}
    if "untrained" in baselines:
        found["untrained"] = encoder.untrained(seed)
    if "pixels" in baselines:
        found["pixels"] = pixel_encoder(encoder)
    return found


def encode(
    bench: Bench,
    encoders: Mapping[str, Encoder],
    layers: Mapping[str, Sequence[int]],
    stored: StoredField | None = None,
) -> tuple[dict[str, FeatureSet], dict[str, FeatureSet]]:
    """The features of `train` and of `val`, by encoder.

    Args:
        bench: the data.
        encoders: by name.
        layers: of each.
        stored: where those of the first encoder are read.

    Raises:
        ValueError: no sample has a label, or there is no such layer.
    """
    total = sum(len(dataset) for dataset in bench.datasets.values())
    fields = ["clip", "label"]
    if stored is not None:
        fields = [stored.name, "label", *(["clip"] if len(encoders) > 1 else [])]
    with (
        track("encoding", total=total, unit="clips") as advance,
        bench.splits(fields, advance=advance) as splits,
    ):
        train, val = (_encode(splits[role], encoders, layers, stored, bench.world) for role in ("train", "val"))
    return train, val


def _encode(
    split: Split,
    encoders: Mapping[str, Encoder],
    layers: Mapping[str, Sequence[int]],
    stored: StoredField | None,
    world: World,
) -> dict[str, FeatureSet]:
    sources = [(name, layer) for name in encoders for layer in layers[name]]
    vectors: list[Vectors] = [layer_vectors(encoder, layers[name]) for name, encoder in encoders.items()]
    if stored is not None:
        vectors[0] = lambda batch: [stored.tokens(batch).mean(dim=1)]

    def all_vectors(batch: Mapping[str, Tensor]) -> list[Tensor]:
        return [vector for each in vectors for vector in each(batch)]

    by_name: dict[str, dict[int, Features]] = {}
    for (name, layer), features in zip(sources, collect(split.batches, all_vectors, world=world), strict=True):
        by_name.setdefault(name, {})[layer] = features
    return {name: FeatureSet.of_features(features, split) for name, features in by_name.items()}

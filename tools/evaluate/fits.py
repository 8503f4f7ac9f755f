"""Whether data sets are what an encoder can take, and was trained on."""

from __future__ import annotations

from collections.abc import Iterable

from evaluation.encoder import Encoder
from shards.builder.samples.stored import frames_shape
from shards.dataset import ShardDataset
from shards.format.views import refuse_other_views, single_hash_of, single_view_hash


def refuse_other_clips(encoder: Encoder, dataset: ShardDataset) -> None:
    """Compare the clips of a data set with those that an encoder takes.

    Raises:
        ValueError: it has none, or others.
    """
    there = frames_shape(dataset.schema["clip"]) if "clip" in dataset.schema else None
    _, frames, height, width = encoder.clip_shape
    if there is None:
        raise ValueError(f"{dataset.place} has no clips; it has {', '.join(dataset.schema.names)}")
    if there != (frames, height, width, 3):
        raise ValueError(
            f"the clips of {dataset.place} are {list(there)} ([T, H, W, 3]), {encoder.name} takes "
            f"{[frames, height, width, 3]}: build a set with its view"
        )


def compare_views(encoder: Encoder, datasets: Iterable[ShardDataset]) -> str:
    """Compare the views of data sets, and of what an encoder was trained on, where it is known.

    Raises:
        ShardError: they differ; both are named.
    """
    views = {dataset.place: single_view_hash(dataset.manifest) for dataset in datasets}
    if (trained_on := single_hash_of(encoder.view) or encoder.view_hash) is not None:
        views[f"the data of {encoder.name}"] = trained_on
    return refuse_other_views(views)

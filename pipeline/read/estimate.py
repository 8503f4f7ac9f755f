"""What an epoch will ask of a store elsewhere, before it begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.order.locality import Locality
from pipeline.read.arrivals import Arrivals
from shards.dataset import ShardDataset


@dataclass(frozen=True)
class Estimate:
    """Of one machine.

    Attributes:
        num_requests: to the store, with an empty cache.
        num_bytes: that these give.
        cached_bytes: what is in the cache of the data set.
        window_bytes: of the shards whose samples are mixed at a time.
        order: how samples are mixed, in words.
    """

    num_requests: int
    num_bytes: int
    cached_bytes: int
    window_bytes: int
    order: str


def estimate(dataset: ShardDataset, arrivals: Arrivals, window: int) -> Estimate:
    """Estimate from the manifest, and the sidecars of the first shard.

    Args:
        dataset: the data set.
        arrivals: what is read of it.
        window: shards that are mixed at a time; 0 for all.

    Raises:
        ShardError: a sidecar cannot be had.
    """
    requests, num_bytes = arrivals.estimate()
    mirror, shards = arrivals.mirror, dataset.num_shards
    share = min(1.0, (window or shards) / max(1, shards))
    order = "all samples are mixed, or none"
    if window:
        counts = np.array([info.num_samples for info in dataset.manifest.shards], np.int64)
        radius = f"a mixing radius of {Locality(counts, window).radius:,} samples"
        order = f"{window} of {shards:,} shards mixed at a time, shuffled every epoch: {radius}"
    return Estimate(requests, num_bytes, mirror.cached_bytes(), round(num_bytes * share), order)

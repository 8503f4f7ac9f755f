"""Shards read back by stock webdataset and by Reelshard's loader: the same samples, and how fast each is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from shards.dataset import ShardDataset
from shards.format.errors import ShardError

ROUNDS = 3
FIELDS = ("clip", "target")


@dataclass(frozen=True, kw_only=True)
class Readback:
    """What was compared, and the best rate of each reader in clips per second.

    Attributes:
        num_equal: samples that stock webdataset and Reelshard gave alike, to the bit.
        webdataset_per_second: stock webdataset in process, batches, no shuffle.
        whole_per_second: `ShardLoader`, whole samples, global shuffle.
        masked_per_second: `ShardLoader`, only the tubes that the student's mask needs, global shuffle.
    """

    num_equal: int
    webdataset_per_second: float
    whole_per_second: float
    masked_per_second: float


def read_back(path: Path, batch_size: int, mask_ratio: float) -> Readback:
    """Compare every sample, then time the readers in turn.

    Raises:
        ShardError: stock webdataset gives another sample, or not all of them.
    """
    dataset = ShardDataset.open(path)
    num_equal = _compare(dataset)
    config = LoaderConfig(global_batch_size=batch_size, fields=FIELDS, drop_last=False)
    masked = LoaderConfig(
        global_batch_size=batch_size,
        fields=FIELDS,
        drop_last=False,
        gather={"clip": "visible", "target": "masked"},
    )
    mask = TubeMask(num_positions=dataset.schema["clip"].num_positions, ratio=mask_ratio)
    best = {"webdataset": 0.0, "whole": 0.0, "masked": 0.0}
    with ShardLoader(dataset, config) as whole_loader, ShardLoader(dataset, masked, mask) as masked_loader:
        for _ in range(ROUNDS):  # in turn: a shared machine's speed drifts
            for name, batches in (
                ("webdataset", _stock(dataset).batched(batch_size)),
                ("whole", whole_loader),
                ("masked", masked_loader),
            ):
                best[name] = max(best[name], _rate(batches, len(dataset)))
    return Readback(
        num_equal=num_equal,
        webdataset_per_second=best["webdataset"],
        whole_per_second=best["whole"],
        masked_per_second=best["masked"],
    )


def _stock(dataset: ShardDataset) -> Any:
    urls = [str(dataset.tar_path(number)) for number in range(dataset.num_shards)]
    pipeline = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    return pipeline.to_tuple("__key__", *(f"{name}.npy" for name in FIELDS))


def _compare(dataset: ShardDataset) -> int:
    num_equal = 0
    for key, *arrays in _stock(dataset):
        ours = dataset[key]
        for name, array in zip(FIELDS, arrays, strict=True):
            if not np.array_equal(array, np.asarray(ours[name])):
                raise ShardError(f"{dataset.place}: stock webdataset reads another {name} of sample {key}")
        num_equal += 1
    if num_equal != len(dataset):
        raise ShardError(f"{dataset.place}: stock webdataset gives {num_equal} of {len(dataset)} samples")
    return num_equal


def _rate(batches: Iterable[Mapping[str, Any]], num_samples: int) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return num_samples / (time.perf_counter() - start)

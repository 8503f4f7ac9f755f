"""A batch is copied, sent and printed as what it is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.order.draws import TubeMask
from shards.dataset import ShardDataset
from tests.datasets import POSITIONS, make_dataset

GATHER = {"clip": "visible", "target": "masked"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"))


@pytest.fixture
def loader(dataset: ShardDataset) -> Iterator[ShardLoader]:
    with ShardLoader(dataset, LoaderConfig(global_batch_size=2, slabs=2), TubeMask(num_positions=POSITIONS)) as loader:
        yield loader


@pytest.mark.parametrize(
    "copy_it", [copy.copy, copy.deepcopy, Batch.copy, lambda batch: pickle.loads(pickle.dumps(batch))]
)
def test_a_batch_can_be_copied_and_sent(loader: ShardLoader, copy_it: Any) -> None:
    kept = []
    for batch in loader:
        kept.append((copy_it(batch), {name: tensor.clone() for name, tensor in batch.items()}))
        del batch
    for number, (copied, expected) in enumerate(kept):
        assert type(copied) is Batch
        assert (copied.epoch, copied.number, copied.memory, copied.layout) == (0, number, None, None)
        assert copied.keys() == expected.keys()
        assert all(torch.equal(copied[name], expected[name]) for name in expected)


def test_a_deep_copy_shares_nothing_and_gives_the_slab_back(loader: ShardLoader) -> None:
    copies = []
    for batch in loader:
        copies.append(copy.deepcopy(batch))
        copies[-1]["clip"] += 1
        assert not torch.equal(copies[-1]["clip"], batch["clip"])
        del batch
    assert loader.stats().num_slabs == 2


def test_a_batch_prints_one_line_a_field(dataset: ShardDataset) -> None:
    config = LoaderConfig(global_batch_size=4, gather=GATHER, fields=("clip", "target", "label", "json"))
    batch = next(iter(ShardLoader(dataset, config, TubeMask(num_positions=POSITIONS))))
    assert repr(batch) == str(batch)
    length = len(batch["json"])
    assert str(batch).splitlines() == [
        "Batch 0 of epoch 0: 9 fields",
        "  index         int64    [4] on cpu",
        "  valid         bool     [4] on cpu",
        "  clip          uint8    [4, 4, 2, 2, 8, 8, 3] on cpu",
        "  target        float16  [4, 12, 2, 6] on cpu",
        "  label         int64    [4] on cpu",
        f"  json          uint8    [{length}] on cpu",
        "  json_offsets  int64    [5] on cpu",
        "  visible       int64    [4, 4] on cpu",
        "  masked        int64    [4, 12] on cpu",
    ]


def test_a_mixed_and_a_device_batch_print_likewise(loader: ShardLoader) -> None:
    mixed = next(iter(MixedLoader({"video": loader}, {"video": 1.0})))
    assert str(mixed).splitlines()[0] == "Batch 0 of epoch 0 from video: 6 fields"
    device = next(iter(DeviceLoader(loader, "cpu", normalize={"clip": ((0.5,) * 3, (0.5,) * 3)})))
    assert "  clip     float32  [2, 16, 2, 2, 8, 8, 3] on cpu" in str(device).splitlines()
    assert "on meta" in repr(device.replace({"clip": torch.empty(2, device="meta")}))
    device["clip"] = [1, 2]  # type: ignore[assignment]
    assert "  clip     a list" in str(device).splitlines()
    assert str(Batch({})) == "Batch 0 of epoch 0: 0 fields"

"""`reelshard reshard`: the same samples in other shards, some of them, or fewer fields; nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import ShardDataset
from shards.exchange.selection import Selection
from shards.payload import StoredValue
from shards.verify import verify_dataset
from tests.builds import contents
from tests.datasets import add_group, add_lengths_group, make_dataset, make_lengths_dataset
from tools.cli import main

ALL = Selection()


def same(a: StoredValue, b: StoredValue) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def assert_same_samples(found: ShardDataset, expected: ShardDataset, numbers: list[int] | None = None) -> None:
    numbers = list(range(len(expected))) if numbers is None else numbers
    assert verify_dataset(found.directory).problems == ()
    assert [found.key(place) for place in range(len(found))] == [expected.key(number) for number in numbers]
    for place, number in enumerate(numbers):
        for name in found.schema.names:
            assert same(found.read(place, name), expected.read(number, name)), name


MAKERS: dict[str, Callable[[Path], ShardDataset]] = {
    "arrays in tubes, JSON": make_dataset,
    "rows, packed, JSON": make_lengths_dataset,
    "a group": lambda folder: add_group(make_dataset(folder)),
    "a group of rows and packed": lambda folder: add_lengths_group(make_dataset(folder)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_kind_of_field_goes_into_other_shards_as_it_is(
    tmp_path: Path, make: Callable[[Path], ShardDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(tmp_path / "src")
    before = contents(source.directory)
    assert main(["reshard", str(source.directory), "--out", str(tmp_path / "dst"), "--samples-per-shard", "4"]) == 0
    copy = ShardDataset.open(tmp_path / "dst")
    assert_same_samples(copy, source)
    assert copy.schema == source.schema
    assert copy.manifest.label_names == source.manifest.label_names
    assert {info.num_samples for info in copy.manifest.shards[:-1]} == {4}
    assert contents(source.directory) == before
    assert f"{len(source)} samples" in capsys.readouterr().out
    assert not (tmp_path / "dst" / ".build").exists()

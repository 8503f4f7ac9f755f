"""The headers in front of each payload, found by the sidecar alone and compared without the rest of the tar."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.adopt import index_directory
from shards.cache.sparse import heads_of
from shards.dataset import ShardDataset
from shards.format.members import header_problem
from tests.datasets import add_group, make_dataset, make_lengths_dataset
from tests.foreign_tars import LONG, pictures, write_tar


def foreign(folder: Path, tar_format: int) -> ShardDataset:
    members = {f"{LONG}{name}": data for name, data in pictures(0, 5).items()}
    write_tar(folder / "a.tar", members, tar_format)
    index_directory(folder)
    return ShardDataset.open(folder)


SETS: dict[str, Callable[[Path], ShardDataset]] = {
    "own": lambda folder: add_group(make_dataset(folder, num_samples=7, samples_per_shard=3)),
    "of any length": make_lengths_dataset,
    "gnu": lambda folder: foreign(folder, tarfile.GNU_FORMAT),
    "pax": lambda folder: foreign(folder, tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("name", SETS)
def test_headers_are_compared_one_by_one_in_every_kind_of_tar(name: str, tmp_path: Path) -> None:
    dataset, count = SETS[name](tmp_path / "set"), 0
    for group in dataset.schema.groups:
        for shard in range(dataset.num_shards):
            index, tar = dataset.index(shard, group), dataset.tar_path(shard, group).read_bytes()
            for field in index.schema:
                extents, heads = index.extents[field.name], heads_of(index)[field.name].tolist()
                stops = (extents.offsets + extents.sizes).tolist()
                for row, (head, stop) in enumerate(zip(heads, stops, strict=True)):
                    data = tar[head:stop]
                    assert header_problem(memoryview(data), head, index, field, row) is None
                    other = (row + 1) % len(index)
                    for wrong in (bytes(len(data)), tar[heads[other] : stops[other]].ljust(len(data), b"\0")):
                        found = header_problem(memoryview(wrong), head, index, field, row)
                        assert found is not None or other == row
                    count += 1
    assert count >= len(dataset) * len(dataset.schema.names)

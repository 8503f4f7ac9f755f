"""`reelshard index` on sets of rows and packed pieces: what was lost is made again, and nothing is made up."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.adopt import index_directory
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from shards.format.index import index_path, load_index
from shards.format.schema import Schema
from shards.verify import verify_dataset
from tests.datasets import LENGTHS_SCHEMA, add_lengths_group, lengths_sample, make_dataset, make_lengths_dataset


def test_lost_sidecars_are_made_again_to_the_byte(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path)
    paths = [index_path(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    index_directory(tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert load_index(paths[0]).schema == dataset.schema


def test_a_lost_manifest_is_made_again_with_groups_of_rows_and_pieces(tmp_path: Path) -> None:
    before = add_lengths_group(make_dataset(tmp_path, num_samples=8, samples_per_shard=4))
    (tmp_path / "dataset.json").unlink()
    index_path(before.tar_path(1, "lengths")).unlink()  # one is enough to know the fields by
    index_directory(tmp_path)
    again = ShardDataset.open(tmp_path)
    assert again.schema == before.schema
    assert (again.manifest.shards, again.manifest.groups) == (before.manifest.shards, before.manifest.groups)
    assert again.lengths("frames").tolist() == before.lengths("frames").tolist()
    assert verify_dataset(tmp_path).problems == ()


def test_a_complete_group_of_rows_and_pieces_is_taken_up(tmp_path: Path) -> None:
    dataset = add_lengths_group(make_dataset(tmp_path, num_samples=8, samples_per_shard=4), manifest=False)
    assert not dataset.manifest.groups
    index_directory(tmp_path)
    again = ShardDataset.open(tmp_path)
    assert again[5]["frames"] == lengths_sample(5)["frames"]
    assert verify_dataset(tmp_path).problems == ()


def test_tars_of_others_have_no_lengths_whatever_shapes_their_arrays_have(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, length in (("a", 0), ("b", 2)):
            buffer = io.BytesIO()
            np.save(buffer, np.zeros((length, 3), np.float32))
            info = tarfile.TarInfo(f"{key}.x.npy")
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    index_directory(tmp_path)
    dataset = ShardDataset.open(tmp_path)
    assert [field.kind for field in dataset.schema] == ["bytes"]
    assert json.loads((tmp_path / "dataset.json").read_bytes())["format"] == 1


def test_a_tar_of_other_rows_is_not_the_one_of_the_manifest(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=4)
    other = Schema(tuple(replace(f, shape=(None, 2, 3)) if f.name == "features" else f for f in LENGTHS_SCHEMA))
    samples = {dataset.key(n): lengths_sample(n) for n in range(4)}
    samples = {key: {**sample, "features": np.zeros((2, 2, 3), np.float16)} for key, sample in samples.items()}
    make_lengths_dataset(tmp_path / "other", schema=other, samples=samples)
    (tmp_path / "other" / dataset.tar_path(0).name).replace(dataset.tar_path(0))
    index_path(dataset.tar_path(0)).unlink()
    with pytest.raises(DamagedShardError, match="it has other members"):
        index_directory(tmp_path)


@pytest.mark.parametrize("lost", ["*.idx", "train-00000-*.idx"])
def test_fields_are_those_of_the_plan_where_manifest_and_sidecars_are_lost(tmp_path: Path, lost: str) -> None:
    golden = Path(__file__).parent / "golden/before_rooms/set"
    shutil.copytree(golden, tmp_path / "set")
    for path in [*(tmp_path / "set").glob(lost), tmp_path / "set/dataset.json"]:
        path.unlink()
    index_directory(tmp_path / "set")
    before, again = ShardDataset.open(golden), ShardDataset.open(tmp_path / "set")
    assert (again.schema, again.manifest.shards) == (before.schema, before.manifest.shards)
    assert again.schema["clip"].layout == "tubes"

"""A Zarr cache holds the same targets bit for bit, out and in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
from shards.errors import MissingDataError, ShardError
from shards.manifest import Manifest, shard_name
from shards.schema import Schema
from shards.verify import verify_dataset
from shards.writer import ShardWriter
from shards.zarr_cache import export_targets, import_targets
from tests.datasets import TIMES, make_dataset, tubes_sample, tubes_schema
from tools.cli import main

zarr = pytest.importorskip("zarr")


def clips_only(directory: Path, dataset: ShardDataset) -> ShardDataset:
    """The same samples without targets, in other shards."""
    directory.mkdir()
    schema = Schema((tubes_schema()["clip"], tubes_schema()["json"]))
    infos = []
    for shard, numbers in enumerate((range(12), range(12, 20))):
        with ShardWriter(directory / shard_name("train", shard, 2), schema) as writer:
            for number in numbers:
                sample = tubes_sample(number)
                writer.write(dataset.key(number), {"clip": sample["clip"], "json": sample["json"]})
        infos.append(writer.info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


def test_targets_go_out_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    assert main(["zarr", "export", str(tmp_path / "set"), str(tmp_path / "cache")]) == 0
    array = zarr.open_array(str(tmp_path / "cache" / "targets.zarr"), mode="r")
    assert (array.shape, array.dtype) == ((20, 32, 6), np.float16)
    tubes = np.asarray(dataset[7]["target"])
    assert np.array_equal(array[7], np.concatenate([tubes[:, time] for time in range(TIMES)]))  # i = t * S + s
    lines = [json.loads(line) for line in (tmp_path / "cache" / "meta.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [dataset.key(number) for number in range(20)]
    assert lines[3]["video_id"] == dataset.metadata(3)["video_id"]

    clips_only(tmp_path / "clips", dataset)
    assert main(["zarr", "import", str(tmp_path / "clips"), str(tmp_path / "cache")]) == 0
    both = ShardDataset.open(tmp_path / "clips")
    for number in range(20):
        for name in ("clip", "target"):
            assert np.asarray(both[number][name]).tobytes() == np.asarray(dataset[number][name]).tobytes()
    assert verify_dataset(tmp_path / "clips").problems == ()
    for batch in ShardLoader(both, LoaderConfig(global_batch_size=5)):
        for row, number in enumerate(batch["index"].tolist()):
            assert np.array_equal(batch["target"][row].numpy(), np.asarray(dataset[number]["target"]))


def test_a_cache_that_lacks_a_sample_is_refused_and_the_set_stays_as_it_was(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set", num_samples=10)
    export_targets(dataset, tmp_path / "cache")
    clips = clips_only(tmp_path / "clips", make_dataset(tmp_path / "all"))
    with pytest.raises(MissingDataError, match="no targets for sample"):
        import_targets(tmp_path / "cache", clips)
    assert ShardDataset.open(tmp_path / "clips").digest == clips.digest


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    export_targets(dataset, tmp_path / "cache")
    with pytest.raises(ShardError, match="there already"):
        export_targets(dataset, tmp_path / "cache")
    with pytest.raises(ShardError, match="has a target already"):
        import_targets(tmp_path / "cache", dataset)
    with pytest.raises(MissingDataError, match=r"no targets\.zarr"):
        import_targets(tmp_path, clips_only(tmp_path / "clips", dataset))
    with pytest.raises(ValueError, match="targets are"):
        export_targets(dataset, tmp_path / "other", field="clip")
    assert not list(tmp_path.glob("*.tmp"))

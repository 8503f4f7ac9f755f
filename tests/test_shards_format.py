"""The format on disk: what is written comes back, and everybody else's tools read it too."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings

from shards.dataset import ShardDataset
from shards.format.errors import ManifestError, MissingDataError
from shards.format.index import index_path
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Field, Schema
from shards.verify import verify_dataset
from shards.writer import ShardWriter, Value
from tests.datasets import lengths_sample, make_dataset, make_lengths_dataset, tubes_sample, tubes_schema
from tests.marks import reads_with_stock_webdataset
from tests.strategies import shard_contents

GOLDEN = Path(__file__).parent / "golden"


def write(directory: Path, schema: Schema, samples: dict[str, dict[str, Value]]) -> ShardDataset:
    directory.mkdir(parents=True, exist_ok=True)
    with ShardWriter(directory / shard_name("train", 0, 1), schema) as writer:
        for key, sample in samples.items():
            writer.write(key, sample)
    Manifest(split="train", schema=schema, shards=(writer.info,)).write(directory)
    return ShardDataset.open(directory)


@given(contents=shard_contents())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sample_comes_back_bit_for_bit(
    contents: tuple[Schema, dict[str, dict[str, Value]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    schema, samples = contents
    directory = tmp_path_factory.mktemp("set")
    dataset = write(directory, schema, samples)
    assert [dataset.key(number) for number in range(len(dataset))] == list(samples)
    for key, sample in samples.items():
        for name, value in dataset[key].items():
            expected = sample[name]
            if not isinstance(expected, np.ndarray):
                assert value == expected
            else:
                assert isinstance(value, np.ndarray)
                assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
                assert value.tobytes() == expected.tobytes()
    assert verify_dataset(directory).problems == ()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_dataset(tmp_path / name)
    one, two = (sorted(p for p in (tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_the_golden_shard_of_format_1_is_read_and_written_unchanged(tmp_path: Path) -> None:
    golden = ShardDataset.open(GOLDEN / "format1")
    assert np.array_equal(golden["000001"]["clip"], tubes_sample(1)["clip"])
    assert verify_dataset(GOLDEN / "format1").problems == ()
    make_dataset(tmp_path, num_samples=2)
    for path in (GOLDEN / "format1").iterdir():
        assert (
            hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256((tmp_path / path.name).read_bytes()).digest()
        )


def test_the_golden_shards_of_format_2_are_read_and_written_unchanged(tmp_path: Path) -> None:
    golden = ShardDataset.open(GOLDEN / "format2")
    assert {name: golden.lengths(name).tolist() for name in ("features", "frames", "times")} == {
        "features": [2, 5, 1],
        "frames": [0, 1, 2],
        "times": [0, 1, 2],
    }
    assert golden["000002"]["frames"] == [b"", bytes(range(14, 23))]
    assert golden.read_run(2, "frames", 1, 2) == [bytes(range(14, 23))]
    assert np.array_equal(golden.read_run(1, "features", 2, 4), np.asarray(lengths_sample(1)["features"])[2:4])
    assert verify_dataset(GOLDEN / "format2").problems == ()
    make_lengths_dataset(tmp_path, num_samples=3, samples_per_shard=2)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (GOLDEN / "format2").iterdir()}
    for path in (GOLDEN / "format2").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_array_payloads_start_on_pages(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for shard in range(dataset.num_shards):
        for name in ("clip", "target"):
            assert not (dataset.extents(shard, name).offsets % 4096).any()


def test_overhead_at_the_reference_geometry_is_below_half_a_percent(tmp_path: Path) -> None:
    schema = tubes_schema(frames=16, size=224, dim=384, patch=16)
    sample = tubes_sample(0, frames=16, size=224, dim=384, patch=16)
    dataset = write(tmp_path, schema, {str(number): sample for number in range(4)})
    payload = schema["clip"].num_bytes + schema["target"].num_bytes
    assert payload == 2_408_448 + 1_204_224
    assert dataset.manifest.num_bytes < 4 * payload * 1.005


@reads_with_stock_webdataset
def test_stock_webdataset_reads_the_same_arrays(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    urls = [str(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]
    stock = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(stock) == len(dataset)
    for number, sample in enumerate(stock):
        assert sample["__key__"] == dataset.key(number)
        assert np.array_equal(sample["clip.npy"], dataset[number]["clip"])
        assert np.array_equal(sample["target.npy"], dataset[number]["target"])
        assert sample["json"] == dataset.metadata(number)


def test_gnu_tar_extracts_members_that_numpy_loads(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    run = subprocess.run(
        ["tar", "-xf", dataset.tar_path(1), "-C", tmp_path], check=True, capture_output=True, text=True
    )
    assert run.stderr == ""
    loaded = np.load(tmp_path / f"{dataset.key(6)}.clip.npy", allow_pickle=False)
    assert np.array_equal(loaded, dataset[6]["clip"])
    assert json.loads((tmp_path / f"{dataset.key(6)}.json").read_bytes()) == dataset.metadata(6)


def test_opening_reads_the_manifest_only_and_reading_only_the_sidecar_it_needs(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for shard in (0, 2, 3):
        index_path(dataset.tar_path(shard)).unlink()
    reopened = ShardDataset.open(tmp_path)
    assert len(reopened) == 20
    assert np.array_equal(reopened[7]["clip"], tubes_sample(7)["clip"])
    with pytest.raises(MissingDataError, match=r"sidecar .* is missing"):
        reopened[0]


def test_after_an_exception_nothing_is_published(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with ShardWriter(tmp_path / "train-00000-of-00001.tar", tubes_schema()) as writer:
            writer.write("a", tubes_sample(0))
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "..", "a\\b", "a\nb", "a\0b"])
def test_a_key_with_a_dot_a_path_or_a_control_character_is_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path / "s.tar", tubes_schema()) as writer:
        with pytest.raises(ValueError, match="not allowed"):
            writer.write(key, tubes_sample(0))
        writer.write("good", tubes_sample(0))
    assert writer.info.num_samples == 1


def test_a_sample_that_does_not_fit_the_schema_is_refused_whole(tmp_path: Path) -> None:
    good = tubes_sample(0)
    clip = good["clip"]
    assert isinstance(clip, np.ndarray)
    wrong: list[tuple[dict[str, Value], str]] = [
        ({**good, "clip": clip.astype(np.float32)}, "takes an array"),
        ({**good, "clip": clip[:1]}, "takes an array"),
        ({**good, "clip": b"bytes"}, "takes an array"),
        ({**good, "json": clip}, "takes bytes"),
        ({"clip": clip}, "got fields"),
    ]
    with ShardWriter(tmp_path / "s.tar", tubes_schema()) as writer:
        for sample, message in wrong:
            with pytest.raises(ValueError, match=message):
                writer.write("bad", sample)
        writer.write("good", good)
        with pytest.raises(ValueError, match="already"):
            writer.write("good", good)
    assert writer.info.num_samples == 1


@pytest.mark.parametrize("name", ["weights.pkl", "model.pt", "a..b", ".a", "a/b"])
def test_a_field_that_is_a_pickle_or_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        Field(name=name)


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text().replace('"split": "train"', '"split": "valid"'))
    with pytest.raises(ManifestError, match="changed by hand"):
        ShardDataset.open(tmp_path)


def test_a_folder_without_a_manifest_is_no_dataset_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="reelshard index"):
        ShardDataset.open(tmp_path)
    with pytest.raises(MissingDataError, match="does not exist"):
        ShardDataset.open(tmp_path / "nowhere")


def test_a_later_field_group_is_read_like_the_first(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=10, samples_per_shard=6)
    extra = Schema((Field(name="dino", dtype="<f4", shape=(5,), group="dinov2"),))
    infos = []
    for shard, numbers in enumerate((range(6), range(6, 10))):
        with ShardWriter(tmp_path / shard_name("train", shard, 2, "dinov2"), extra) as writer:
            for number in numbers:
                writer.write(dataset.key(number), {"dino": np.full(5, number, np.float32)})
        infos.append(writer.info)
    old = dataset.manifest
    schema = Schema((*old.schema.fields, *extra.fields))
    Manifest(split="train", schema=schema, shards=old.shards, groups={"dinov2": tuple(infos)}).write(tmp_path)
    both = ShardDataset.open(tmp_path)
    assert np.array_equal(both[8]["dino"], np.full(5, 8, np.float32))
    assert np.array_equal(both[8]["clip"], tubes_sample(8)["clip"])
    assert verify_dataset(tmp_path).problems == ()

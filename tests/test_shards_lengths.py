"""Rows and packed pieces: fields whose samples differ in length (format 2)."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.adopt import index_directory
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from shards.format.index import index_path
from shards.format.manifest import shard_name
from shards.format.packed import table_bytes
from shards.format.schema import Field, Schema
from shards.verify import verify_dataset
from shards.writer import ShardWriter, Value
from tests.datasets import (
    LENGTHS_SCHEMA,
    damage,
    lengths_of,
    lengths_sample,
    make_dataset,
    make_lengths_dataset,
)
from tests.marks import reads_with_stock_webdataset
from tests.strategies import shard_contents


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_lengths_dataset(tmp_path_factory.mktemp("lengths"))


def test_a_rows_field_has_an_open_first_length_and_nothing_else_open() -> None:
    field = Field(name="features", dtype="<f2", shape=(None, 256, 18, 18))
    assert (field.kind, field.is_rows, field.is_array, field.is_packed) == ("rows", True, False, False)
    assert (field.row_shape, field.row_bytes) == ((256, 18, 18), 2 * 256 * 18 * 18)
    assert field.to_json()["shape"] == [None, 256, 18, 18]
    assert Field.from_json(field.to_json()) == field
    assert field.suffix == "features.npy"
    for shape in ((3, None), (None, None), (None, 0), (None, -1)):
        with pytest.raises(ValueError, match="the first may be None for rows"):
            Field(name="x", dtype="<f2", shape=shape)
    with pytest.raises(ValueError, match="only plain or frames"):
        Field(name="x", dtype="<f2", shape=(None, 4), layout="tubes")


def test_a_packed_field_is_bytes_of_a_layout_of_its_own() -> None:
    field = Field(name="frames", layout="packed")
    assert (field.kind, field.is_packed, field.is_array, field.suffix) == ("packed", True, False, "frames")
    assert Field.from_json(field.to_json()) == field
    with pytest.raises(ValueError, match="packed"):
        Field(name="frames", dtype="|u1", shape=(3,), layout="packed")


def test_what_only_fields_of_one_kind_have_is_refused_for_others() -> None:
    rows, packed = Field(name="r", dtype="<f4", shape=(None,)), Field(name="p", layout="packed")
    fixed = Field(name="a", dtype="<f4", shape=(3,))
    for field in (rows, packed):
        with pytest.raises(ValueError, match="differs from sample to sample"):
            _ = field.num_bytes
        with pytest.raises(ValueError, match="no positions"):
            _ = field.num_positions
    for field in (fixed, packed):
        with pytest.raises(ValueError, match="has no rows"):
            _ = field.row_bytes


@given(contents=shard_contents(), cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lengths_and_runs_are_those_of_what_was_written(
    contents: tuple[Schema, dict[str, dict[str, Value]]],
    cuts: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    schema, samples = contents
    dataset = make_lengths_dataset(tmp_path_factory.mktemp("set"), schema=schema, samples=samples)
    for field in schema:
        if not field.has_lengths:
            continue
        stored = [sample[field.name] for sample in samples.values()]
        lengths = dataset.lengths(field.name)
        assert lengths.dtype == np.int64
        assert lengths.tolist() == [len(value) for value in stored]
        for number, value in enumerate(stored):
            start, stop = sorted(min(cut, len(value)) for cut in cuts)
            run = dataset.read_run(number, field.name, start, stop)
            if field.is_packed:
                assert run == list(value[start:stop])
            else:
                assert isinstance(run, np.ndarray)
                assert run.tobytes() == np.asarray(value[start:stop]).tobytes()
                assert run.shape == (stop - start, *field.row_shape)


@given(contents=shard_contents())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_format_is_2_exactly_where_a_field_has_lengths(
    contents: tuple[Schema, dict[str, dict[str, Value]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    schema, samples = contents
    dataset = make_lengths_dataset(tmp_path_factory.mktemp("set"), schema=schema, samples=samples)
    expected = 2 if any(field.is_rows or field.is_packed for field in schema) else 1
    assert json.loads((dataset.directory / "dataset.json").read_bytes())["format"] == expected
    assert msgpack.unpackb(index_path(dataset.tar_path(0)).read_bytes())["format"] == expected


def test_lengths_are_read_from_sidecars_alone(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path)
    for shard in range(dataset.num_shards):
        dataset.tar_path(shard).unlink()
    for name in ("features", "frames", "times"):
        assert dataset.lengths(name).tolist() == [lengths_of(number)[name] for number in range(len(dataset))]
        assert dataset.lengths(name) is dataset.lengths(name)
    with pytest.raises(ValueError, match="only rows and packed pieces have lengths"):
        dataset.lengths("json")


def test_payloads_of_rows_start_on_pages_and_numpy_loads_their_members(dataset: ShardDataset) -> None:
    for shard in range(dataset.num_shards):
        assert not (dataset.extents(shard, "features").offsets % 4096).any()
    with tarfile.open(dataset.tar_path(0)) as tar:
        for number, key in enumerate(dataset.index(0).keys):
            member = tar.extractfile(f"{key}.features.npy")
            assert member is not None
            loaded = np.load(io.BytesIO(member.read()), allow_pickle=False)
            assert loaded.shape == (lengths_of(number)["features"], *LENGTHS_SCHEMA["features"].row_shape)
            assert np.array_equal(loaded, np.asarray(lengths_sample(number)["features"]))


@reads_with_stock_webdataset
def test_stock_webdataset_decodes_a_member_of_rows(dataset: ShardDataset) -> None:
    urls = [str(dataset.tar_path(shard)) for shard in range(dataset.num_shards)]
    for number, sample in enumerate(webdataset.WebDataset(urls, shardshuffle=False).decode()):
        assert np.array_equal(sample["features.npy"], np.asarray(lengths_sample(number)["features"]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", np.zeros((2, 3, 4), np.float16), "takes an array"),
        ("features", np.zeros((2, 3, 2), np.float32), "takes an array"),
        ("features", np.float16(3), "takes an array"),
        ("features", np.zeros((), np.float16), "takes an array"),
        ("features", [b"x"], "takes an array"),
        ("frames", b"one piece", "takes a list of bytes"),
        ("frames", "text", "takes a list of bytes"),
        ("frames", [b"x", "y"], "takes a list of bytes"),
        ("frames", np.zeros(3, np.uint8), "takes a list of bytes"),
        ("json", [b"x"], "takes bytes"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_nothing_of_the_sample_is_written(
    tmp_path: Path, name: str, value: Value, message: str
) -> None:
    with ShardWriter(tmp_path / "s.tar", LENGTHS_SCHEMA) as writer:
        with pytest.raises(ValueError, match=message):
            writer.write("bad", {**lengths_sample(0), name: value})
        writer.write("good", lengths_sample(0))
    assert writer.info.num_samples == 1


def test_a_run_that_is_not_there_is_refused_by_name(dataset: ShardDataset) -> None:
    number = int(dataset.lengths("frames").argmax())
    length = int(dataset.lengths("frames")[number])
    for start, stop in ((0, length + 1), (-1, 1), (2, 1)):
        with pytest.raises(IndexError, match=f"field frames: it has {length} rows or pieces"):
            dataset.read_run(number, "frames", start, stop)
    with pytest.raises(ValueError, match="field json is bytes"):
        dataset.read_run(0, "json", 0, 1)


def test_a_changed_byte_is_found_when_the_whole_is_read(tmp_path: Path) -> None:
    for name in ("features", "frames"):
        dataset = make_lengths_dataset(tmp_path / name)
        damage(dataset, 3, name, at=5)
        with pytest.raises(DamagedShardError, match="checksum is wrong") as caught:
            dataset[3]
        assert (caught.value.key, caught.value.field) == (dataset.key(3), name)


@pytest.mark.parametrize("at", range(0, 4 + 8 * 3, 3))
def test_a_changed_table_is_found_when_one_piece_is_read(tmp_path: Path, at: int) -> None:
    dataset = make_lengths_dataset(tmp_path)
    number = int(np.flatnonzero(dataset.lengths("frames") == 3)[0])
    damage(dataset, number, "frames", at=at)
    with pytest.raises(DamagedShardError, match="table") as caught:
        dataset.read_run(number, "frames", 0, 1)
    assert (caught.value.key, caught.value.field) == (dataset.key(number), "frames")


def test_a_run_reads_no_byte_of_the_others(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path)
    number = int(np.flatnonzero(dataset.lengths("frames") == 3)[0])
    sample = lengths_sample(number)
    damage(dataset, number, "features", at=0)
    damage(dataset, number, "frames", at=table_bytes(3))
    run = dataset.read_run(number, "features", 1, 3)
    assert np.array_equal(np.asarray(run), np.asarray(sample["features"])[1:3])
    assert dataset.read_run(number, "frames", 2, 3) == [bytes((7 * number + place) % 256 for place in range(18))]


def test_a_cut_file_is_found_by_a_run(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=3)
    tar = dataset.tar_path(0)
    end = int(dataset.extents(0, "frames").offsets[2] + dataset.extents(0, "frames").sizes[2])
    with tar.open("r+b") as file:
        file.truncate(end - 1)
    length = int(dataset.lengths("frames")[2])
    with pytest.raises(DamagedShardError, match="it was cut off"):
        dataset.read_run(2, "frames", length - 1, length)


def test_a_group_of_rows_leaves_the_main_series_at_format_1_and_its_digest_as_it_was(tmp_path: Path) -> None:
    main = make_dataset(tmp_path, num_samples=8, samples_per_shard=4)
    before = main.digest_of(["clip"])
    field = Field(name="hidden", dtype="<f4", shape=(None, 3), group="more")
    for shard in range(2):
        with ShardWriter(tmp_path / shard_name("train", shard, 2, "more"), Schema((field,))) as writer:
            for number in range(4 * shard, 4 * shard + 4):
                writer.write(main.key(number), {"hidden": np.full((number, 3), number, np.float32)})
    index_directory(tmp_path)
    both = ShardDataset.open(tmp_path)
    assert both.lengths("hidden").tolist() == list(range(8))
    assert json.loads((tmp_path / "dataset.json").read_bytes())["format"] == 2
    assert msgpack.unpackb(index_path(both.tar_path(0)).read_bytes())["format"] == 1
    assert msgpack.unpackb(index_path(both.tar_path(0, "more")).read_bytes())["format"] == 2
    assert both.digest_of(["clip"]) == before
    assert verify_dataset(tmp_path).problems == ()

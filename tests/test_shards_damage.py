"""No damage goes unnoticed, and the message says where it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.extents import Extents
from shards.format.index import index_path, save_index
from shards.verify import verify_dataset
from tests.datasets import make_dataset, make_lengths_dataset

anywhere = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=[make_dataset, make_lengths_dataset], ids=["arrays", "lengths"])
def intact(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    directory = tmp_path_factory.mktemp("intact") / "set"
    request.param(directory, num_samples=8, samples_per_shard=4)
    return directory


def problems_of(directory: Path) -> tuple[str, ...]:
    try:
        return verify_dataset(directory).problems
    except ShardError as error:
        return (str(error),)


@given(data=st.data())
@anywhere
def test_one_flipped_bit_anywhere_is_found(
    intact: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("flip") / "set"
    shutil.copytree(intact, directory)
    path = data.draw(st.sampled_from(sorted(directory.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert problems_of(directory)


@given(data=st.data())
@anywhere
def test_truncation_anywhere_is_found(
    intact: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("cut") / "set"
    shutil.copytree(intact, directory)
    path = data.draw(st.sampled_from(sorted(directory.iterdir())))
    content = path.read_bytes()
    # The newline that ends dataset.json carries nothing.
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
    assert problems_of(directory)


def test_a_changed_payload_is_named_by_shard_key_field_and_offset(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    offset = int(dataset.extents(1, "target").offsets[2])
    path = dataset.tar_path(1)
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DamagedShardError) as caught:
        dataset["000008"]
    error = caught.value
    assert (error.shard, error.key, error.field, error.offset) == (path.name, "000008", "target", offset)
    (problem,) = verify_dataset(tmp_path).problems
    assert all(part in problem for part in (path.name, "000008", "target", str(offset)))


def test_a_damaged_header_is_named_by_its_offset(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    path = dataset.tar_path(0)
    content = bytearray(path.read_bytes())
    content[0] ^= 0xFF
    path.write_bytes(content)
    (problem,) = verify_dataset(tmp_path).problems
    assert "offset 0" in problem
    assert "checksum" in problem


def test_a_swapped_sidecar_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    first, second = (index_path(dataset.tar_path(shard)) for shard in (0, 1))
    swapped = first.read_bytes(), second.read_bytes()
    second.write_bytes(swapped[0])
    first.write_bytes(swapped[1])
    reopened = ShardDataset.open(tmp_path)
    with pytest.raises(DamagedShardError, match="the manifest expects"):
        reopened[0]
    assert len(verify_dataset(tmp_path).problems) == 2


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    dataset.tar_path(2).unlink()
    with pytest.raises(MissingDataError, match=dataset.tar_path(2).name):
        dataset[13]
    (problem,) = verify_dataset(tmp_path).problems
    assert dataset.tar_path(2).name in problem


def test_a_sidecar_whose_sizes_do_not_fit_its_schema_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    index = dataset.index(0)
    clip = index.extents["clip"]
    sizes = clip.sizes.copy()
    sizes[1] -= 8
    index.extents["clip"] = Extents(clip.offsets, sizes, clip.checksums)
    save_index(index, dataset.tar_path(0))
    with pytest.raises(DamagedShardError, match="field clip has payloads that are not of its"):
        ShardDataset.open(tmp_path).read(0, "clip")


def test_a_shard_of_another_build_with_its_own_sidecar_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    make_dataset(tmp_path / "other", dim=7)
    for path in (dataset.tar_path(0), index_path(dataset.tar_path(0))):
        shutil.copy(tmp_path / "other" / path.name, path)
    with pytest.raises(DamagedShardError, match="the manifest expects"):
        ShardDataset.open(tmp_path / "set")[0]

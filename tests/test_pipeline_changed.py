"""Shards that are not what their sidecars describe, or not any more: an error before a wrong row is given out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig, Reader, Verify
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from tests.datasets import POSITIONS, make_dataset, tubes_sample

readers = pytest.mark.parametrize("reader", ["mmap", "pread", "direct"])
GATHER = {"clip": "visible", "target": "masked"}
MASK = TubeMask(num_positions=POSITIONS)


def all_right(batches: Iterable[Batch]) -> None:
    """Compare every row that is given out, masked or whole, with what was written."""
    for batch in batches:
        for row, number in enumerate(batch["index"].tolist()):
            sample = tubes_sample(number)
            for name in ("clip", "target"):
                value, positions = torch.from_numpy(sample[name]), batch[GATHER[name]][row]
                masked = batch[name].shape[1] == len(positions)
                assert not batch["valid"][row] or torch.equal(batch[name][row], value[positions] if masked else value)


def exchange_two(dataset: ShardDataset) -> None:
    one, two = dataset.tar_path(0), dataset.tar_path(1)
    assert one.stat().st_size == two.stat().st_size
    aside = one.with_suffix(".aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def put_512_bytes_in_front(dataset: ShardDataset) -> None:
    path = dataset.tar_path(1)
    path.write_bytes(bytes(512) + path.read_bytes())


def shift_by_512_bytes(dataset: ShardDataset) -> None:
    path = dataset.tar_path(1)
    path.write_bytes((bytes(512) + path.read_bytes())[:-512])


def cut_in_half(dataset: ShardDataset) -> None:
    path = dataset.tar_path(1)
    os.truncate(path, path.stat().st_size // 2)


def empty(dataset: ShardDataset) -> None:
    os.truncate(dataset.tar_path(1), 0)


@readers
@pytest.mark.parametrize("verify", ["never", "sample"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (exchange_two, "the first sample is not the one that the sidecar lists"),
        (put_512_bytes_in_front, "bytes were added"),
        (shift_by_512_bytes, "the first sample is not the one"),
        (cut_in_half, "it was cut off"),
        (empty, "the file (has 0 bytes|is empty).* cut off"),
    ],
)
def test_another_file_than_the_sidecar_describes_is_refused_when_it_is_opened(
    tmp_path: Path, reader: Reader, verify: Verify, change: Callable[[ShardDataset], None], message: str
) -> None:
    dataset = make_dataset(tmp_path, num_samples=24)
    change(dataset)
    config = LoaderConfig(global_batch_size=4, reader=reader, verify=verify, gather=GATHER)
    with pytest.raises(DamagedShardError, match=message):
        all_right(ShardLoader(dataset, config, MASK))
    with pytest.raises(ShardError, match="more than the 5 that max_quarantined allows"):
        list(ShardLoader(dataset, replace(config, on_error="quarantine", max_quarantined=5), MASK))
    loader = ShardLoader(dataset, replace(config, on_error="quarantine", max_quarantined=12), MASK)
    left_out = [n for batch in loader for n in batch["index"][~batch["valid"]].tolist()]
    assert sorted(left_out) == list(range(0 if change is exchange_two else 6, 12))


def test_the_last_sample_is_looked_at_too(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=24)
    one, two = dataset.tar_path(0), dataset.tar_path(1)
    half = one.stat().st_size // 2
    one.write_bytes(one.read_bytes()[:half] + two.read_bytes()[half:])
    with pytest.raises(DamagedShardError, match=r"key 000005, field json, offset .*: the last sample is not the one"):
        list(ShardLoader(dataset, LoaderConfig(global_batch_size=4, verify="never")))


def put_another_in_its_place(path: Path, other: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(other, copy)
    copy.replace(path)


def copy_over_it(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def write_into_it(path: Path, other: Path) -> None:
    with path.open("r+b") as file:
        file.write(other.read_bytes())


def cut_and_stretch_it(path: Path, other: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, other.stat().st_size)


@readers
@pytest.mark.parametrize("gather", [{}, GATHER])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_another_in_its_place, "another file took its place"),
        (copy_over_it, "it was written to"),
        (write_into_it, "it was written to"),
        (cut_and_stretch_it, "it was written to"),
        (lambda path, _: os.truncate(path, 8192), "it was cut off"),
        (lambda path, _: path.unlink(), "is missing"),
    ],
)
def test_a_shard_of_equal_size_in_the_place_of_an_open_one_is_refused_in_mid_epoch(
    tmp_path: Path, reader: Reader, gather: dict[str, str], change: Callable[[Path, Path], None], message: str
) -> None:
    dataset = make_dataset(tmp_path, num_samples=24)
    config = LoaderConfig(global_batch_size=2, slabs=2, shuffle=False, reader=reader, gather=gather)
    loader = ShardLoader(dataset, config, MASK)
    list(loader)  # all shards are open
    iterator = iter(loader)
    next(iterator)
    change(dataset.tar_path(3), dataset.tar_path(2))
    with pytest.raises((DamagedShardError, MissingDataError), match=message):
        all_right(iterator)
    with pytest.raises((DamagedShardError, MissingDataError), match=message):
        list(loader)  # nor later


def test_a_file_that_changed_while_it_was_closed_for_want_of_descriptors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.read.files.MAX_OPEN_FILES", 1)
    dataset = make_dataset(tmp_path, num_samples=24)
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4, verify="never", shuffle=False, threads=1))
    list(loader)
    path = dataset.tar_path(1)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DamagedShardError, match=f"{path.name}: the file was changed since it was opened"):
        list(loader)
    loader.close()
    assert list(loader)  # opened anew, it is what its sidecar says


def test_a_changed_group_is_noticed_beside_unchanged_clips(tmp_path: Path) -> None:
    dataset = with_group(tmp_path)
    config = LoaderConfig(global_batch_size=4, fields=("clip", "score"), verify="never", shuffle=False)
    loader = ShardLoader(dataset, config)
    assert len(list(loader)) == 3
    os.utime(dataset.tar_path(1, "extra"), ns=(0, 0))
    with pytest.raises(DamagedShardError, match=r"train\.extra-00001.*changed"):
        list(loader)


def with_group(directory: Path) -> ShardDataset:
    """Twelve samples, and beside them a series of tars with one field more."""
    from shards.format.manifest import Manifest, shard_name
    from shards.format.schema import Field, Schema
    from shards.writer import ShardWriter

    dataset = make_dataset(directory, num_samples=12)
    score, infos = Field(name="score", dtype="<f4", shape=(8,), group="extra"), []
    for shard in range(2):
        with ShardWriter(directory / shard_name("train", shard, 2, "extra"), Schema((score,))) as writer:
            for number in range(6 * shard, 6 * shard + 6):
                writer.write(f"{number:06d}", {"score": np.full(8, number, np.float32)})
        infos.append(writer.info)
    manifest = dataset.manifest
    schema = Schema((*manifest.schema, score))
    Manifest(split="train", schema=schema, shards=manifest.shards, groups={"extra": tuple(infos)}).write(directory)
    return ShardDataset.open(directory)


def test_a_changed_shard_under_quarantine_costs_its_samples_only(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=24)
    config = LoaderConfig(global_batch_size=4, on_error="quarantine", max_quarantined=0.25, reader="mmap")
    loader = ShardLoader(dataset, config)
    list(loader)
    copy_over_it(dataset.tar_path(2), dataset.tar_path(1))
    left_out = [n for batch in loader for n in batch["index"][~batch["valid"]].tolist()]
    assert sorted(left_out) == list(range(12, 18))
    for shard in (0, 1, 3):
        os.utime(dataset.tar_path(shard), ns=(0, 0))
    with pytest.raises(ShardError, match="more than the 6 that max_quarantined allows"):
        list(loader)

"""Shards that are not what their sidecars describe, or not any more: an error before a wrong row is given out."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import Batch
from pipeline.checks import ROWS_PER_CHECK, is_drawn
from pipeline.config import LoaderConfig, Reader, Verify
from pipeline.loader import ShardLoader
from pipeline.masking import TubeMask
from shards.dataset import ShardDataset
from shards.errors import DamagedShardError, MissingDataError, ShardError
from tests.datasets import POSITIONS, damage, make_dataset, tubes_sample, unnoticed

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
    monkeypatch.setattr("pipeline.files.MAX_OPEN_FILES", 1)
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
    from shards.manifest import Manifest, shard_name
    from shards.schema import Field, Schema
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


@given(
    counts=st.lists(st.integers(1, 700), min_size=1, max_size=4),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 2**62),
)
def test_sample_draws_one_row_in_128_of_each_shard_another_one_every_epoch(
    counts: list[int], seed: int, epoch: int
) -> None:
    shards = np.repeat(np.arange(len(counts)), counts)
    rows = np.concatenate([np.arange(count) for count in counts])
    samples, sizes = np.arange(len(rows)), np.array(counts)[shards]
    drawn = is_drawn(seed, epoch, samples, rows, sizes)
    for shard, count in enumerate(counts):
        assert drawn[shards == shard].sum() == max(1, (count + ROWS_PER_CHECK // 2) // ROWS_PER_CHECK)
    some = np.random.default_rng(0).permutation(len(rows))[: len(rows) // 2]  # whatever else is in the batch
    assert np.array_equal(is_drawn(seed, epoch, samples[some], rows[some], sizes[some]), drawn[some])
    turns = [is_drawn(seed, epoch + turn, samples, rows, sizes) for turn in range(192)]
    assert np.any(turns, axis=0).all()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    """Two shards of 256 samples, as recipes build them; a target has half of a clip's bytes, as at the real size."""
    return make_dataset(tmp_path_factory.mktemp("set"), num_samples=512, samples_per_shard=256, size=16, dim=96)


def read_bytes_of_this_process() -> int:
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


def test_sample_is_the_default_and_reads_less_than_two_per_cent_more(large: ShardDataset) -> None:
    mask = TubeMask(num_positions=large.schema["clip"].num_positions)
    config = LoaderConfig(global_batch_size=32, reader="mmap", gather=GATHER)
    assert config.verify == "sample"
    loader = ShardLoader(large, config, mask)
    for _ in loader:  # everything is open then, and from here on only checks are read: the rest is mapped
        pass
    before, stats = read_bytes_of_this_process(), loader.stats()
    for _ in loader:
        pass
    read = read_bytes_of_this_process() - before
    assert loader.stats().num_checked - stats.num_checked == 512 // ROWS_PER_CHECK
    sample_bytes = sum(large.schema[name].num_bytes for name in GATHER)
    assert 4 * sample_bytes <= read < 0.02 * (loader.stats().num_bytes - stats.num_bytes)


@readers
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("field", ["clip", "target"])
def test_a_shard_that_is_damaged_throughout_is_found_within_an_epoch(
    tmp_path: Path, large: ShardDataset, reader: Reader, seed: int, field: str
) -> None:
    shutil.copytree(large.directory, tmp_path, dirs_exist_ok=True)
    dataset = ShardDataset.open(tmp_path)
    extents = dataset.extents(1, field)
    with unnoticed(dataset.tar_path(1)) as content:
        for offset in extents.offsets.tolist():
            content[offset] ^= 1
    mask = TubeMask(num_positions=large.schema["clip"].num_positions)
    config = LoaderConfig(global_batch_size=32, reader=reader, gather=GATHER, seed=seed)
    with pytest.raises(DamagedShardError, match=f"field {field}, offset .*checksum is wrong"):
        list(ShardLoader(dataset, config, mask))


def test_a_damaged_row_is_found_by_sample_when_its_turn_comes(large: ShardDataset, tmp_path: Path) -> None:
    shutil.copytree(large.directory, tmp_path, dirs_exist_ok=True)
    dataset = ShardDataset.open(tmp_path)
    damage(dataset, 300, "clip")
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=256, on_error="quarantine"))
    found = [epoch for epoch in range(ROWS_PER_CHECK) for b in loader if not b["valid"].all()]
    assert len(found) == 1


@readers
@pytest.mark.parametrize("gather", [{}, GATHER])
def test_what_was_checked_is_what_is_given_out_while_the_file_changes_unnoticed(
    tmp_path: Path, reader: Reader, gather: dict[str, str]
) -> None:
    dataset = make_dataset(tmp_path, num_samples=6)
    path, done = dataset.tar_path(0), threading.Event()
    right, status = path.read_bytes(), path.stat()
    wrong = bytes(byte ^ 0xFF for byte in right)
    first = int(dataset.extents(0, "clip").offsets[1])  # the first and last sample are looked at when it is opened
    last = int(dataset.extents(0, "clip").offsets[5])

    def change() -> None:
        with path.open("r+b", buffering=0) as file:
            while not done.is_set():
                for content in (wrong, right):
                    os.pwrite(file.fileno(), content[first:last], first)
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    config = LoaderConfig(global_batch_size=6, reader=reader, verify="always", on_error="quarantine", gather=gather)
    loader, counts = ShardLoader(dataset, replace(config, max_quarantined=6), MASK), {True: 0, False: 0}
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for batch in itertools.chain.from_iterable(loader for _ in range(100)):
            all_right([batch])
            for valid in batch["valid"].tolist():
                counts[valid] += 1
    finally:
        done.set()
        thread.join()
    assert counts[True] >= 200  # those at both ends
    assert counts[False] > 0


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

"""What `verify` reads whole and compares with checksums, and what it finds."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from dataclasses import replace
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.read.checks import SAMPLES_PER_CHECK, draw_checked
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError
from tests.datasets import damage, make_dataset, unnoticed
from tests.test_pipeline_changed import GATHER, MASK, all_right

readers = pytest.mark.parametrize("reader", ["mmap", "pread", "direct"])


@given(
    counts=st.lists(st.integers(0, 700), min_size=1, max_size=4),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 2**62),
)
def test_sample_draws_one_in_128_of_each_shard_another_one_every_epoch(
    counts: list[int], seed: int, epoch: int
) -> None:
    shards = np.repeat(np.arange(len(counts)), counts)
    turns = np.zeros(len(shards), np.int64)
    for turn in range(192):
        drawn = draw_checked(seed, epoch + turn, np.array(counts))
        expected = [(count + 64) // 128 or min(count, 1) for count in counts]
        assert np.bincount(shards[drawn], minlength=len(counts)).tolist() == expected
        turns[drawn] += 1
    assert (turns >= 1).all()


def test_which_samples_are_drawn_is_the_same_everywhere_and_for_ever() -> None:
    assert draw_checked(0, 0, np.array([256, 256, 100])).tolist() == [109, 217, 302, 430, 545]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    """Two shards of 256 samples, as recipes build them; a target has half of a clip's bytes, as at the real size."""
    return make_dataset(tmp_path_factory.mktemp("set"), num_samples=512, samples_per_shard=256, size=16, dim=96)


def read_bytes_of_this_process() -> int:
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


def test_sample_is_the_default_and_reads_less_than_two_per_cent_more(large: ShardDataset) -> None:
    mask = TubeMask(num_positions=large.schema["clip"].num_positions)
    config = LoaderConfig(global_batch_size=32, reader="mmap")
    assert config.verify == "sample"
    loader = ShardLoader(large, config, reads=Reads(draws=(mask,), gather=GATHER, held_out=True))
    for _ in loader:  # everything is open then, and from here on only checks are read: the rest is mapped
        pass
    before, stats = read_bytes_of_this_process(), loader.stats()
    for _ in loader:
        pass
    read = read_bytes_of_this_process() - before
    assert loader.stats().num_checked - stats.num_checked == 512 // SAMPLES_PER_CHECK
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
    found = [epoch for epoch in range(SAMPLES_PER_CHECK) for b in loader if not b["valid"].all()]
    assert len(found) == 1


@readers
@pytest.mark.parametrize("gather", [{}, GATHER])
def test_what_was_checked_is_what_is_given_out_while_the_file_changes_unnoticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader, gather: dict[str, str]
) -> None:
    monkeypatch.setattr("pipeline.read.readers.LEAST_MAPPED_BYTES", 1000)  # arrays are above it in real sets
    dataset = make_dataset(tmp_path, num_samples=6)
    path, done = dataset.tar_path(0), threading.Event()
    right, status = path.read_bytes(), path.stat()
    wrong = bytes(byte ^ 0xFF for byte in right)
    first = int(dataset.extents(0, "clip").offsets[1])  # the first and last sample are looked at when it is opened
    last = int(dataset.extents(0, "clip").offsets[5])

    def change() -> None:
        with path.open("r+b") as file, mmap(file.fileno(), 0) as shared:  # whose writes set a time only now and then
            while not done.is_set():
                for content in (wrong, right):
                    shared[first:last] = content[first:last]
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
    assert counts[True] > 0
    assert counts[False] > 0

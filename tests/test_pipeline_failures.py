"""A user's bad day: damaged data, missing shards, torch's own workers."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.config import LoaderConfig, Reader, Verify
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from tests.datasets import POSITIONS, damage, make_dataset, tubes_sample

readers = pytest.mark.parametrize("reader", ["mmap", "pread", "direct"])


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reelshard-reader")]


@readers
@pytest.mark.parametrize("gather", [{}, {"clip": "visible", "target": "masked"}])
def test_a_damaged_sample_is_an_error_that_names_its_place(
    tmp_path: Path, reader: Reader, gather: dict[str, str]
) -> None:
    dataset = make_dataset(tmp_path)
    offset = damage(dataset, 8, "target")
    config = LoaderConfig(global_batch_size=4, reader=reader, verify="always", gather=gather)
    with pytest.raises(DamagedShardError) as caught:
        list(ShardLoader(dataset, config, TubeMask(num_positions=POSITIONS)))
    error = caught.value
    assert (error.shard, error.key, error.field, error.offset) == (dataset.tar_path(1).name, "000008", "target", offset)
    assert not reader_threads()


@readers
def test_quarantine_leaves_the_bad_sample_out_and_keeps_the_rest(
    tmp_path: Path, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(tmp_path)
    damage(dataset, 8, "target")
    config = LoaderConfig(global_batch_size=5, reader=reader, verify="always", on_error="quarantine", slabs=2)
    loader = ShardLoader(dataset, config)
    for _ in range(2):
        left_out = []
        for batch in loader:
            for row, number in enumerate(batch["index"].tolist()):
                if batch["valid"][row]:
                    assert np.array_equal(batch["clip"][row].numpy(), tubes_sample(number)["clip"])
                    assert np.array_equal(batch["target"][row].numpy(), tubes_sample(number)["target"])
                else:
                    left_out.append(number)
                    assert not batch["clip"][row].any()
                    assert not batch["target"][row].any()
        assert left_out == [8]
        assert loader.stats().num_quarantined == 1
    assert "key 000008, field target, offset" in caplog.text
    assert "left out by reelshard-reader" in caplog.text


@pytest.mark.parametrize(
    ("limit", "allowed"), [(0, 0), (2, 2), (0.01, 1), (0.05, 1), (0.1, 2), (0.99, 19), (19, 19), (1e6, 1000000)]
)
def test_the_limit_of_quarantine_is_a_count_or_a_share_of_the_set(limit: float, allowed: int) -> None:
    assert LoaderConfig(max_quarantined=limit).most_quarantined(20) == allowed


def test_quarantine_stops_past_its_limit(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for number in (1, 8, 15):
        damage(dataset, number, "clip")
    config = LoaderConfig(global_batch_size=4, verify="always", on_error="quarantine", max_quarantined=2)
    with pytest.raises(ShardError, match="3 samples could not be read, more than the 2 that max_quarantined allows"):
        list(ShardLoader(dataset, config))


def test_a_sample_that_is_bad_in_every_epoch_counts_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for number in (1, 8):
        damage(dataset, number, "clip")
    config = LoaderConfig(global_batch_size=4, verify="always", on_error="quarantine", max_quarantined=2)
    loader = ShardLoader(dataset, config)
    for _ in range(5):
        assert sum(int((~batch["valid"]).sum()) for batch in loader) == 2
    assert loader.stats().num_quarantined == 2


@pytest.mark.parametrize("reader", ["auto", "mmap", "pread", "direct"])
def test_the_samples_of_a_missing_shard_are_quarantined_whatever_the_reader(tmp_path: Path, reader: Reader) -> None:
    dataset = make_dataset(tmp_path)
    dataset.tar_path(0).unlink()
    config = LoaderConfig(global_batch_size=4, reader=reader, on_error="quarantine", max_quarantined=0.5)
    left_out = [n for b in ShardLoader(dataset, config) for n in b["index"][~b["valid"]].tolist()]
    assert sorted(left_out) == list(range(6))


def test_verify_first_checks_a_sample_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4, verify="first"))
    list(loader)
    damage(dataset, 8, "target")
    list(loader)
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4, verify="first"))
    with pytest.raises(DamagedShardError):
        list(loader)


@readers
@pytest.mark.parametrize("verify", ["first", "always"])
def test_a_byte_that_the_mask_does_not_keep_is_checked_too(tmp_path: Path, reader: Reader, verify: Verify) -> None:
    dataset = make_dataset(tmp_path)
    mask = TubeMask(num_positions=POSITIONS)
    hidden = int(mask.draw(0, 0, np.array([8]))["masked"][0, 0])
    damage(dataset, 8, "clip", at=hidden * dataset.schema["clip"].num_bytes // POSITIONS)
    config = LoaderConfig(global_batch_size=4, reader=reader, gather={"clip": "visible", "target": "masked"})
    assert sum(len(batch["index"]) for batch in ShardLoader(dataset, replace(config, verify="never"), mask)) == 20
    with pytest.raises(DamagedShardError, match="key 000008, field clip"):
        list(ShardLoader(dataset, replace(config, verify=verify), mask))


@readers
def test_a_file_that_becomes_shorter_under_an_open_reader_is_an_error(tmp_path: Path, reader: Reader) -> None:
    dataset = make_dataset(tmp_path)
    loader = ShardLoader(dataset, LoaderConfig(global_batch_size=4, reader=reader))
    list(loader)
    for shard in range(dataset.num_shards):
        os.truncate(dataset.tar_path(shard), 70_000)
    with pytest.raises(DamagedShardError, match="cut off"):
        list(loader)


def test_a_missing_shard_is_one_clear_error(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    dataset.tar_path(0).unlink()
    with pytest.raises(MissingDataError, match="restore it, or build it again"):
        list(ShardLoader(dataset, LoaderConfig(global_batch_size=4, reader="mmap")))


def test_it_works_inside_a_torch_dataloader_without_workers(tmp_path: Path) -> None:
    loader = ShardLoader(make_dataset(tmp_path), LoaderConfig(global_batch_size=5))
    batches = list(DataLoader(loader, batch_size=None, num_workers=0))
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(20))


def test_torch_dataloader_workers_are_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    loader = ShardLoader(make_dataset(tmp_path), LoaderConfig(global_batch_size=5))
    with pytest.raises(ValueError, match="num_workers=0"):
        next(iter(DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context="fork")))


def shared_memory_in_use(data: Path) -> set[str]:
    """What this process has open or mapped in /dev/shm, but for the data set; others may use it as they like."""
    found = Path("/proc/self/maps").read_text().splitlines()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # another thread has closed it
            found.append(str(link.readlink()))
    return {text for text in found if "/dev/shm" in text and str(data) not in text}


def test_nothing_of_a_batch_is_in_shared_memory(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    before = shared_memory_in_use(tmp_path)  # semaphores that others have left in this process
    for batch in ShardLoader(dataset, LoaderConfig(global_batch_size=4)):
        assert shared_memory_in_use(tmp_path) <= before
        del batch

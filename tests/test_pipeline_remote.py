"""Training reads data sets in stores elsewhere as it reads local ones, through a cache that its ranks share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order.locality import Locality
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.tar import BLOCK_BYTES
from shards.store import open_store
from tests.datasets import add_group, make_dataset
from tests.object_store import faulty_proxy, http_files, moto_server, use_bucket
from tests.remote_sets import epoch_of, load, open_cached, run_ranks

pytest.importorskip("obstore", reason="the extra 's3' is not installed")


@pytest.fixture
def local(tmp_path: Path) -> ShardDataset:
    return make_dataset(tmp_path / "served/set", num_samples=23, samples_per_shard=3)


@pytest.fixture
def url(local: ShardDataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http_files(local.directory.parent) as server:
        yield f"{server}/set"


@pytest.mark.parametrize("reader", ["auto", "mmap", "pread", "direct"])
def test_every_reader_gives_the_batches_of_the_local_set_cold_and_warm(
    local: ShardDataset, url: str, tmp_path: Path, reader: str
) -> None:
    expected = load(local)
    elsewhere = open_cached(url, tmp_path / "cache")
    with load(elsewhere, reader=reader) as cold, load(elsewhere, reader=reader) as warm:
        batches = [*epoch_of(expected), *epoch_of(expected)]
        assert [*epoch_of(cold), *epoch_of(cold)] == batches
        assert elsewhere.mirror is not None
        before = elsewhere.mirror.traffic.requests
        assert [*epoch_of(warm), *epoch_of(warm)] == batches
        assert elsewhere.mirror.traffic.requests == before <= 8
    expected.close()


def test_a_field_group_comes_from_its_own_tars(local: ShardDataset, url: str, tmp_path: Path) -> None:
    local = add_group(local)
    (group,) = local.manifest.groups
    name = local.schema.of_group(group).names[0]
    elsewhere = open_cached(url, tmp_path / "cache")
    config: dict[str, Any] = {"fields": ("clip", name), "gather": None}
    with load(local, **config) as expected, load(elsewhere, **config) as found:
        assert epoch_of(found) == epoch_of(expected)
    assert not list((tmp_path / "cache").rglob("*.whole*"))


@pytest.mark.slow
def test_ranks_share_one_cache_and_read_the_global_batches_of_any_world(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    with load(local) as expected:
        batches = [*epoch_of(expected), *epoch_of(expected)]
    assert run_ranks(url, 2, tmp_path / "cache", epochs=2) == batches


def test_a_state_goes_on_elsewhere_with_another_number_of_ranks(local: ShardDataset, url: str, tmp_path: Path) -> None:
    elsewhere = open_cached(url, tmp_path / "cache")
    with load(local) as expected:
        batches = epoch_of(expected)
    with load(elsewhere) as first:
        iterator = iter(first)
        for _ in range(3):
            next(iterator)
        state = first.state_dict()
    parts = []
    for rank in range(2):
        with load(elsewhere, World(rank=rank, size=2, local_rank=rank, local_size=2)) as later:
            later.load_state_dict(state)
            parts.append(epoch_of(later))
    assert [left + right for left, right in zip(*parts, strict=True)] == batches[3:]


def test_a_state_of_another_window_is_refused(local: ShardDataset) -> None:
    with load(local) as windows, load(local, window=0) as shuffled:
        for one, other in ((windows, shuffled), (shuffled, windows)):
            with pytest.raises(ValueError, match="does not fit: window is"):
                one.load_state_dict(other.state_dict())
        assert "window" not in shuffled.state_dict()


def test_sets_elsewhere_are_read_with_locality_unless_asked_otherwise(tmp_path: Path) -> None:
    local = make_dataset(tmp_path / "served/set", num_samples=40, samples_per_shard=2)
    elsewhere = ShardDataset(local.directory, local.manifest, object())  # type: ignore[arg-type]
    with load(local, window=None) as loader:
        assert loader.config.window_of(local) == 0
        assert loader.config.window_of(elsewhere) == 16


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 2**70), st.integers(0, 9)
)
def test_an_order_with_locality_gives_every_sample_once_and_keeps_windows_apart(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    counts = np.array(sizes)
    total = int(counts.sum())
    order = Locality(counts, window)
    numbers = order(total, seed, epoch, np.arange(total))
    assert sorted(numbers.tolist()) == list(range(total))
    some = np.arange(total)[:: max(1, total // 7)][::-1]
    assert order(total, seed, epoch, some).tolist() == numbers[some].tolist()
    shards = np.searchsorted(np.cumsum(counts), numbers, side="right")
    last = {shard: place for place, shard in enumerate(shards.tolist())}
    first = {shard: place for place, shard in reversed(list(enumerate(shards.tolist())))}
    for place in range(total):  # at any moment no more shards are in use than a window has
        assert sum(first[shard] <= place <= last[shard] for shard in first) <= window


def test_an_order_with_locality_differs_by_epoch_and_seed() -> None:
    order = Locality(np.full(20, 50), 4)
    found = {tuple(order(1000, seed, epoch, np.arange(1000)).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(found) == 9
    assert order.radius == 200


def test_an_order_with_locality_mixes_a_window_uniformly() -> None:
    order = Locality(np.full(4, 50), 4)
    first_half = sum(int((order(200, 0, epoch, np.arange(100)) < 50).sum()) for epoch in range(40))
    assert 850 < first_half < 1150  # of 2,000 samples of one shard, those in the first half of 40 epochs


def test_wrong_bytes_are_an_error_and_never_a_row(local: ShardDataset, url: str, tmp_path: Path) -> None:
    tar = local.tar_path(2)
    data = bytearray(tar.read_bytes())
    offset = int(local.extents(2, "target").offsets[1])
    data[offset + 7] ^= 1
    tar.write_bytes(bytes(data))
    elsewhere = open_cached(url, tmp_path / "cache")
    with (
        load(elsewhere) as loader,
        pytest.raises(DamagedShardError, match=rf"{tar.name}, key .*, field target") as raised,
    ):
        epoch_of(loader)
    assert raised.value.offset == offset
    with load(elsewhere, on_error="quarantine", max_quarantined=1) as loader:
        numbers = [number for batch in epoch_of(loader) for number, _ in batch]
        assert sorted(numbers) == [number for number in range(23) if number != 7]
        assert loader.stats().num_quarantined == 1
    with pytest.raises(DamagedShardError):
        elsewhere.read(7, "target")
    assert len(elsewhere.metadata(7)) > 0  # its other members are what they were


def test_always_compares_names_too_also_of_what_the_cache_has_already(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    tar = local.tar_path(2)
    data = tar.read_bytes()
    places = [data.index(f"{local.key(number)}.clip".encode()) for number in (7, 8)]
    one, other = (data[place : place + BLOCK_BYTES] for place in places)
    assert one[124:136] == other[124:136]  # the same size, so that each header is right for the other payload
    tar.write_bytes(data.replace(one, b"?" * BLOCK_BYTES).replace(other, one).replace(b"?" * BLOCK_BYTES, other))
    elsewhere = open_cached(url, tmp_path / "cache")
    with load(elsewhere) as loader:
        assert len(epoch_of(loader)) == 6  # payloads are what the sidecar says
    problem = (
        r"key 00000[78], field clip, offset .*: the tar holds '00000[87]\.clip.*' where the sidecar lists 00000[78]\."
    )
    with load(elsewhere, verify="always") as loader, pytest.raises(DamagedShardError, match=problem):
        epoch_of(loader)
    with load(elsewhere, verify="always", on_error="quarantine", max_quarantined=2) as loader:
        numbers = [number for batch in epoch_of(loader) for number, _ in batch]
        assert sorted(numbers) == [number for number in range(23) if number not in (7, 8)]


def test_always_fetches_and_compares_headers_once(local: ShardDataset, url: str, tmp_path: Path) -> None:
    local = add_group(local)
    (group,) = local.manifest.groups
    config: dict[str, Any] = {"fields": ("clip", local.schema.of_group(group).names[0])}
    elsewhere = open_cached(url, tmp_path / "cache")
    assert elsewhere.mirror is not None
    with load(local, gather=None, **config) as expected, load(elsewhere, gather=None, **config) as found:
        batches = epoch_of(expected)
        assert epoch_of(found) == batches
    seen = []
    for _ in range(2):
        with load(elsewhere, verify="always", gather=None, **config) as found:
            assert epoch_of(found) == batches
        seen.append(elsewhere.mirror.traffic.requests)
    assert seen[0] == seen[1]


def test_a_tar_that_is_missing_or_cut_off_elsewhere_is_named(local: ShardDataset, url: str, tmp_path: Path) -> None:
    local.tar_path(1).unlink()
    cut = local.tar_path(4)
    cut.write_bytes(cut.read_bytes()[:9000])
    elsewhere = open_cached(url, tmp_path / "cache")
    with pytest.raises(MissingDataError, match=r"set/train-00001-of-00008\.tar is not there"):
        elsewhere.read(3, "clip")
    with pytest.raises(DamagedShardError, match=r"train-00004-of-00008\.tar, key .*, field clip, offset 8192: it ends"):
        elsewhere.read(12, "clip")
    with load(elsewhere, on_error="quarantine", max_quarantined=6) as loader:
        assert sum(map(len, epoch_of(loader))) == 23 - 6


def test_a_store_that_does_not_answer_ends_the_run_and_loses_no_sample(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    elsewhere = open_cached(url, tmp_path / "cache")
    assert elsewhere.mirror is not None
    for shard in range(local.num_shards):
        elsewhere.index(shard)
    elsewhere.mirror.store = open_store("http://127.0.0.1:9/set")
    with load(elsewhere, on_error="quarantine", max_quarantined=23) as loader:
        with pytest.raises(ShardError, match="no connection to http"):
            epoch_of(loader)
        assert loader.stats().num_quarantined == 0


def test_what_an_epoch_asks_of_a_store_is_estimated_before(local: ShardDataset, url: str, tmp_path: Path) -> None:
    elsewhere = open_cached(url, tmp_path / "cache")
    with load(elsewhere) as loader:
        found = loader.estimate()
        epoch_of(loader)
        assert elsewhere.mirror is not None
        assert found.num_requests == elsewhere.mirror.traffic.requests == 8
        assert abs(found.num_bytes / elsewhere.mirror.traffic.num_bytes - 1) < 0.1
        assert found.cached_bytes < 50_000 < loader.estimate().cached_bytes
        assert found.order == "2 of 8 shards mixed at a time, shuffled every epoch: a mixing radius of 6 samples"
    with load(local) as loader, pytest.raises(ValueError, match="is on this machine: nothing is asked of a store"):
        loader.estimate()


def test_a_sidecar_that_does_not_belong_is_refused_and_not_kept(local: ShardDataset, url: str, tmp_path: Path) -> None:
    good = (local.directory / "train-00003-of-00008.idx").read_bytes()
    shutil.copy(local.directory / "train-00000-of-00008.idx", local.directory / "train-00003-of-00008.idx")
    elsewhere = open_cached(url, tmp_path / "cache")
    with pytest.raises(DamagedShardError, match=r"the sidecar describes train-00000.*the manifest expects train-00003"):
        elsewhere.index(3)
    (local.directory / "train-00003-of-00008.idx").write_bytes(good)
    assert elsewhere.index(3).info.name == "train-00003-of-00008.tar"


@pytest.mark.slow
def test_two_ranks_read_an_epoch_through_a_bad_network_as_from_the_disk(
    local: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = ["error"] * 3 + ["cut_response"] * 3 + ["reset", "slow_response"]
    with moto_server() as server:
        bucket = use_bucket(server, "epoch", monkeypatch)
        for path in local.directory.iterdir():
            open_store(bucket).put_file(path, path.name)
        with faulty_proxy(server, share=0.8, faults=faults) as (port, done):
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            found = run_ranks(bucket, 2, tmp_path / "cache")
    with load(local) as expected:
        assert found == epoch_of(expected)
    assert all(done[fault] > 0 for fault in faults)

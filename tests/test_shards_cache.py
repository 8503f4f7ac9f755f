"""The cache of data sets elsewhere: processes are killed, disks fill up, several jobs use it at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards.cache.folder import Cache, parse_size
from shards.cache.sparse import CachedTar, boot_id, evict, have_path
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from tests.builds import ROOT
from tests.datasets import make_dataset
from tests.object_store import http_files
from tests.remote_sets import epoch_of, load, open_cached, start_ranks

pytest.importorskip("obstore", reason="the extra 's3' is not installed")
NUM_SAMPLES = 24


@pytest.fixture
def local(tmp_path: Path) -> ShardDataset:
    return make_dataset(tmp_path / "served/set", num_samples=NUM_SAMPLES, samples_per_shard=3)


@pytest.fixture
def url(local: ShardDataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http_files(local.directory.parent) as server:
        yield f"{server}/set"


def refuse_wrong_members(elsewhere: ShardDataset, local: ShardDataset) -> int:
    """Compare every member that the cache says it has with the local tar; returns how many that are."""
    count = 0
    for shard in range(local.num_shards):
        tar, data = elsewhere.tar_path(shard), local.tar_path(shard).read_bytes()
        have, index = have_path(tar), local.index(shard)
        if not have.exists():
            continue
        CachedTar(tar, index)  # if the process was killed while it made the files, as the next one finds them
        cached = tar.read_bytes()
        flags = np.frombuffer(have.read_bytes()[64:], np.uint8).reshape(len(index.schema.names), len(index))
        for number, field in enumerate(index.schema.names):
            for row in np.flatnonzero(flags[number]).tolist():
                start, size = int(index.extents[field].offsets[row]), int(index.extents[field].sizes[row])
                assert cached[start : start + size] == data[start : start + size]
                count += 1
    return count


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_a_cache_that_holds_nothing_wrong(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for seconds in (0.0, 0.002, 0.01, 0.03):
        (process,) = start_ranks(url, 1, cache, epochs=50)
        while not list(cache.glob("*/*.have")) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        elsewhere = open_cached(url, cache)
        refuse_wrong_members(elsewhere, local)
        for have in cache.glob("*/*.have"):  # what is killed early leaves fewer members
            evict(have.with_suffix(".tar"))
    with load(elsewhere) as found, load(local) as expected:
        assert epoch_of(found) == epoch_of(expected)
    assert refuse_wrong_members(elsewhere, local) >= 2 * NUM_SAMPLES


def test_members_that_were_lost_when_the_machine_went_down_are_found(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    elsewhere = open_cached(url, tmp_path / "cache")
    expected = [elsewhere[number] for number in range(3)]
    tar = elsewhere.tar_path(0)
    index = elsewhere.index(0)
    start = int(index.extents["target"].offsets[1])
    with tar.open("r+b") as file:  # as a page that was never written to the disk
        file.seek(start)
        file.write(bytes(64))
    have = have_path(tar)
    have.write_bytes(have.read_bytes().replace(boot_id().encode(), b"0" * len(boot_id())))
    again = open_cached(url, tmp_path / "cache")
    assert again.mirror is not None
    for number in range(3):
        assert all(np.array_equal(again[number][name], expected[number][name]) for name in ("clip", "target"))
    assert again.mirror.traffic.requests == 1


def test_nothing_is_evicted_that_a_reader_in_another_process_holds(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    elsewhere = open_cached(url, tmp_path / "cache")
    for number in range(6):
        elsewhere[number]
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from shards.cache.sparse import CachedTar\n"
        "from shards.format.index import load_index\n"
        "tar = Path(sys.argv[1])\n"
        "with CachedTar(tar, load_index(tar.with_suffix('.idx'))).hold():\n"
        "    print('holding', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    held, free = elsewhere.tar_path(0), elsewhere.tar_path(1)
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "holding\n"
    before = held.read_bytes()
    assert not evict(held)
    assert evict(free)
    assert held.read_bytes() == before
    assert not any(free.read_bytes())
    reader.kill()  # a hold ends with its process
    reader.communicate()
    assert evict(held)
    assert refuse_wrong_members(elsewhere, local) == 0


def test_the_cache_stays_within_its_quota_and_an_epoch_is_complete(
    local: ShardDataset, url: str, tmp_path: Path
) -> None:
    local = make_dataset(local.directory, num_samples=90, samples_per_shard=3)
    whole = local.manifest.num_bytes
    elsewhere = open_cached(url, tmp_path / "cache", f"{whole * 2 // 3}")
    assert elsewhere.mirror is not None
    most = 0
    with load(elsewhere, window=3, threads=1, slabs=2) as found, load(local, window=3) as expected:
        for _ in range(3):
            batches = []
            for batch in found:
                batches.append(sorted(batch["index"][batch["valid"]].tolist()))
                most = max(most, elsewhere.mirror.cache.usage())
            assert batches == [sorted(number for number, _ in batch) for batch in epoch_of(expected)]
    held = 3 * max(info.num_bytes for info in local.manifest.shards)  # the window is not evicted, whatever the quota
    assert 0 < most <= whole * 2 // 3 + held < whole
    assert elsewhere.mirror.traffic.num_bytes > whole  # what was evicted was fetched again


@pytest.mark.slow
def test_two_jobs_on_one_small_cache_both_read_what_they_should(local: ShardDataset, url: str, tmp_path: Path) -> None:
    quota = {"REELSHARD_CACHE_QUOTA": str(local.manifest.num_bytes // 2)}
    jobs = [process for _ in range(2) for process in start_ranks(url, 1, tmp_path / "cache", epochs=5, **quota)]
    outputs = [job.communicate(timeout=200) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    with load(local) as expected:
        batches = [epoch for _ in range(5) for epoch in epoch_of(expected)]
    for output, _ in outputs:
        assert [[tuple(row) for row in batch] for batch in json.loads(output)] == batches


def test_ranks_of_a_node_ask_for_each_member_once(local: ShardDataset, url: str, tmp_path: Path) -> None:
    sets = [open_cached(url, tmp_path / "cache") for _ in range(2)]
    loaders = [load(each, reader="pread") for each in sets]
    iterators = [iter(loader) for loader in loaders]
    for batches in zip(*iterators, strict=True):
        assert batches[0]["index"].tolist() == batches[1]["index"].tolist()
    mirrors = [each.mirror for each in sets if each.mirror is not None]
    assert sum(mirror.traffic.requests for mirror in mirrors) == local.num_shards
    for loader in loaders:
        loader.close()


FULL_DISK = """
import sys
from shards.cache.folder import Cache
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
dataset = ShardDataset.open(sys.argv[1], Cache(sys.argv[2], sys.argv[3]))
for number in range(len(dataset)):
    dataset.read(number, "clip")
print(len(dataset))
"""


def run_on_small_disk(url: str, folder: Path, size: str, quota: str) -> subprocess.CompletedProcess[str]:
    """Read all clips with the cache on a file system of `size`, where one may be mounted."""
    folder.mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    mount = 'mount -t tmpfs -o "size=$1" none "$2" && shift && exec "$2" -c "$3" "$4" "$1" "$5"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", size, str(folder), sys.executable, FULL_DISK, url, quota]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=100)


def test_on_a_full_disk_what_is_not_held_gives_way(local: ShardDataset, url: str, tmp_path: Path) -> None:
    done = run_on_small_disk(url, tmp_path / "disk", "200k", "1GB")
    assert done.stdout == f"{NUM_SAMPLES}\n", done.stderr


def test_a_disk_that_stays_full_is_one_line(local: ShardDataset, url: str, tmp_path: Path) -> None:
    done = run_on_small_disk(url, tmp_path / "disk", "24k", "1GB")
    assert done.returncode == 1
    assert "cannot be written: No space left on device; make room there" in done.stderr.splitlines()[-1]


def test_a_cache_that_cannot_be_made_is_one_line(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ShardError, match=r"the cache .*/file cannot be written: Not a directory; make room .* or name another"
    ):
        open_cached(url, tmp_path / "file")


def test_a_set_that_changed_where_it_is_has_a_folder_of_its_own(url: str, local: ShardDataset, tmp_path: Path) -> None:
    before = open_cached(url, tmp_path / "cache")
    before[0]
    shutil.rmtree(local.directory)
    other = make_dataset(local.directory, num_samples=NUM_SAMPLES, samples_per_shard=4)
    after = open_cached(url, tmp_path / "cache")
    assert after.directory != before.directory
    assert np.array_equal(np.asarray(after.read(23, "clip")), np.asarray(other.read(23, "clip")))


def test_a_cached_tar_that_was_made_anew_or_cut_is_fetched_again(url: str, local: ShardDataset, tmp_path: Path) -> None:
    elsewhere = open_cached(url, tmp_path / "cache")
    expected = elsewhere.read(0, "clip")
    elsewhere.mirror = None
    tar = elsewhere.tar_path(0)
    os.truncate(tar, 100)
    again = open_cached(url, tmp_path / "cache")
    assert np.array_equal(np.asarray(again.read(0, "clip")), np.asarray(expected))


def test_a_pinned_set_does_not_give_way_and_one_in_use_is_not_cleared(
    url: str, local: ShardDataset, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache", "1GB")
    elsewhere = ShardDataset.open(url, cache)
    for number in range(NUM_SAMPLES):
        elsewhere[number]
    (found,) = cache.sets()
    assert (found.url, found.digest, found.pinned) == (url, local.digest, False)
    cache.pin(found.folder, pinned=True)
    small = Cache(tmp_path / "cache", "1kB")
    with small.room(10_000, needed=False) as granted:
        assert not granted
    assert refuse_wrong_members(elsewhere, local) == 3 * NUM_SAMPLES
    cache.pin(found.folder, pinned=False)
    with small.room(10_000, needed=False) as granted:
        assert not granted
    assert refuse_wrong_members(elsewhere, local) == 0
    assert not cache.clear(found.folder)
    del elsewhere
    assert cache.clear(found.folder)
    assert cache.sets() == []
    assert cache.usage() == 0


@pytest.mark.parametrize(("text", "size"), [("500", 500), ("1.5 kB", 1500), ("2TB", 2 * 10**12), ("3g", 3 * 10**9)])
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "0", "nan", "1PB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; give bytes, or as in 500MB"):
        Cache(None, text)


def test_a_claim_is_had_once_among_processes_and_threads(local: ShardDataset, tmp_path: Path) -> None:
    index = local.index(0)
    one, other = (CachedTar(tmp_path / "a.tar", index) for _ in range(2))
    assert one.try_claim(0)
    assert not one.try_claim(0)
    assert not other.try_claim(0)
    assert other.try_claim(1)
    one.give_up(0)
    assert other.try_claim(0)

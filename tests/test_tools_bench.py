"""The benchmark measures real loaders on real data, and notices wrong bytes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.read.auto import file_system, resident_share
from pipeline.read.gather import NO_LIBRARY, WAYS
from shards.dataset import ShardDataset
from tests.test_model_teacher import save_backbone
from tools import bench
from tools.bench.check import EVERY, Arrived, Checker
from tools.bench.child import run_epoch
from tools.bench.contenders import Case, Reelshard
from tools.bench.limits import first_batch, python_seconds_per_clip, synthesize_sidecars
from tools.bench.link import BURST_SECONDS, Bucket
from tools.bench.storage import best_read_rate, drop_cache
from tools.bench.synthesize import synthesize


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    directory = tmp_path_factory.mktemp("reference")
    synthesize(directory, 24, samples_per_shard=10)
    return ShardDataset.open(directory)


def run_bench(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("mask", [[], ["--mask", "0.75"]])
def test_the_benchmark_ranks_the_loader_a_bare_loop_and_stock_webdataset(
    dataset: ShardDataset, tmp_path: Path, mask: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--seconds", "0.1", "--rounds", "1", "--threads", "2", "--batch-size", "8"]
    output = ["--json", str(tmp_path / "b.json"), "--png", str(tmp_path / "b.png")]
    extra = ["--against", "webdataset,memmap", "--verify", "never,first,always"]
    assert run_bench(str(dataset.directory), *mask, *quick, *output, *extra) == 0
    results = json.loads((tmp_path / "b.json").read_bytes())
    kinds = {name.split(" ")[0] for name in results["contenders"]}
    assert kinds == {"reelshard", "bare", "webdataset", "memmap"}
    ways = {
        way: results["contenders"][f"reelshard (mmap, verify {way}, 2 threads)"] for way in ("never", "first", "always")
    }
    assert ways["never"]["stats"]["num_checked"] == 0
    assert ways["first"]["stats"]["num_checked"] == 24  # each of its epochs is a first one
    assert ways["always"]["stats"]["num_checked"] == ways["always"]["stats"]["num_samples"]
    assert "--verify never,first,always" in results["command"]
    assert all(result["rate"] > 0 for result in results["contenders"].values())
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "memory copy" in printed
    assert "per GPU of 8" in printed


@pytest.mark.slow
def test_cold_runs_and_several_ranks_are_measured(dataset: ShardDataset, tmp_path: Path) -> None:
    quick = ["--seconds", "0.1", "--rounds", "1", "--threads", "2", "--batch-size", "4", "--cold", "--ranks", "2"]
    assert run_bench(str(dataset.directory), *quick, "--json", str(tmp_path / "b.json")) == 0
    results = json.loads((tmp_path / "b.json").read_bytes())
    assert results["storage_bytes_per_second"] > 0
    assert results["copy_clips_per_second"] > 0
    assert len(results["ranks"]) == 2


@pytest.mark.skipif(not WAYS, reason=NO_LIBRARY)
def test_a_set_elsewhere_is_measured_beside_bare_obstore_and_the_same_set_here(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("obstore", reason="the extra 's3' is not installed")
    arguments = ["--mask", "0.75", "--threads", "1", "--batch-size", "8", "--rounds", "1", "--remote"]
    assert run_bench(str(dataset.directory), *arguments, "--json", str(tmp_path / "found.json")) == 0
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert all(found[name] > 0 for name in ("bare", "kept", "cold", "warm", "local", "cold_of_bare", "warm_of_local"))
    assert found["amplification"] == pytest.approx(1, abs=0.01)  # two fields of a sample, with the headers between them
    assert found["requests_per_sample"] <= 1
    assert "24 samples from an HTTP server on this machine" in capsys.readouterr().out


@pytest.mark.skipif(not WAYS, reason=NO_LIBRARY)
def test_a_set_elsewhere_is_measured_behind_links_that_nobody_outruns(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("obstore", reason="the extra 's3' is not installed")
    arguments = ["--mask", "0.75", "--threads", "1", "--batch-size", "8", "--rounds", "1", "--remote"]
    arguments += ["--link", "150,300", "--latency", "2", "--json", str(tmp_path / "found.json")]
    assert run_bench(str(dataset.directory), *arguments) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(each["link_mb_per_second"], each["latency_milliseconds"]) for each in found] == [(150, 2), (300, 2)]
    for each in found:  # 87 MB, of which a burst is no more than 4 %
        assert 0 < max(each["bare"], each["kept"], each["cold"]) < 1.1e6 * each["link_mb_per_second"]
    printed = capsys.readouterr().out
    for rate in (150, 300):
        assert f"an HTTP server on this machine behind a link of {rate} MB/s with 2 ms of latency" in printed


def test_connections_share_a_link_evenly() -> None:
    bucket, taken, most = Bucket(50e6), [0, 0], 100

    def take(who: int) -> None:
        while max(taken) < most:
            bucket.take(bucket.slice_bytes)
            taken[who] += 1

    began = time.monotonic()
    threads = [threading.Thread(target=take, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.monotonic() - began
    assert sum(taken) * bucket.slice_bytes <= 50e6 * (passed + 2 * BURST_SECONDS)
    assert min(taken) > most // 2


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "", "250,", "fast", "1e9"])
def test_a_rate_that_no_link_has_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_bench("nowhere", "--remote", f"--link={given}")
    assert "is no number from 0.1 to 100000 of MB/s" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_bench("nowhere", "--remote", "--latency=nan")
    assert "is no number from 0 to 10000 of milliseconds" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--link", "250"], ["--latency", "0"]])
@pytest.mark.parametrize("where", [[], ["--remote", "s3://bucket/set"]])
def test_a_link_is_refused_where_nobody_would_keep_to_it(more: list[str], where: list[str]) -> None:
    with pytest.raises(ValueError, match="--link and --latency are kept by the server of --remote without URL"):
        run_bench("nowhere", *where, *more)


def test_every_way_to_copy_is_measured_on_pieces_whole_samples_and_plain_memory(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--json", str(tmp_path / "c.json")]
    assert run_bench(str(dataset.directory), "--copies", "--threads", "1,2", "--rounds", "1", *output) == 0
    measured = json.loads((tmp_path / "c.json").read_bytes())["copies"]
    sizes = {("clip", 12_288), ("clip", 2_408_448), ("target", 6_144), ("target", 1_204_224)}
    assert {(row["what"], row["piece_bytes"]) for row in measured} == {*sizes, ("plain memory", 64 << 20)}
    assert len(measured) == 5 * 2 * len(WAYS)
    assert all(row["bytes_per_second"] > 0 for row in measured)
    assert "copies on" in capsys.readouterr().out


def test_builds_with_a_teacher_are_measured_in_full_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "NUM_BUILD_CLIPS", 2)
    teacher = ["--teacher", str(save_backbone(tmp_path / "tiny")), "--device", "cpu"]
    output = ["--json", str(tmp_path / "b.json")]
    assert run_bench("--build", *teacher, "--threads", "2", "--rounds", "1", *output) == 0
    rates = {rate["what"]: rate for rate in json.loads((tmp_path / "b.json").read_bytes())}
    assert all(rate["per_second"] > 0 for rate in rates.values())
    assert "teacher, batches of 16" in rates
    build = rates.pop("whole build with teacher, 32 clips, processes")
    assert 0 < build["decode_wait_share"] < 1
    assert all(rate["decode_wait_share"] is None for rate in rates.values())
    assert "teacher waits" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--teacher", "x"], ["--device", "cpu"], ["--build", "--device", "cpu"]])
def test_a_teacher_is_measured_only_in_builds(tmp_path: Path, given: list[str]) -> None:
    with pytest.raises(ValueError, match="give `--build --teacher ID_OR_PATH`"):
        run_bench(str(tmp_path), *given)


def test_a_data_set_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    synthesize(tmp_path, 4, samples_per_shard=4)
    (tar,) = tmp_path.glob("*.tar")
    os.truncate(tar, tar.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"could not be read: .*cut off.*reelshard verify"):
        run_bench(str(tmp_path), "--seconds", "0.1", "--threads", "1", "--batch-size", "4")


def test_wrong_bytes_are_noticed(dataset: ShardDataset) -> None:
    checker = Checker(dataset)
    for case in (Case(batch_size=4), Case(batch_size=4, mask_ratio=0.75)):
        for batch in Reelshard(dataset, case, "mmap").epoch():
            assert isinstance(batch, Arrived)
            checker.check(batch)
            checker.check(replace(batch, samples=None))
            wrong = batch.clip.copy()
            wrong[1] = np.roll(wrong[1], 1, axis=0)  # one sample's tubes stand one place off
            with pytest.raises(AssertionError, match="wrong bytes"):
                checker.check(replace(batch, clip=wrong))
            with pytest.raises(AssertionError):
                checker.check(replace(batch, target=batch.target[:, :-1]))
            break


def test_wrong_bytes_are_noticed_while_the_clock_runs(dataset: ShardDataset) -> None:
    checker = Checker(dataset)

    class Wrong(Reelshard):
        def epoch(self) -> Iterator[Arrived | int]:
            for batch in super().epoch():
                assert isinstance(batch, Arrived)
                yield replace(batch, clip=np.roll(batch.clip, 1, axis=1))

    with pytest.raises(AssertionError, match="wrong bytes"):  # of the first epoch, every batch
        run_epoch(Wrong(dataset, Case(batch_size=4), "mmap"), checker)
    right, wrong = (kind(dataset, Case(batch_size=4), "mmap") for kind in (Reelshard, Wrong))
    for _ in range(20):
        run_epoch(right, checker, EVERY)

    def on_and_on() -> None:
        for _ in range(200):
            run_epoch(wrong, checker, EVERY)

    with pytest.raises(AssertionError, match="wrong bytes"):
        on_and_on()


def test_an_unknown_peer_and_an_impossible_batch_are_refused(
    dataset: ShardDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_bench(str(dataset.directory), "--against", "nobody")
    assert "nobody is not one of" in capsys.readouterr().err
    with pytest.raises(ValueError, match="do not fill one batch"):
        run_bench(str(dataset.directory), "--batch-size", "64")


def test_a_synthesized_set_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GB free"):
        synthesize(tmp_path, 10**9)


def test_dropping_the_cache_makes_reads_cold(dataset: ShardDataset) -> None:
    paths = [dataset.tar_path(shard) for shard in range(dataset.num_shards)]
    for path in paths:
        path.read_bytes()
    if resident_share(dataset) < 1 or file_system(dataset.directory) in ("tmpfs", "ramfs"):
        pytest.skip("the file system of temporary folders has no cache to drop, or does not say what is in it")
    drop_cache(paths)
    assert resident_share(dataset) < 0.2
    assert best_read_rate(paths)[0] > 0


@pytest.mark.slow
def test_a_million_samples_start_with_the_sidecars_of_their_first_batches_and_the_state_is_small(
    tmp_path: Path,
) -> None:
    synthesize_sidecars(tmp_path)
    limits = first_batch(tmp_path)
    assert limits["samples"] > 1_000_000
    assert limits["sidecars_read"] <= 2 * 32  # two slabs of 32 samples
    assert limits["state_bytes"] < 1000
    assert min(limits["first_batch_seconds"], limits["state_seconds"]) > 0


@pytest.mark.slow
def test_the_interpreters_share_is_measured() -> None:
    assert python_seconds_per_clip(Case(batch_size=32, mask_ratio=0.75)) > 0


def test_codecs_need_room_for_a_batch_beside_the_set(dataset: ShardDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in dataset.directory.parent.iterdir())
    nearly_full = shutil.disk_usage(dataset.directory)._replace(free=10**8)
    monkeypatch.setattr("tools.bench.codecs.shutil.disk_usage", lambda path: nearly_full)
    with pytest.raises(ValueError, match=r"0\.17 GB, and .* has 0\.10 GB free"):
        run_bench(str(dataset.directory), "--codecs", "--mask", "0.75", "--threads", "1", "--batch-size", "16")
    assert sorted(path.name for path in dataset.directory.parent.iterdir()) == before


def test_codecs_are_compared_on_the_same_samples(
    dataset: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--mask", "0.75", "--threads", "1", "--batch-size", "8", "--seconds", "0.01", "--rounds", "1"]
    output = ["--json", str(tmp_path / "codecs.json")]
    before = sorted(path.name for path in dataset.directory.parent.iterdir())
    assert run_bench(str(dataset.directory), "--codecs", *quick, *output) == 0
    found = {one["name"]: one for one in json.loads((tmp_path / "codecs.json").read_text())["codecs"]}
    assert {name: one["clip_bytes"] for name, one in found.items()} == {
        "raw": 1_505_280,
        "yuv420": 1_204_224,
        "int8": 1_063_104,
        "both": 762_048,
    }
    assert all(rate > 0 for one in found.values() for turns in one["turns"].values() for turn in turns for rate in turn)
    assert "1,818,880" in capsys.readouterr().out
    assert sorted(path.name for path in dataset.directory.parent.iterdir()) == before

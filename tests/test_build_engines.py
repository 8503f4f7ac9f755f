"""Whatever runs the workers, however many, the bytes are those of one process."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.builder import Partition, ProcessPool, Source, finalize_dataset
from shards.format.errors import MissingDataError, ShardError
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW, build, contents, descendants, make_teacher
from tests.teachers import MeanTeacher


@given(st.integers(1, 40), st.integers(0, 100))
def test_partitions_share_out_every_shard_exactly_once(count: int, num_shards: int) -> None:
    shares = [Partition(index, count).shards(num_shards) for index in range(count)]
    assert sorted(shard for share in shares for shard in share) == list(range(num_shards))


@pytest.mark.parametrize("text", ["", "3", "3/", "/3", "3/3", "-1/3", "0/0", "a/b", "1/2/3"])
def test_a_partition_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="partition is"):
        Partition.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_partitions_in_any_order_then_finalize_give_the_same_bytes(
    source: Source, tmp_path: Path, expected: dict[str, bytes], count: int
) -> None:
    for index in reversed(range(count)):
        summary = build(source, tmp_path, partition=Partition(index, count))
        assert summary.digest is None
        assert summary.num_samples + summary.num_failed == summary.num_planned
        assert not (tmp_path / "dataset.json").exists()
    summary = finalize_dataset(source, tmp_path, VIEW, CONFIG)
    assert (summary.num_planned, summary.num_samples, summary.num_failed) == (11, 10, 1)
    assert contents(tmp_path) == expected
    assert not verify_dataset(tmp_path).problems


def test_the_number_of_partitions_may_change_between_runs(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    build(source, tmp_path, partition=Partition(1, 3))
    for index in range(2):
        build(source, tmp_path, partition=Partition(index, 2))
    finalize_dataset(source, tmp_path, VIEW, CONFIG)
    assert contents(tmp_path) == expected


def test_finalize_says_which_shards_are_missing(source: Source, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no build was begun"):
        finalize_dataset(source, tmp_path, VIEW, CONFIG)
    build(source, tmp_path, partition=Partition(0, 2))
    with pytest.raises(ShardError, match=r"2 of 4 shards .* the first is train-00001-of-00004.tar"):
        finalize_dataset(source, tmp_path, VIEW, CONFIG)
    with pytest.raises(ShardError, match="samples_per_shard was 3, is now 4"):
        finalize_dataset(source, tmp_path, VIEW, replace(CONFIG, samples_per_shard=4))


def test_a_process_for_each_device_gives_the_same_bytes(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    counts = [0, 0]

    def progress(done: int, failed: int = 0) -> None:
        counts[0] += done
        counts[1] += failed

    with ProcessPool(["cpu:0", "cpu:1"], make_teacher) as pool:
        summary = build(source, tmp_path, engine=pool, progress=progress)
    assert contents(tmp_path) == expected
    assert counts == [summary.num_planned, summary.num_failed] == [11, 1]


def worker_processes() -> list[int]:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in sorted(descendants(os.getpid()))}
    return [pid for pid, command in commands.items() if "spawn_main" in command]


@pytest.mark.slow
def test_a_build_goes_on_when_a_worker_process_is_killed(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    killed: list[int] = []

    def progress(done: int, failed: int = 0) -> None:
        if not killed:
            killed.append(worker_processes()[0])
            os.kill(killed[0], signal.SIGKILL)

    with ProcessPool(["cpu:0", "cpu:1"], make_teacher) as pool:
        build(source, tmp_path, engine=pool, progress=progress)
    assert killed
    assert contents(tmp_path) == expected


def test_a_build_whose_workers_always_die_stops_and_says_so(source: Source, tmp_path: Path) -> None:
    def progress(done: int, failed: int = 0) -> None:
        os.kill(worker_processes()[0], signal.SIGKILL)

    with (
        ProcessPool(["cpu"], make_teacher) as pool,
        pytest.raises(ShardError, match="died 4 times"),
    ):
        build(source, tmp_path, engine=pool, progress=progress)


def different_teacher(device: str) -> MeanTeacher:
    return MeanTeacher(VIEW.clip_shape, version=int(device[-1]))


def failing_teacher(device: str) -> MeanTeacher:
    raise ValueError(f"there is no device {device}")


def test_devices_whose_teachers_differ_are_refused(source: Source, tmp_path: Path) -> None:
    with (
        ProcessPool(["cpu:0", "cpu:1"], different_teacher) as pool,
        pytest.raises(ShardError, match="teachers on cpu:0 and cpu:1 differ: version was 0, is now 1"),
    ):
        build(source, tmp_path, engine=pool)
    assert not contents(tmp_path)


def test_a_teacher_that_cannot_be_made_stops_the_build_with_its_message() -> None:
    with pytest.raises(ValueError, match="there is no device cuda:9"), ProcessPool(["cuda:9"], failing_teacher):
        pass


class BreakingTeacher(MeanTeacher):
    """Breaks at its second batch, as a device that runs out of memory does."""

    calls = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("out of memory")
        return super().__call__(clips)


def breaking_teacher(device: str) -> MeanTeacher:
    return BreakingTeacher(VIEW.clip_shape)


def test_a_worker_that_breaks_stops_the_build_with_its_device_and_is_started_again(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with ProcessPool(["cpu:0"], breaking_teacher) as pool:
        for _ in range(2):
            with pytest.raises(ShardError, match="the worker on cpu:0 stopped: RuntimeError: out of memory"):
                build(source, tmp_path, engine=pool)
    build(source, tmp_path)
    assert contents(tmp_path) == expected

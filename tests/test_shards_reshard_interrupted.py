"""Signals, kill -9 and a full disk while a data set is copied: what is finished stays, and the bytes are the same."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from shards.dataset import ShardDataset
from shards.exchange.reshard import Cut, plan_reshard
from shards.exchange.selection import Selection
from shards.format.errors import ShardError
from shards.verify import verify_dataset
from tests.builds import contents, start_python
from tests.datasets import add_lengths_group, make_dataset
from tools.cli import main

CUT = Cut(samples_per_shard=2)

# argv: source, out, samples after which to say so and wait
WAITING = """
import sys
from pathlib import Path
from shards.dataset import ShardDataset
from tests.test_shards_reshard_interrupted import copy
count = 0
def progress(done, failed=0):
    global count
    count += done
    if count == int(sys.argv[3]):
        print("here", flush=True)
        sys.stdin.readline()
copy(ShardDataset.open(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


def copy(source: ShardDataset, out: Path, **options: object) -> ShardDataset:
    plan_reshard(source, Selection(), CUT).run(out, threads=2, **options)  # type: ignore[arg-type]
    return ShardDataset.open(out)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return add_lengths_group(make_dataset(tmp_path_factory.mktemp("source"), num_samples=11))


@pytest.fixture(scope="module")
def expected(source: ShardDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(copy(source, tmp_path_factory.mktemp("expected")).directory)


def stopped(source: ShardDataset, out: Path, after: int, number: signal.Signals) -> tuple[int, str]:
    process = start_python(WAITING, source.directory, out, after)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("after", [1, 8, 17, 22])
def test_a_copy_that_was_killed_goes_on_with_the_same_bytes(
    source: ShardDataset, tmp_path: Path, expected: dict[str, bytes], after: int
) -> None:
    assert stopped(source, tmp_path, after, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (tmp_path / "dataset.json").exists()
    kept = {path: path.stat().st_ino for path in tmp_path.glob("*.idx")}
    copy(source, tmp_path)
    assert contents(tmp_path) == expected
    assert {path: path.stat().st_ino for path in kept} == kept


def test_ctrl_c_says_what_is_kept_and_leaves_no_part_of_a_shard(
    source: ShardDataset, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    status, errors = stopped(source, tmp_path, 9, signal.SIGINT)
    assert status == -signal.SIGINT
    finished = len(list(tmp_path.glob("*.idx")))
    assert f"{finished} of 12 shards are finished and kept, {12 - finished} remain" in errors
    assert not list(tmp_path.glob("*.tmp"))
    copy(source, tmp_path)
    assert contents(tmp_path) == expected


def test_a_full_disk_stops_the_copy_which_goes_on_when_there_is_room(
    source: ShardDataset, small_disk: Path, expected: dict[str, bytes]
) -> None:
    with pytest.raises(ShardError, match=r"no room is left on the disk: \d+ of 12 shards are finished and kept"):
        copy(source, small_disk)
    assert not list(small_disk.glob("*.tmp"))
    assert not (small_disk / "dataset.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    copy(source, small_disk)
    assert contents(small_disk) == expected


def test_the_source_may_not_change_under_a_copy_that_was_begun(source: ShardDataset, tmp_path: Path) -> None:
    stopped(source, tmp_path, 9, signal.SIGKILL)
    other = make_dataset(tmp_path.with_name(f"{tmp_path.name}-other"), num_samples=12)
    before = contents(tmp_path)
    with pytest.raises(ShardError, match="was begun with other samples or settings"):
        copy(other, tmp_path)
    assert contents(tmp_path) == before


def test_a_shard_that_lost_its_tail_is_written_again(
    source: ShardDataset, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    stopped(source, tmp_path, 22, signal.SIGKILL)
    tar = next(path for path in sorted(tmp_path.glob("*.tar")) if path.with_suffix(".idx").exists())
    os.truncate(tar, 1000)
    copy(source, tmp_path)
    assert contents(tmp_path) == expected
    assert verify_dataset(tmp_path).problems == ()


COMMAND = """
import sys
from tools.cli import main
from tools.signals import answer_signals
answer_signals()
sys.exit(main(["reshard", sys.argv[1], "--out", sys.argv[2], "--samples-per-shard", "2"]))
"""


def test_the_command_ends_in_one_line_and_status_130_wherever_ctrl_c_strikes(
    source: ShardDataset, tmp_path: Path
) -> None:
    process = start_python(COMMAND, source.directory, tmp_path / "out")
    while not (tmp_path / "out").exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if not line.startswith("resharding: ")]
    assert process.returncode in (0, 130, -signal.SIGINT)  # it may have been done by then, or all but gone
    assert len(lines) == (process.returncode == 130), errors
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert main(["reshard", str(source.directory), "--out", str(tmp_path / "out"), "--samples-per-shard", "2"]) == 0
    assert verify_dataset(tmp_path / "out").problems == ()

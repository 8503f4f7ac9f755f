"""Signals, a full disk, a second builder: what is finished stays, and the next run ends with the same bytes."""

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.builder import Partition, Source
from shards.builder.lock import build_lock
from shards.format.errors import ShardError
from tests.builds import build, contents, start_python

# argv: videos, out, items after which to say so and wait
WAITING_BUILDER = """
import sys
from pathlib import Path
from shards.builder import load_folder
from tests.builds import build
items = 0
def progress(done, failed):
    global items
    items += done
    if items == int(sys.argv[3]):
        print("here", flush=True)
        sys.stdin.readline()
build(load_folder(Path(sys.argv[1])), Path(sys.argv[2]), progress=progress)
"""


RUNNING_BUILDER = """
import sys
from pathlib import Path
from shards.builder import load_folder
from tests.builds import build
print("here", flush=True)
build(load_folder(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("last_item", [1, 8])
def test_ctrl_c_drops_the_shard_in_hand_and_says_what_remains(
    source: Source, tmp_path: Path, expected: dict[str, bytes], last_item: int
) -> None:
    with start_python(WAITING_BUILDER, source.root, tmp_path, last_item) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        builder.send_signal(signal.SIGINT)
        _, errors = builder.communicate(timeout=60)
    assert builder.returncode == -signal.SIGINT
    finished = len(list(tmp_path.glob("*.idx")))
    assert finished < 4
    assert f"{finished} of 4 shards are finished and kept, {4 - finished} remain" in errors
    assert not list(tmp_path.glob("*.tmp"))
    assert build(source, tmp_path).num_resumed == sum((3, 3, 3, 2)[:finished])
    assert contents(tmp_path) == expected


def test_a_second_builder_is_told_who_is_building(source: Source, tmp_path: Path, expected: dict[str, bytes]) -> None:
    with start_python(WAITING_BUILDER, source.root, tmp_path, 2) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        with pytest.raises(ShardError, match=rf"another process \(pid {builder.pid} on .*\) is building"):
            build(source, tmp_path)
        with pytest.raises(ShardError, match="is building"):
            build(source, tmp_path, partition=Partition(0, 2))
        builder.communicate("\n", timeout=60)
    assert contents(tmp_path) == expected


def test_the_lock_of_a_killed_builder_is_no_lock(source: Source, tmp_path: Path, expected: dict[str, bytes]) -> None:
    with start_python(WAITING_BUILDER, source.root, tmp_path, 2) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        builder.kill()
        builder.communicate(timeout=60)
    assert (tmp_path / ".build" / "lock").exists()
    build(source, tmp_path)
    assert contents(tmp_path) == expected


POOL_BUILDER = """
import sys
from dataclasses import replace
from pathlib import Path
from shards.builder import ProcessPool, load_folder
from tests.builds import CONFIG, build, make_teacher
def progress(done, failed):
    print("here", flush=True)
    sys.stdin.readline()
with ProcessPool(["cpu:0", "cpu:1"], make_teacher) as pool:
    config = replace(CONFIG, time_limit_seconds=60.0)
    build(load_folder(Path(sys.argv[1])), Path(sys.argv[2]), engine=pool, config=config, progress=progress)
"""


def helpers_of(pid: int) -> list[int]:
    """Worker and decoder processes below a builder."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [helper for child in children for helper in (child, *helpers_of(child))]


@pytest.mark.slow
def test_a_killed_builder_leaves_no_process_behind_and_resumes(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with start_python(POOL_BUILDER, source.root, tmp_path) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        helpers = [os.pidfd_open(pid) for pid in helpers_of(builder.pid)]
        assert len(helpers) >= 4
        builder.kill()
        builder.wait(60)
        for helper in helpers:
            assert select.select([helper], [], [], 60)[0], "a helper process outlived its builder"
            os.close(helper)
    build(source, tmp_path)
    assert contents(tmp_path) == expected


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1.2))
def test_a_build_killed_at_any_moment_ends_with_the_same_bytes(
    source: Source, tmp_path_factory: pytest.TempPathFactory, expected: dict[str, bytes], seconds: float
) -> None:
    out = tmp_path_factory.mktemp("killed")
    with start_python(RUNNING_BUILDER, source.root, out) as builder:
        assert builder.stdout is not None
        builder.stdout.readline()  # imports are over
        with contextlib.suppress(subprocess.TimeoutExpired):
            builder.wait(seconds)
        builder.kill()
        builder.communicate()
    build(source, out)
    assert contents(out) == expected


def test_partitions_build_side_by_side_but_each_only_once(tmp_path: Path) -> None:
    with build_lock(tmp_path, Partition(0, 2)) as first:
        with build_lock(tmp_path, Partition(1, 2)) as second:
            assert (first, second) == (True, False)
        with pytest.raises(ShardError, match="partition 0/2"), build_lock(tmp_path, Partition(0, 2)):
            pass
        with pytest.raises(ShardError, match="is building"), build_lock(tmp_path):
            pass
    with build_lock(tmp_path):
        pass


def test_a_full_disk_stops_the_build_which_goes_on_when_there_is_room(
    source: Source, small_disk: Path, expected: dict[str, bytes]
) -> None:
    with pytest.raises(
        ShardError, match=r"no room is left on the disk: \d of 4 shards are finished and kept, \d remain"
    ):
        build(source, small_disk)
    assert not list(small_disk.glob("*.tmp"))
    assert 1 <= len(list(small_disk.glob("*.idx"))) < 4
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert build(source, small_disk).num_resumed >= 3
    assert contents(small_disk) == expected

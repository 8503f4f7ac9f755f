"""SA-V built on several devices, in parts, and after kills: the same bytes as in one go."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shards import verify_dataset
from shards.builder import Partition, ProcessPool, SavKind, build_dataset, finalize_dataset, load_sav
from shards.content import check_content
from shards.dataset import ShardDataset
from tests.builds import contents, start_python
from tests.sav_sets import CONFIG, VIEW, build_sav, load_teacher, write_teacher, write_train

LENGTHS = [41, 49, 57, 45, 61, 53]
# argv: root, out, teacher, items after which to say so and wait
WAITING_BUILDER = """
import sys
from pathlib import Path
from tests.sav_sets import build_sav
items = 0
def progress(done, failed):
    global items
    items += done
    if items == int(sys.argv[4]):
        print("here", flush=True)
        sys.stdin.readline()
root, out, teacher = map(Path, sys.argv[1:4])
build_sav(root, out, teacher, progress=progress)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sav")
    write_train(root, LENGTHS)
    write_teacher(root / "teacher")
    return root


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, bytes]:
    build_sav(root, root / "set", root / "teacher")
    return contents(root / "set")


def test_a_build_is_repeated_to_the_byte_and_sound(root: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    dataset = build_sav(root, tmp_path, root / "teacher")
    assert contents(tmp_path) == expected
    assert not verify_dataset(tmp_path).problems
    report = check_content(dataset)
    assert (report.num_samples, report.problems) == (len(LENGTHS), ())
    assert report.num_frames == sum(-(-length // 4) for length in LENGTHS)


@pytest.mark.parametrize("count", [2, 3])
def test_partitions_in_any_order_then_finalize_give_the_same_bytes(
    root: Path, expected: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    source, teacher = load_sav(root, "train"), load_teacher(root / "teacher")
    plan: dict[str, Any] = {"kind": SavKind(view=VIEW), "config": CONFIG}
    for index in reversed(range(count)):
        build_dataset(source, tmp_path, teacher=teacher, partition=Partition(index, count), **plan)
    finalize_dataset(source, tmp_path, **plan)
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_a_teacher_for_each_device_gives_the_same_bytes(root: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    with ProcessPool(["cpu:0", "cpu:1"], partial(load_teacher, root / "teacher")) as pool:
        build_sav(root, tmp_path, None, engine=pool)
    assert contents(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("last_item", [1, 4])
def test_a_build_that_was_killed_goes_on_to_the_same_bytes(
    root: Path, expected: dict[str, bytes], tmp_path: Path, last_item: int
) -> None:
    with start_python(WAITING_BUILDER, root, tmp_path, root / "teacher", last_item) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        builder.kill()
        builder.communicate(timeout=60)
    assert not (tmp_path / "dataset.json").exists()
    build_sav(root, tmp_path, root / "teacher")
    assert contents(tmp_path) == expected


def test_decoders_in_processes_give_the_same_bytes(root: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    build_sav(root, tmp_path, root / "teacher", config=replace(CONFIG, time_limit_seconds=60.0))
    found = contents(tmp_path)
    assert {name: data for name, data in found.items() if not name.endswith(".json")} == {
        name: data for name, data in expected.items() if not name.endswith(".json")
    }
    assert ShardDataset.open(tmp_path).digest == ShardDataset.open(root / "set").digest

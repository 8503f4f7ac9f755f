"""Sidecars and tars of rows and packed pieces that lie, with digests that fit: found, each by one clean error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shards.adopt import index_directory
from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ManifestError, ShardError
from shards.format.index import index_path
from shards.format.packed import pack_pieces, read_borders, table_bytes
from shards.verify import verify_dataset
from tests.damages import ALL_COLUMNS, HUGE, Record, as_u64, change_tar, put, write_manifest, write_sidecar
from tests.datasets import damage, make_dataset, make_lengths_dataset

FEATURES, FRAMES, TIMES, JSON = range(4)


def in_field(number: int, **values: Any) -> Callable[[Record], object]:
    """A change of one field's record in a sidecar."""
    return lambda body: body["fields"][number].update(values)


SIDECARS: dict[str, Callable[[Record], object]] = {
    "more pieces than bytes": in_field(FRAMES, pieces=as_u64([1000] * 4)),
    "pieces beyond what a table counts": in_field(FRAMES, pieces=as_u64([2**32] * 4)),
    "pieces that wrap around": in_field(FRAMES, pieces=as_u64([2**64 - 1] * 4)),
    "pieces are text": in_field(FRAMES, pieces="x" * 32),
    "pieces are a number": in_field(FRAMES, pieces=4),
    "pieces are cut": in_field(FRAMES, pieces=b"1234567"),
    "pieces of fewer samples": in_field(FRAMES, pieces=as_u64([0] * 3)),
    "pieces of more samples": in_field(FRAMES, pieces=as_u64([0] * 5)),
    "no pieces": lambda body: body["fields"][FRAMES].pop("pieces"),
    "pieces of rows": in_field(FEATURES, pieces=as_u64([0] * 4)),
    "pieces of bytes": in_field(JSON, pieces=as_u64([0] * 4)),
    "payloads too small for a table": in_field(FRAMES, sizes=as_u64([3] * 4), pieces=as_u64([0] * 4)),
    "sizes beyond the file": in_field(FRAMES, sizes=as_u64([2**63] * 4), pieces=as_u64([2**31] * 4)),
    "sizes that are no whole rows": in_field(FEATURES, sizes=as_u64([13] * 4)),
    "rows beyond the file": in_field(FEATURES, sizes=as_u64([12 * 10**9] * 4)),
    "rows that wrap around": in_field(FEATURES, sizes=as_u64([2**64 - 4] * 4)),
    "two open lengths": in_field(FEATURES, shape=[None, None, 2]),
    "an open length at the end": in_field(FEATURES, shape=[3, None]),
    "a negative length in a row": in_field(FEATURES, shape=[None, -3]),
    "an empty row": in_field(FEATURES, shape=[None, 0]),
    "a huge row": in_field(FEATURES, shape=[None, 2**40, 2**40]),
    "an open length of true": in_field(FEATURES, shape=[True, 3, 2]),
    "rows without a dtype": in_field(FEATURES, dtype=None),
    "rows in tubes": in_field(FEATURES, layout="tubes"),
    "packed rows": in_field(FEATURES, layout="packed"),
    "pieces that are plain bytes": in_field(FRAMES, layout="plain"),
    "bytes that are packed": in_field(JSON, layout="packed"),
    **{f"{name} are empty": in_field(FRAMES, **{name: b""}) for name in ALL_COLUMNS},
}


@pytest.mark.parametrize("change", SIDECARS.values(), ids=SIDECARS.keys())
def test_a_sidecar_that_lies_of_lengths_is_one_problem_and_the_other_shards_are_verified(
    tmp_path: Path, change: Callable[[Record], object]
) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=8, samples_per_shard=4)
    write_sidecar(index_path(dataset.tar_path(0)), change)
    damage(dataset, 5, "features")
    first, second = verify_dataset(tmp_path).problems
    assert "train-00000-of-00002" in first
    assert "key 000005, field features" in second
    again = ShardDataset.open(tmp_path)
    for read in (lambda: again.lengths("frames"), lambda: again[0], lambda: again.read_run(0, "features", 0, 1)):
        with pytest.raises(DamagedShardError, match="train-00000-of-00002"):
            read()


@pytest.mark.parametrize("found", [0, 1, 3, -1, HUGE, True, "2", None, 2.0])
def test_a_file_of_lengths_that_says_another_format_is_refused(tmp_path: Path, found: Any) -> None:
    dataset = make_lengths_dataset(tmp_path)
    path = index_path(dataset.tar_path(0))
    outer = msgpack.unpackb(path.read_bytes())
    if found != HUGE:  # msgpack holds no such number
        path.write_bytes(msgpack.packb({**outer, "format": found}))
        with pytest.raises(DamagedShardError, match="format"):
            ShardDataset.open(tmp_path)[0]
    write_manifest(tmp_path, lambda record: record.update(format=found))
    with pytest.raises(ManifestError, match="format"):
        ShardDataset.open(tmp_path)


def test_a_file_without_lengths_that_says_format_2_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=2)
    outer = msgpack.unpackb(index_path(dataset.tar_path(0)).read_bytes())
    index_path(dataset.tar_path(0)).write_bytes(msgpack.packb({**outer, "format": 2}))
    with pytest.raises(DamagedShardError, match="says format 2, its fields are those of format 1"):
        ShardDataset.open(tmp_path)[0]
    write_manifest(tmp_path, lambda record: record.update(format=2))
    with pytest.raises(ManifestError, match="says format 2, its fields are those of format 1"):
        ShardDataset.open(tmp_path)


def test_verify_compares_the_npy_header_of_rows_with_their_size(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=4)
    start = int(dataset.extents(0, "features").offsets[1]) - 4096

    def change(data: bytearray) -> None:
        assert b"(5, 3, 2)" in data[start : start + 4096]
        data[start : start + 4096] = data[start : start + 4096].replace(b"(5, 3, 2)", b"(4, 3, 2)")

    change_tar(tmp_path, dataset.tar_path(0).name, change)
    (problem,) = verify_dataset(tmp_path).problems
    assert "key 000001, field features" in problem
    assert "(4, 3, 2), the sidecar <f2 (5, 3, 2)" in problem


TABLES: dict[str, tuple[bytes, str]] = {
    "counts fewer": (np.array(2, "<u4").tobytes(), "its table counts 2 pieces, the sidecar 3"),
    "counts more than there are bytes": (np.array(2**32 - 1, "<u4").tobytes(), "its table counts 4294967295 pieces"),
    "ends fall": (np.array(3, "<u4").tobytes() + as_u64([9, 0, 27]), "does not describe the 27 bytes"),
    "ends lie beyond": (np.array(3, "<u4").tobytes() + as_u64([0, 2**64 - 1, 27]), "does not describe"),
    "ends are short": (np.array(3, "<u4").tobytes() + as_u64([0, 9, 26]), "does not describe"),
}


@pytest.mark.parametrize(("table", "message"), TABLES.values(), ids=TABLES.keys())
def test_a_table_of_pieces_that_lies_is_found_by_verify_and_by_every_reader(
    tmp_path: Path, table: bytes, message: str
) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=4)
    extents = dataset.extents(0, "frames")
    start, size = int(extents.offsets[3]), int(extents.sizes[3])

    def change(data: bytearray) -> None:
        data[start : start + len(table)] = table
        checksums = [*extents.checksums.tolist()[:3], xxhash.xxh3_64_intdigest(data[start : start + size])]
        write_sidecar(index_path(dataset.tar_path(0)), in_field(FRAMES, checksums=as_u64(checksums)))

    change_tar(tmp_path, dataset.tar_path(0).name, change)
    (problem,) = verify_dataset(tmp_path).problems
    assert "key 000003, field frames" in problem
    assert message in problem
    again = ShardDataset.open(tmp_path)
    for read in (lambda: again[3], lambda: again.read_run(3, "frames", 2, 3)):
        with pytest.raises(DamagedShardError, match=message):
            read()
    index_path(dataset.tar_path(0)).unlink()
    with pytest.raises(DamagedShardError, match=r"key 000003, field frames: .*(pieces|table)"):
        index_directory(tmp_path)


def test_a_sidecar_that_counts_other_pieces_than_the_tar_is_found(tmp_path: Path) -> None:
    dataset = make_lengths_dataset(tmp_path, num_samples=4)
    write_sidecar(index_path(dataset.tar_path(0)), in_field(FRAMES, pieces=as_u64([0, 1, 2, 2])))
    (problem,) = verify_dataset(tmp_path).problems
    assert "key 000003, field frames" in problem
    assert "its table counts 3 pieces, the sidecar 2" in problem


@given(
    pieces=st.lists(st.binary(max_size=20), max_size=6),
    size=st.integers(-1, 2**64),
    count=st.integers(-1, 2**33),
    flip=st.tuples(st.integers(0, 60), st.integers(1, 255)),
)
def test_borders_are_refused_or_lie_in_order_inside_the_payload(
    pieces: list[bytes], size: int, count: int, flip: tuple[int, int]
) -> None:
    data = bytearray(pack_pieces(pieces))
    data[flip[0] % len(data)] ^= flip[1]
    for num_bytes, num_pieces in ((len(data), len(pieces)), (size, len(pieces)), (len(data), count), (size, count)):
        try:
            borders = read_borders(bytes(data), num_bytes, num_pieces).tolist()
        except ValueError:
            continue
        assert borders == sorted(borders)
        assert (borders[0], borders[-1], len(borders)) == (table_bytes(num_pieces), num_bytes, num_pieces + 1)


def test_a_plan_whose_targets_are_rows_is_damaged(tmp_path: Path) -> None:
    from shards.builder.plan import recorded_teacher

    golden = Path(__file__).parent / "golden/before_rooms/set/plan.json"
    plan = json.loads(golden.read_bytes())
    place = [field["name"] for field in plan["schema"]].index("target")
    assert recorded_teacher(golden.parent) is not None
    for path, value in ((("shape",), [None, 4]), (("dtype",), None)):
        put(plan["schema"][place], path, value)
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        with pytest.raises(ShardError, match="is damaged"):
            recorded_teacher(tmp_path)

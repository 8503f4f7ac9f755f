"""Sidecars, `.npy` headers and files that lie, with digests that fit: one problem each, and the rest is checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shards.dataset import ShardDataset
from shards.format.errors import DamagedShardError, ShardError
from shards.format.index import index_path
from shards.format.npy import parse_header
from shards.format.schema import Field
from shards.verify import verify_dataset
from tests.damages import COLUMNS, HUGE, Record, as_u64, deep, put, write_manifest, write_sidecar
from tests.datasets import make_dataset


def in_field(number: int, **values: Any) -> Callable[[Record], object]:
    """A change of one field's record in a sidecar."""
    return lambda body: body["fields"][number].update(values)


def without(column: str) -> Callable[[Record], object]:
    return lambda body: body["fields"][0].pop(column)


SIDECARS: dict[str, Callable[[Record], object]] = {
    "no fields": lambda body: body.update(fields=[]),
    "fields are text": lambda body: body.update(fields="clip"),
    "a field is a number": lambda body: body["fields"].append(7),
    "keys are text": lambda body: body.update(keys="a\nb"),
    "keys are not UTF-8": lambda body: body.update(keys=b"\xff\xfe"),
    "a key too many": lambda body: body.update(keys=body["keys"] + b"\nx"),
    "an empty key": lambda body: body.update(keys=b"\n" + body["keys"].partition(b"\n")[2]),
    "a key with a path": lambda body: body.update(keys=b"../x\n" + body["keys"].partition(b"\n")[2]),
    "a key that acts on a terminal": lambda body: body.update(keys=b"\x1b[2J\n" + body["keys"].partition(b"\n")[2]),
    "samples are huge": lambda body: body["shard"].update(samples=2**63),
    "samples are negative": lambda body: body["shard"].update(samples=-1),
    "bytes are text": lambda body: body["shard"].update(bytes="many"),
    "the digest is a list": lambda body: body["shard"].update(digest=[1]),
    "the name is another file's": lambda body: body["shard"].update(name="/etc/passwd"),
    "nesting": lambda body: body.update(fields=deep(200)),
    "more nesting": lambda body: body.update(shard=deep(400)),
    "a shape of text": in_field(0, shape="wide"),
    "a shape of huge lengths": in_field(0, shape=[2**40, 2**40]),
    "a negative length": in_field(0, shape=[-4]),
    "a dtype of objects": in_field(0, dtype="|O"),
    "no dtype at all": in_field(0, dtype="<f3"),
    "an unknown column": in_field(0, more=b""),
    "two groups": in_field(0, group="other"),
    **{f"{name} are text": in_field(0, **{name: "x" * 48}) for name in COLUMNS},
    **{f"{name} are cut": in_field(0, **{name: b"1234567"}) for name in COLUMNS},
    **{f"{name} are short": in_field(0, **{name: b"x" * 8}) for name in COLUMNS},
    **{f"{name} are gone": without(name) for name in COLUMNS},
    "offsets beyond the file": in_field(0, offsets=as_u64([10**9] * 4)),
    "offsets that wrap around": in_field(0, offsets=as_u64([2**64 - 1] * 4)),
    "ragged sizes beyond the file": in_field(2, sizes=as_u64([2**64 - 1] * 4)),
}


@pytest.mark.parametrize("change", SIDECARS.values(), ids=SIDECARS.keys())
def test_a_sidecar_that_lies_is_one_problem_and_the_other_shards_are_verified(
    tmp_path: Path, change: Callable[[Record], object]
) -> None:
    dataset = make_dataset(tmp_path, num_samples=8, samples_per_shard=4)
    write_sidecar(index_path(dataset.tar_path(0)), change)
    damage = bytearray(dataset.tar_path(1).read_bytes())
    damage[int(dataset.extents(1, "target").offsets[1])] ^= 1
    dataset.tar_path(1).write_bytes(damage)
    first, second = verify_dataset(tmp_path).problems
    assert "train-00000-of-00002" in first
    assert "key 000005, field target" in second
    with pytest.raises(DamagedShardError):
        ShardDataset.open(tmp_path)[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x80",
        b"\xc0",
        b"{}",
    ],
)
def test_bytes_that_are_no_sidecar_are_refused(tmp_path: Path, data: bytes) -> None:
    dataset = make_dataset(tmp_path, num_samples=2)
    index_path(dataset.tar_path(0)).write_bytes(data)
    with pytest.raises(DamagedShardError, match="not a readable sidecar"):
        ShardDataset.open(tmp_path)[0]


def test_a_sidecar_whose_checksums_or_rows_were_changed_is_found_though_the_tar_is_whole(tmp_path: Path) -> None:
    def swap(body: Record) -> None:
        for name in COLUMNS:
            column = body["fields"][0][name]
            body["fields"][0][name] = column[8:16] + column[:8] + column[16:]

    dataset = make_dataset(tmp_path, num_samples=8, samples_per_shard=4)
    write_sidecar(index_path(dataset.tar_path(0)), swap)
    write_sidecar(index_path(dataset.tar_path(1)), in_field(1, checksums=as_u64([1, 2, 3, 4])))
    problems = verify_dataset(tmp_path).problems
    assert sum("where the sidecar says it is" in problem for problem in problems) == 2
    assert sum("field target" in problem and "checksum is wrong" in problem for problem in problems) == 4


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HUGE},)}}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': 7, 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [('a', [[[[]]]])], 'fortran_order': False, 'shape': (3,)}",
        "{'descr': 'a5', 'fortran_order': False, 'shape': (3,)}",
        "[" * 5000,
        "-" * 9000 + "1",
        "(" * 9000,
        "1234567",
        "{1: 2}",
        "{'shape': (3,)}",
    ],
)
def test_an_npy_header_that_lies_is_refused(header: str) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(ValueError, match=r"\.npy header"):
        parse_header(data)


def test_an_array_larger_than_any_disk_is_no_field() -> None:
    with pytest.raises(ValueError, match="too many"):
        Field(name="x", dtype="<f4", shape=(2**40, 2**40))


def test_a_sidecar_that_lists_a_sample_twice_is_found(tmp_path: Path) -> None:
    def repeat(body: Record) -> None:
        body["keys"] += b"\n" + body["keys"].rpartition(b"\n")[2]
        body["shard"]["samples"] += 1
        for field in body["fields"]:
            field.update({name: field[name] + field[name][-8:] for name in COLUMNS})

    dataset = make_dataset(tmp_path, num_samples=3)
    write_sidecar(index_path(dataset.tar_path(0)), repeat)
    write_manifest(tmp_path, partial(put, path=("shards", 0, "samples"), value=4))
    assert any("a key is there twice" in problem for problem in verify_dataset(tmp_path).problems)


def test_an_npy_header_of_gigabytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 10000"):
        parse_header(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{}")


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_never_waited_for(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=8, samples_per_shard=4)
    for path in (dataset.tar_path(0), index_path(dataset.tar_path(1))):
        path.unlink()
        os.mkfifo(path)
    assert [("is not a file" in problem) for problem in verify_dataset(tmp_path).problems] == [True, True]
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "dataset.json").symlink_to("/dev/zero")
    with pytest.raises(ShardError, match="is not a file"):
        ShardDataset.open(tmp_path)

"""Manifests, sidecars and what lies beside them, changed by somebody who computed all digests anew: one error each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.build import Source, ViewSpec, finalize_dataset
from shards.build.plan import make_plan
from shards.dataset import ShardDataset
from shards.errors import DamagedShardError, ManifestError, MissingDataError, ShardError
from shards.index import ShardInfo, index_path
from shards.manifest import Manifest, shard_name
from shards.npy import parse_header
from shards.parse import check_name, parse_json
from shards.schema import Field
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW, build
from tests.damages import COLUMNS, HUGE, VALUES, Record, as_u64, deep, paths_in, put, write_manifest, write_sidecar
from tests.datasets import make_dataset

NAMES = [
    "",
    ".",
    "..",
    "../esc",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\nb",
    "a\x1b[2Jb",
    "a\0b",
    ".hidden",
    "a\u202eb",
    "x" * 201,
]


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_name_that_leaves_its_folder_hides_or_acts_on_a_terminal_is_refused_everywhere(
        self, tmp_path: Path, name: str, source: Source
    ) -> None:
        with pytest.raises(ValueError, match="is not allowed"):
            check_name(name, "a name")
        with pytest.raises(ValueError, match="a shard's name"):
            ShardInfo(f"{name}/x.tar" if name == "" else name, 0, 1024, "0" * 32)
        with pytest.raises(ValueError, match="the split's name"):
            make_plan(source, VIEW, CONFIG, split=name)
        if name:
            with pytest.raises(ValueError, match="the group's name"):
                Field(name="x", group=name)
        make_dataset(tmp_path, num_samples=2)
        for change in (
            lambda record: record.update(split=name),
            lambda record: record["shards"][0].update(name=f"{name}.tar" if name not in (".hidden", "") else "/x.tar"),
            lambda record: record["schema"][0].update(group=name or "../x"),
        ):
            copy = json.loads((tmp_path / "dataset.json").read_bytes())
            write_manifest(tmp_path, change)
            with pytest.raises(ManifestError):
                ShardDataset.open(tmp_path)
            (tmp_path / "dataset.json").write_text(json.dumps(copy))

    @pytest.mark.parametrize("name", ["train", "v1.0", "etwas größer", "a-b_c", "验证"])
    def test_any_other_name_is_a_name(self, tmp_path: Path, name: str) -> None:
        make_dataset(tmp_path, num_samples=2, split=name)
        assert ShardDataset.open(tmp_path).manifest.split == name
        assert (tmp_path / shard_name(name, 0, 1)).exists()

    def test_a_file_outside_of_the_folder_is_never_opened_as_a_shard(self, tmp_path: Path) -> None:
        make_dataset(tmp_path / "set", num_samples=2)
        make_dataset(tmp_path / "other", num_samples=2)
        for name in ("../other/train-00000-of-00001.tar", "/etc/passwd", str(tmp_path / "other" / "x.tar"), "passwd"):
            write_manifest(tmp_path / "set", partial(put, path=("shards", 0, "name"), value=name))
            with pytest.raises(ManifestError, match="a shard's name"):
                ShardDataset.open(tmp_path / "set")


def test_whatever_stands_anywhere_in_a_manifest_is_read_or_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=3, samples_per_shard=2)
    manifest = replace(dataset.manifest, provenance={"view": {"hash": "x"}, "groups": {}}, failures={"truncated": 2})
    manifest.write(tmp_path)
    original = (tmp_path / "dataset.json").read_bytes()
    refusals = []
    for path in paths_in(manifest.to_json())[1:]:
        for value in VALUES:
            write_manifest(tmp_path, partial(put, path=path, value=value))
            try:
                ShardDataset.open(tmp_path)
                verify_dataset(tmp_path)
            except ShardError as error:
                refusals.append(str(error))
            (tmp_path / "dataset.json").write_bytes(original)
    assert len(refusals) > 400
    assert max(map(len, refusals)) < 500


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"format": NaN}', '{"format": 1e999}', "9" * 5000, "[]", "null", "", "{", '{"format": "\\ud800"}'],
)
def test_a_manifest_that_is_none_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ManifestError, match="is damaged"):
        ShardDataset.open(tmp_path)


def test_a_manifest_that_promises_more_samples_than_its_bytes_can_hold_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    write_manifest(tmp_path, lambda record: record["shards"][0].update(samples=10**12))
    with pytest.raises(ManifestError, match="cannot hold 1000000000000 samples"):
        ShardDataset.open(tmp_path)
    write_manifest(tmp_path, lambda record: record["shards"][0].update(samples=2**40, bytes=2**49))
    with pytest.raises(ManifestError, match="at most 4294967296 samples"):
        ShardDataset.open(tmp_path)


def test_a_shard_whose_fields_differ_is_named_by_the_fields_not_by_the_whole_schema(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    write_manifest(tmp_path, lambda record: record["schema"][1].update(dtype="<i2"))
    with pytest.raises(ManifestError, match=r"its sidecar and the manifest differ in target$"):
        ShardDataset.open(tmp_path).read(0, "clip")


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


@pytest.mark.parametrize("text", ["{", "[]", "7", '"x"', "[" * 100_000, '{"a": NaN}', "\udcff"])
def test_a_json_member_that_is_no_object_names_its_sample(tmp_path: Path, text: str) -> None:
    from shards.writer import ShardWriter
    from tests.datasets import tubes_sample, tubes_schema

    schema = tubes_schema()
    with ShardWriter(tmp_path / "train-00000-of-00001.tar", schema) as writer:
        writer.write("one", {**tubes_sample(0), "json": text.encode("utf-8", "surrogateescape")})
    Manifest(split="train", schema=schema, shards=(writer.info,)).write(tmp_path)
    with pytest.raises(ShardError, match="sample one: its JSON cannot be read"):
        ShardDataset.open(tmp_path).metadata(0)


def test_json_is_read_up_to_64_levels_deep() -> None:
    assert parse_json(json.dumps(deep(62)).encode()) == deep(62)
    with pytest.raises(ValueError, match="more than 64 levels"):
        parse_json(json.dumps(deep(64)).encode())


class TestBeside:
    def test_a_sound_build_has_no_problems_and_may_be_copied_without_its_plan(
        self, source: Source, tmp_path: Path
    ) -> None:
        build(source, tmp_path)
        assert verify_dataset(tmp_path).problems == ()
        (tmp_path / "plan.json").unlink()
        assert verify_dataset(tmp_path).problems == ()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda plan: plan.update(split="test"), "split differs"),
            (lambda plan: plan["schema"].pop(), "schema differs"),
            (lambda plan: plan.update(label_names="0" * 32), "label_names differs"),
            (lambda plan: plan.update(samples_per_shard=5), "the number of shards differs"),
            (lambda plan: plan["source"].update(items=12), "the number of items differs"),
            (lambda plan: plan["view"].update(size=64), "view differs"),
            (lambda plan: plan["teacher"].update(id="other"), "teacher differs"),
            (lambda plan: plan.update(seed=1), "seed differs"),
            (lambda plan: plan.update(seed=HUGE), "is damaged"),
            (lambda plan: plan.update(samples_per_shard="3"), "is damaged"),
            (lambda plan: plan.update(schema=deep(60)), "is damaged"),
            (lambda plan: plan.update(source=None), "is damaged"),
            (lambda plan: plan.pop("teacher"), "is damaged"),
        ],
    )
    def test_a_plan_that_does_not_fit_the_manifest_is_a_problem(
        self, source: Source, tmp_path: Path, change: Callable[[Record], object], said: str
    ) -> None:
        build(source, tmp_path)
        path = tmp_path / "plan.json"
        plan = json.loads(path.read_bytes())
        change(plan)
        path.write_text(json.dumps(plan))
        problems = verify_dataset(tmp_path).problems
        assert problems
        assert all("plan.json" in problem for problem in problems)
        assert any(said in problem for problem in problems)
        with pytest.raises(ShardError, match=r"plan"):
            build(source, tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"split": 1}', "\udcff", '{"teacher": {}}'])
    def test_a_plan_that_is_none_stops_a_build_in_one_line(self, source: Source, tmp_path: Path, text: str) -> None:
        build(source, tmp_path)
        (tmp_path / "plan.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ShardError, match=r"plan\.json is damaged"):
            build(source, tmp_path)
        with pytest.raises(ShardError, match=r"plan\.json is damaged"):
            finalize_dataset(source, tmp_path, ViewSpec(num_frames=4, size=32), CONFIG)

    def test_a_plan_of_other_fields_is_told_in_short(self, source: Source, tmp_path: Path) -> None:
        build(source, tmp_path)
        path = tmp_path / "plan.json"
        plan = json.loads(path.read_bytes())
        plan["schema"][0]["shape"] = [4, 32, 32, 3]
        plan["source"]["note"] = "x" * 10_000
        path.write_text(json.dumps(plan))
        with pytest.raises(ShardError, match=r"schema\.0\.shape was a list of 4, is now a list of 6") as caught:
            build(source, tmp_path)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda lines: lines.clear(), "it lists none, the manifest counts empty_file 1"),
            (lambda lines: lines.append(lines[0]), "it lists empty_file 2, the manifest counts empty_file 1"),
            (lambda lines: lines[0].update(reason="truncated"), "it lists truncated 1"),
            (lambda lines: lines[0].update(shard=99), "there are 4"),
            (lambda lines: lines[0].update(shard=HUGE), "line 1, is damaged"),
            (lambda lines: lines[0].update(key=None), "line 1, is damaged"),
            (lambda lines: lines[0].update(source_bytes=-1), "line 1, is damaged"),
            (lambda lines: lines[0].pop("path"), "line 1, is damaged"),
            (lambda lines: lines[0].update(more=1), "line 1, is damaged"),
        ],
    )
    def test_failures_that_are_not_those_of_the_manifest_are_a_problem(
        self, source: Source, tmp_path: Path, change: Callable[[list[Record]], object], said: str
    ) -> None:
        build(source, tmp_path)
        path = tmp_path / "failures.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        change(lines)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (problem,) = verify_dataset(tmp_path).problems
        assert "failures.jsonl" in problem
        assert said in problem

    @pytest.mark.parametrize("text", ["{\n", "7\n", "[" * 100_000, "\udcff\n", '{"reason": NaN}\n'])
    def test_failures_that_cannot_be_read_are_a_problem_and_stop_a_build_in_one_line(
        self, source: Source, tmp_path: Path, text: str
    ) -> None:
        build(source, tmp_path)
        path = tmp_path / "failures.jsonl"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        (problem,) = verify_dataset(tmp_path).problems
        assert "failures.jsonl, line 1, is damaged" in problem
        with pytest.raises(ShardError, match=r"failures\.jsonl, line 1, is damaged"):
            build(source, tmp_path)
        path.unlink()
        assert "failures.jsonl" in verify_dataset(tmp_path).problems[0]
        build(source, tmp_path)
        assert verify_dataset(tmp_path).problems == ()

    def test_failures_of_one_shard_that_cannot_be_read_have_that_shard_built_again(
        self, source: Source, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        build(source, tmp_path)
        (tmp_path / ".build").mkdir()
        (tmp_path / ".build" / "train-00001-of-00004.tar.failures.jsonl").write_text("{")
        assert build(source, tmp_path).num_resumed == 11 - 3
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected

    def test_a_projection_that_is_not_the_teachers_is_a_problem(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path)
        projection = np.arange(12, dtype=np.float32).reshape(3, 4)
        about = {"projection": {"sha256": hashlib.sha256(projection.tobytes()).hexdigest()}}
        replace(dataset.manifest, provenance={"teacher": about}).write(tmp_path)
        path = tmp_path / "projection.npy"
        (problem,) = verify_dataset(tmp_path).problems
        assert "projection.npy is missing" in problem
        np.save(path, projection)
        assert verify_dataset(tmp_path).problems == ()
        good = path.read_bytes()
        for data, said in (
            (good[:-1] + b"x", "is not the projection of the manifest"),
            (good[:-3], "is damaged"),
            (b"", "is damaged"),
            (good.replace(b"(3, 4)", b"(3,99)"), "is damaged"),
        ):
            path.write_bytes(data)
            (problem,) = verify_dataset(tmp_path).problems
            assert said in problem


def test_a_data_set_that_is_a_file_or_in_an_object_store_is_said_so(tmp_path: Path) -> None:
    for name, said in (("x.tar.gz", "is a compressed tar"), ("x.tar", "is a file")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ShardError, match=said):
            ShardDataset.open(tmp_path / name)
    with pytest.raises(ShardError, match="s3://bucket/set is no local folder: object stores can be built into"):
        ShardDataset.open(Path("s3://bucket/set"))
    with pytest.raises(MissingDataError, match="does not exist"):
        ShardDataset.open(tmp_path / "nowhere")

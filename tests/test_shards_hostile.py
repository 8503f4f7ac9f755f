"""Manifests, sidecars and what lies beside them, changed by somebody who computed all digests anew: one error each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from shards.builder import Source
from shards.builder.plan import make_plan
from shards.dataset import ShardDataset
from shards.format.errors import ManifestError, MissingDataError, ShardError
from shards.format.index import ShardInfo
from shards.format.manifest import Manifest, shard_name
from shards.format.parse import check_name, parse_json
from shards.format.schema import Field
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW
from tests.damages import VALUES, deep, paths_in, put, write_manifest
from tests.datasets import make_dataset, make_lengths_dataset

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


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_its_folder_hides_or_acts_on_a_terminal_is_refused_everywhere(
    tmp_path: Path, name: str, source: Source
) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        check_name(name, "a name")
    with pytest.raises(ValueError, match=r"a shard's name .* is not allowed"):
        ShardInfo(f"{name}.tar", 0, 1024, "0" * 32)
    with pytest.raises(ValueError, match="the split's name"):
        make_plan(source, VIEW, CONFIG, split=name)
    if name:
        with pytest.raises(ValueError, match="the group's name"):
            Field(name="x", group=name)
    make_dataset(tmp_path, num_samples=2)
    for change in (
        lambda record: record.update(split=name),
        lambda record: record["shards"][0].update(name=f"{name}.tar"),
        lambda record: record["schema"][0].update(group=name or "../x"),
    ):
        copy = json.loads((tmp_path / "dataset.json").read_bytes())
        write_manifest(tmp_path, change)
        with pytest.raises(ManifestError):
            ShardDataset.open(tmp_path)
        (tmp_path / "dataset.json").write_text(json.dumps(copy))


@pytest.mark.parametrize("name", ["train", "v1.0", "etwas größer", "a-b_c", "验证"])
def test_any_other_name_is_a_name(tmp_path: Path, name: str) -> None:
    make_dataset(tmp_path, num_samples=2, split=name)
    assert ShardDataset.open(tmp_path).manifest.split == name
    assert (tmp_path / shard_name(name, 0, 1)).exists()


def test_a_file_outside_of_the_folder_is_never_opened_as_a_shard(tmp_path: Path) -> None:
    make_dataset(tmp_path / "set", num_samples=2)
    make_dataset(tmp_path / "other", num_samples=2)
    for name in ("../other/train-00000-of-00001.tar", "/etc/passwd", str(tmp_path / "other" / "x.tar"), "passwd"):
        write_manifest(tmp_path / "set", partial(put, path=("shards", 0, "name"), value=name))
        with pytest.raises(ManifestError, match="a shard's name"):
            ShardDataset.open(tmp_path / "set")


@pytest.mark.parametrize("make", [make_dataset, make_lengths_dataset])
def test_whatever_stands_anywhere_in_a_manifest_is_read_or_refused(
    tmp_path: Path, make: Callable[..., ShardDataset]
) -> None:
    dataset = make(tmp_path, num_samples=3, samples_per_shard=2)
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


def test_a_data_set_that_is_a_file_or_in_a_store_that_does_not_answer_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("x.tar.gz", "is a compressed tar"), ("x.tar", "is a file")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ShardError, match=said):
            ShardDataset.open(tmp_path / name)
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(ShardError, match=r"^s3://bucket/set\S* cannot be read: ") as caught:
        ShardDataset.open(Path("s3://bucket/set"))
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingDataError, match="does not exist"):
        ShardDataset.open(tmp_path / "nowhere")

"""`reelshard reshard`: the same samples in other shards, some of them, or fewer fields; nothing is lost on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.builder import Source
from shards.dataset import ShardDataset
from shards.exchange.reshard import Cut, plan_reshard, unchanged
from shards.exchange.rewrite import cut_by_size
from shards.exchange.selection import Selection
from shards.payload import StoredValue
from shards.verify import verify_dataset
from tests.builds import build, contents
from tests.datasets import add_group, add_lengths_group, make_dataset, make_lengths_dataset
from tests.object_store import http_files
from tools.cli import main

ALL = Selection()


def same(a: StoredValue, b: StoredValue) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def assert_same_samples(found: ShardDataset, expected: ShardDataset, numbers: list[int] | None = None) -> None:
    numbers = list(range(len(expected))) if numbers is None else numbers
    assert verify_dataset(found.directory).problems == ()
    assert [found.key(place) for place in range(len(found))] == [expected.key(number) for number in numbers]
    for place, number in enumerate(numbers):
        for name in found.schema.names:
            assert same(found.read(place, name), expected.read(number, name)), name


def reshard(source: ShardDataset, out: Path, *options: str) -> ShardDataset:
    assert main(["reshard", str(source.directory), "--out", str(out), *options]) == 0
    return ShardDataset.open(out)


MAKERS: dict[str, Callable[[Path], ShardDataset]] = {
    "arrays in tubes, JSON": make_dataset,
    "rows, packed, JSON": make_lengths_dataset,
    "a group": lambda folder: add_group(make_dataset(folder)),
    "a group of rows and packed": lambda folder: add_lengths_group(make_dataset(folder)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_kind_of_field_goes_into_other_shards_as_it_is(
    tmp_path: Path, make: Callable[[Path], ShardDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(tmp_path / "src")
    before = contents(source.directory)
    copy = reshard(source, tmp_path / "dst", "--samples-per-shard", "4")
    assert_same_samples(copy, source)
    assert copy.schema == source.schema
    assert copy.manifest.label_names == source.manifest.label_names
    assert {info.num_samples for info in copy.manifest.shards[:-1]} == {4}
    assert contents(source.directory) == before
    assert f"{len(source)} samples" in capsys.readouterr().out
    assert not (tmp_path / "dst" / ".build").exists()


def test_a_set_that_is_cut_as_it_was_keeps_the_bytes_of_its_tars(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src")
    copy = reshard(source, tmp_path / "dst")
    assert copy.manifest.shards == source.manifest.shards


def test_shards_of_a_size_are_never_larger_and_never_half_empty(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src")
    copy = reshard(source, tmp_path / "dst", "--shard-size", "120k")
    sizes = [info.num_bytes for info in copy.manifest.shards]
    assert max(sizes) <= 120_000
    assert min(sizes[:-1]) > 60_000
    assert_same_samples(copy, source)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_a_cut_by_size_keeps_all_samples_and_splits_only_where_it_has_to(sizes: list[int], limit: int) -> None:
    counts = cut_by_size(sizes, limit)
    assert sum(counts) == len(sizes)
    assert min(counts) >= 1
    start = 0
    for count in counts:
        stop = start + count
        assert count == 1 or sum(sizes[start:stop]) <= limit
        assert stop == len(sizes) or sum(sizes[start : stop + 1]) > limit
        start = stop


def test_samples_are_taken_by_the_names_or_numbers_of_their_classes(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src")
    wanted = [number for number in range(20) if number % 3 != 1]
    for out, labels in (("names", "class 0,class 2"), ("numbers", "2,0")):
        copy = reshard(source, tmp_path / out, "--labels", labels)
        assert_same_samples(copy, source, wanted)
        assert copy.manifest.label_names == source.manifest.label_names  # numbers in samples mean the same


def test_samples_are_taken_by_a_list_of_keys_in_the_order_of_the_set(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src")
    (tmp_path / "keys.txt").write_text("000017\n000003\n\n000004\n000003\n")
    copy = reshard(source, tmp_path / "dst", "--keys", str(tmp_path / "keys.txt"))
    assert_same_samples(copy, source, [3, 4, 17])


def test_a_draw_is_a_matter_of_seed_and_keys_alone(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src", num_samples=40)
    draws = {seed: Selection(sample=10, seed=seed).numbers(source) for seed in range(60)}
    assert draws[0] == [1, 2, 7, 10, 17, 18, 19, 24, 25, 26]  # for ever: no library's random numbers are in it
    assert all(len(set(numbers)) == 10 and numbers == sorted(numbers) for numbers in draws.values())
    counts = Counter(number for numbers in draws.values() for number in numbers)
    assert len(counts) == 40
    assert max(counts.values()) < 30  # 15 on average
    copy = reshard(source, tmp_path / "dst", "--sample", "10", "--seed", "3", "--labels", "1,2")
    among = [number for number in range(40) if number % 3]
    numbers = [source.index_of(copy.key(place)) for place in range(10)]
    assert set(numbers) <= set(among)
    assert Selection(sample=10, seed=3).numbers(copy) == list(range(10))


def test_fields_are_dropped_and_renamed_and_a_group_goes_with_its_last_one(tmp_path: Path) -> None:
    source = add_group(make_dataset(tmp_path / "src"))
    copy = reshard(
        source, tmp_path / "dst", "--drop", "target,dino", "--rename", "clip=video", "--rename", "json=about"
    )
    assert copy.schema.names == ("video", "about")
    assert copy.manifest.groups == {}
    assert "groups" not in copy.manifest.provenance
    assert verify_dataset(copy.directory).problems == ()
    for number in range(len(source)):
        assert same(copy.read(number, "video"), source.read(number, "clip"))
        assert same(copy.read(number, "about"), source.read(number, "json"))
    history = copy.manifest.provenance["history"]
    assert [(step["dropped"], step["renamed"]) for step in history] == [
        (["target", "dino"], {"clip": "video", "json": "about"})
    ]


def test_the_provenance_is_kept_and_says_what_was_done(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path / "src")
    first = ShardDataset.open(tmp_path / "src")
    second = reshard(first, tmp_path / "a", "--sample", "5", "--seed", "7")
    third = reshard(second, tmp_path / "b", "--samples-per-shard", "1")
    provenance = dict(third.manifest.provenance)
    history = provenance.pop("history")
    assert provenance == first.manifest.provenance
    about = {"digest": first.digest, "split": "train", "samples": len(first), "failures": dict(first.manifest.failures)}
    assert history == [
        {"command": "reshard", "of": about, "sample": 5, "seed": 7},
        {"command": "reshard", "of": {"digest": second.digest, "split": "train", "samples": 5}},
    ]
    assert (tmp_path / "b" / "projection.npy").exists() == (tmp_path / "src" / "projection.npy").exists()
    assert verify_dataset(third.directory).problems == ()


def test_a_lost_manifest_is_made_again_from_the_origin_to_the_bit(tmp_path: Path) -> None:
    copy = reshard(add_group(make_dataset(tmp_path / "src")), tmp_path / "dst", "--labels", "class 1")
    before = contents(copy.directory)
    (copy.directory / "dataset.json").unlink()
    assert main(["index", str(copy.directory)]) == 0
    assert contents(copy.directory) == before
    for path in copy.directory.glob("*.idx"):
        path.unlink()
    (copy.directory / "dataset.json").unlink()
    assert main(["index", str(copy.directory)]) == 0
    assert contents(copy.directory) == before


def test_an_origin_of_another_set_is_said(tmp_path: Path) -> None:
    copy = reshard(make_dataset(tmp_path / "src"), tmp_path / "dst")
    replace(copy.manifest, label_names=("a",)).write(copy.directory)
    (problem,) = verify_dataset(copy.directory).problems
    assert "lineage.json: it is not the origin of this data set: label_names differs" in problem


def test_a_change_makes_other_values_of_a_field_and_the_provenance_says_so(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "src")
    field = replace(source.schema["target"], dtype="<f4")
    changes = [
        replace(change, field=field, apply=lambda value: np.asarray(value, np.float32), said={"dtype": "<f4"})
        if change.source == "target"
        else change
        for change in unchanged(source)
    ]
    plan_reshard(source, ALL, Cut(), changes).run(tmp_path / "dst")
    copy = ShardDataset.open(tmp_path / "dst")
    assert copy.manifest.provenance["history"][0]["changed"] == {"target": {"dtype": "<f4"}}
    assert verify_dataset(copy.directory).problems == ()
    for number in range(len(source)):
        np.testing.assert_array_equal(copy.read(number, "target"), np.asarray(source.read(number, "target"), "<f4"))


def test_the_same_command_again_is_done_at_once_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_dataset(tmp_path / "src")
    copy = reshard(source, tmp_path / "dst", "--sample", "9")
    before = contents(copy.directory)
    reshard(source, tmp_path / "dst", "--sample", "9")
    assert contents(copy.directory) == before
    assert main(["reshard", str(source.directory), "--out", str(copy.directory), "--sample", "8"]) == 1
    message = capsys.readouterr().err
    assert "was begun with other samples or settings" in message
    assert "sample was 9, is now 8" in message
    assert contents(copy.directory) == before


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_cut_of_any_subset_gives_back_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = make_lengths_dataset(folder / "src", num_samples=data.draw(st.integers(1, 9)), samples_per_shard=4)
    count = data.draw(st.integers(1, len(source)))
    per_shard = data.draw(st.integers(1, 5))
    selection = Selection(sample=count, seed=data.draw(st.integers(0, 2**64 - 1)))
    plan_reshard(source, selection, Cut(samples_per_shard=per_shard)).run(folder / "dst", threads=2)
    assert_same_samples(ShardDataset.open(folder / "dst"), source, selection.numbers(source))


def test_the_history_is_readable_json(tmp_path: Path) -> None:
    copy = reshard(make_dataset(tmp_path / "src"), tmp_path / "dst")
    origin = json.loads((copy.directory / "lineage.json").read_bytes())
    assert origin["provenance"] == copy.manifest.provenance
    assert origin["samples"] == [info.num_samples for info in copy.manifest.shards]


def test_a_set_elsewhere_is_copied_as_one_that_is_here(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("REELSHARD_CACHE", str(tmp_path / "cache"))
    build(source, tmp_path / "src")
    here = reshard(ShardDataset.open(tmp_path / "src"), tmp_path / "here", "--sample", "5")
    with http_files(tmp_path / "src") as url:
        assert main(["reshard", url, "--out", str(tmp_path / "there"), "--sample", "5"]) == 0
    assert contents(tmp_path / "there") == contents(here.directory)

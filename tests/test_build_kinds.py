"""The builder asks the kind of sample: rows for the teacher, field groups, and what crosses from a decoder process."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards import Manifest, ShardDataset, ShardError, verify_dataset
from shards.builder import (
    BuildConfig,
    InProcess,
    Item,
    Partition,
    ProcessPool,
    Source,
    build_dataset,
    finalize_dataset,
    load_folder,
)
from shards.builder.build import run_plan
from shards.builder.decode.crossing import SharedMemory, memory_file
from shards.builder.finish import publish_all_failures
from shards.builder.group_plan import make_group_plan
from shards.builder.journal import ShardReport
from shards.builder.plan import Plan
from shards.builder.prepare import Outcome
from shards.builder.rows import RowBatches
from shards.builder.samples.base import Prepared, Rows
from shards.format.beside_group import group_provenance
from shards.groups import Group, with_groups
from tests.builds import CONFIG, VIEW, build, contents, failures, write_videos
from tests.kinds import LetterTeacher, MeansKind, WordsKind
from tests.teachers import MeanTeacher

WORDS: list[object] = [["a", "bc"], [], ["d"], "no list", ["ef", "g", "hij"], ["k"]]


def words_source(words: list[object]) -> Source:
    items = tuple(Item(id=f"w{n}", path="", extra={"words": value}) for n, value in enumerate(words))
    return Source(kind="table", root=Path(), items=items)


def letters(device: str) -> LetterTeacher:
    """What a worker process makes of its device."""
    return LetterTeacher()


class _Echo:
    """Gives back the number of each row."""

    input_shape: tuple[int, ...] | None = ()
    output_shape = ()
    output_dtype = "<f4"
    provenance: dict[str, str] = {}  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, rows: NDArray[np.int64] | list[str]) -> NDArray[np.float32]:
        self.sizes.append(len(rows))
        return np.array([float(row) for row in rows], np.float32)


@given(st.lists(st.none() | st.integers(0, 20), max_size=12), st.integers(1, 7), st.booleans())
def test_rows_are_called_in_order_in_full_batches_and_come_back_to_their_samples(
    counts: list[int | None], batch: int, is_text: bool
) -> None:
    teacher, ends = _Echo(), list(accumulate(count or 0 for count in counts))
    batches, out = RowBatches(teacher, batch), []
    for number, (count, end) in enumerate(zip(counts, ends, strict=True)):
        numbers = range(end - (count or 0), end)
        rows: Rows | None = None if count is None else [*map(str, numbers)] if is_text else np.array(numbers)
        item = Item(id=str(number), path="")
        outcome = Outcome(item=item, shard=0, prepared=Prepared(), failure=None, seconds=0)
        out += list(batches.add(outcome, rows))
    out += list(batches.flush())
    total = ends[-1] if ends else 0
    assert teacher.sizes == [batch] * (total // batch) + [total % batch] * (total % batch > 0)
    assert [outcome.item.id for outcome, _ in out] == [str(number) for number in range(len(counts))]
    for (_, made), count, end in zip(out, counts, ends, strict=True):
        assert (made is None) == (count is None)
        if made is not None:
            assert made.tolist() == list(range(end - (count or 0), end))


def test_a_batch_of_rows_spans_samples_but_never_shards(tmp_path: Path) -> None:
    teacher, config = LetterTeacher(), replace(CONFIG, samples_per_shard=3, teacher_batch=2)
    summary = build_dataset(words_source(WORDS), tmp_path / "set", config=config, kind=WordsKind(), teacher=teacher)
    assert (summary.num_samples, summary.failures) == (5, {"bad_annotation": 1})
    dataset = ShardDataset.open(tmp_path / "set")
    assert not verify_dataset(tmp_path / "set").problems
    shard_of = {dataset.key(n): int(dataset.locate(np.array([n]))[0][0]) for n in range(len(dataset))}
    expected, known = [], {f"w{n}": words for n, words in enumerate(WORDS)}
    for shard in (0, 1):
        rows = [word for key, at in shard_of.items() if at == shard for word in known[key]]  # type: ignore[attr-defined]
        expected += [rows[start : start + 2] for start in range(0, len(rows), 2)]
    assert teacher.calls == expected
    sums = {dataset.key(n): np.asarray(dataset[n]["sum"]).tolist() for n in range(len(dataset))}
    assert sums["w0"] == [3, ord("a") + ord("b")]
    assert sums["w1"] == [0, 0]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_another_kind_gives_the_same_bytes_from_every_engine_and_when_it_was_cut_up(
    tmp_path: Path, num_workers: int
) -> None:
    source, config = words_source(WORDS), replace(CONFIG, samples_per_shard=2, time_limit_seconds=30)
    build_dataset(source, tmp_path / "one", config=config, kind=WordsKind(), teacher=LetterTeacher())
    with ProcessPool(["cpu"] * num_workers, letters) as pool:
        build_dataset(source, tmp_path / "other", config=config, kind=WordsKind(), engine=pool)
    for index in range(2):
        part = Partition(index, 2)
        build_dataset(
            source, tmp_path / "cut", config=config, kind=WordsKind(), teacher=LetterTeacher(), partition=part
        )
    finalize_dataset(source, tmp_path / "cut", config=config, kind=WordsKind())
    assert contents(tmp_path / "one") == contents(tmp_path / "other") == contents(tmp_path / "cut")
    again = build_dataset(source, tmp_path / "one", config=config, kind=WordsKind(), teacher=LetterTeacher())
    assert again.num_resumed == len(WORDS)


def test_the_kind_of_sample_is_in_the_plan_and_the_manifest(tmp_path: Path) -> None:
    build_dataset(words_source(WORDS), tmp_path, config=CONFIG, kind=WordsKind())
    assert json.loads((tmp_path / "plan.json").read_text())["sample"] == {"kind": "words"}
    assert Manifest.read(tmp_path).provenance["sample"] == {"kind": "words"}
    with pytest.raises(ShardError, match=r'sample.kind was "words", is now "others"'):
        build_dataset(words_source(WORDS), tmp_path, config=CONFIG, kind=WordsKind(name="others"))


def test_a_view_or_a_kind_is_needed_and_not_both(tmp_path: Path) -> None:
    for view, kind in ((None, None), (VIEW, WordsKind())):
        with pytest.raises(ValueError, match="one of both"):
            build_dataset(words_source(WORDS), tmp_path, view, CONFIG, kind=kind)


def test_a_failure_that_the_plan_knows_and_that_shares_a_key_does_not_undo_a_finished_shard(tmp_path: Path) -> None:
    items = (
        Item(id="a b", path="", extra={"words": ["x"]}),
        Item(id="a_b", path="", problem=("bad_annotation", "its line is not read")),
    )
    source = Source(kind="table", root=Path(), items=items)
    build_dataset(source, tmp_path, config=CONFIG, kind=WordsKind())
    again = build_dataset(source, tmp_path, config=CONFIG, kind=WordsKind(), retry_failures=True)
    assert (again.num_resumed, again.failures) == (2, {"bad_annotation": 1})


def test_annotations_that_json_does_not_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="item 'w0': its annotations are not JSON"):
        build_dataset(words_source([{1, 2}]), tmp_path, config=CONFIG, kind=WordsKind())


def publish_group(plan: Plan, out: Path, reports: Sequence[ShardReport]) -> Manifest:
    publish_all_failures(plan, out, reports)
    shards = tuple(report.info for report in reports)
    group = Group(plan.group, plan.schema.fields, shards, group_provenance(out, plan.group) or {})
    manifest = with_groups(Manifest.read(out), [group])
    manifest.write(out)
    return manifest


def group_plan(directory: Path, kind: MeansKind, config: BuildConfig = CONFIG) -> Plan:
    dataset, shards, number = ShardDataset.open(directory), [], 0
    for shard in range(dataset.num_shards):
        keys = dataset.index(shard).keys
        shards.append([Item(id=k, path="", exact_key=k, extra={"number": number + n}) for n, k in enumerate(keys)])
        number += len(keys)
    teacher = MeanTeacher(VIEW.clip_shape)
    return make_group_plan(directory, shards, kind, config, split="train", group="means", teacher=teacher)


@pytest.mark.parametrize("limit_seconds", [None, 30.0])
def test_a_field_group_is_built_by_the_same_engine_and_a_failure_leaves_its_keys(
    tmp_path: Path, limit_seconds: float | None
) -> None:
    out = tmp_path / "set"
    first = build(load_folder(write_videos(tmp_path / "videos", 5)), out, config=replace(CONFIG, layout="frames"))
    before = contents(out)
    plan = group_plan(out, MeansKind(), replace(CONFIG, time_limit_seconds=limit_seconds))
    engine = InProcess(MeanTeacher(VIEW.clip_shape))
    summary = run_plan(plan, out, engine, publish_group)
    assert (summary.num_planned, summary.num_samples, summary.failures) == (5, 4, {"decode_error": 1})
    dataset = ShardDataset.open(out)
    assert not verify_dataset(out).problems
    assert [info.name for info in dataset.manifest.groups["means"]] == [
        "train.means-00000-of-00002.tar",
        "train.means-00001-of-00002.tar",
    ]
    for number in range(len(dataset)):
        sample, failed = dataset[number], dataset.key(number) == "v1"
        assert np.array_equal(sample["means"], np.zeros((8, 3)) if failed else sample["target"])
    assert {"plan.means.json", "failures.means.jsonl", "teacher.means.txt"} <= contents(out).keys()
    assert {name: data for name, data in contents(out).items() if name in before and name != "dataset.json"} == {
        name: data for name, data in before.items() if name != "dataset.json"
    }
    assert failures(out) == {"empty": "empty_file"}
    assert first.digest != summary.digest


def test_a_field_group_goes_on_where_it_was_stopped_and_leaves_the_data_set_open(tmp_path: Path) -> None:
    out = tmp_path / "set"
    build(load_folder(write_videos(tmp_path / "videos", 5)), out, config=replace(CONFIG, layout="frames"))
    plan, engine = group_plan(out, MeansKind()), InProcess(MeanTeacher(VIEW.clip_shape))
    run_plan(plan, out, engine, publish_group, partition=Partition(1, 2))
    assert len(ShardDataset.open(out)) == 5
    first = (out / "train.means-00001-of-00002.tar").stat().st_ino
    assert run_plan(plan, out, engine, publish_group).num_resumed == 2
    assert (out / "train.means-00001-of-00002.tar").stat().st_ino == first


def test_a_group_without_a_substitute_stops_at_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "set"
    build(load_folder(write_videos(tmp_path / "videos", 3)), out, config=replace(CONFIG, layout="frames"))
    plan = group_plan(out, MeansKind(substitutes=False))
    with pytest.raises(ShardError, match="'means' needs every sample, and v1 cannot be made: decode_error: it is v1"):
        run_plan(plan, out, InProcess(MeanTeacher(VIEW.clip_shape)), publish_group)
    assert len(ShardDataset.open(out)) == 3


def test_what_was_prepared_crosses_with_its_bytes_in_shared_memory_which_grows(tmp_path: Path) -> None:
    file = memory_file()
    ours, theirs = SharedMemory(file), SharedMemory(file)
    try:
        for size in (3, 2_000_000, 10, 5_000_000, 0):
            array = np.arange(size, dtype=np.float32)
            blobs: dict[str, bytes | Sequence[bytes]] = {"one": b"x" * size, "many": [b"", b"yz" * size]}
            sent = Prepared(arrays={"a": array, "turned": array.reshape(1, -1).T}, blobs=blobs, facts={"n": size})
            message = theirs.put(sent)
            assert len(message.head) < 1500
            found = ours.take(message)
            theirs.put(Prepared(arrays={"a": np.zeros(size + 1, np.float32)}))  # the next one leaves it alone
            assert isinstance(found, Prepared)
            assert np.array_equal(found.arrays["a"], array)
            assert found.arrays["a"].flags.writeable
            assert found.arrays["turned"].shape == (size, 1)
            assert (found.blobs, found.facts, found.num_bytes) == (blobs, {"n": size}, sent.num_bytes)
    finally:
        theirs.unmap()
        ours.close()


def test_what_was_prepared_pickles_by_older_protocols_too() -> None:
    sent = Prepared(arrays={"a": np.arange(3)}, blobs={"b": b"c", "d": [b"e"]})
    found = pickle.loads(pickle.dumps(sent, protocol=4))
    assert (found.blobs, found.arrays["a"].tolist()) == ({"b": b"c", "d": [b"e"]}, [0, 1, 2])

"""A further teacher sees stored clips or captions: its targets are those that a build of the set would have made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from shards.builder import BuildConfig, InProcess, ProcessPool, Source, ViewSpec
from shards.builder.add_group import add_teacher_group
from shards.dataset import ShardDataset
from shards.format.errors import MissingDataError, ShardError
from shards.format.manifest import Manifest
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW, build, contents, failures, make_teacher
from tests.datasets import damage, make_dataset
from tests.kinds import LetterTeacher
from tests.teachers import MeanTeacher

PLANS = ["train.mean-00000-of-00004.tar", "train.mean-00003-of-00004.idx"]


class SquareTeacher(MeanTeacher):
    """Looks at larger patches, so that its tokens lie on another grid than the clips' tubes."""

    @property
    def output_shape(self) -> tuple[int, int]:
        return 2, 3

    def __call__(self, clips: NDArray[np.uint8]) -> NDArray[np.float16]:
        tokens = super().__call__(clips).reshape(len(clips), 2, 4, 3)
        means: NDArray[np.float32] = tokens.mean(axis=2, dtype=np.float32)
        return means.astype(np.float16)


def add(out: Path, teacher: object = None, name: str = "mean", **more: object) -> ShardDataset:
    teacher = teacher or MeanTeacher(VIEW.clip_shape)
    add_teacher_group(ShardDataset.open(out), name, InProcess(teacher), CONFIG, **more)  # type: ignore[arg-type]
    assert verify_dataset(out).problems == ()
    return ShardDataset.open(out)


@pytest.mark.parametrize("layout", ["tubes", "frames"])
def test_a_teacher_of_stored_clips_gives_what_it_gives_while_they_are_built(
    source: Source, tmp_path: Path, layout: Literal["tubes", "frames"]
) -> None:
    build(source, tmp_path / "both", config=replace(CONFIG, layout=layout))
    build(source, tmp_path / "set", config=replace(CONFIG, layout=layout), teacher=None)
    built, added = ShardDataset.open(tmp_path / "both"), add(tmp_path / "set", name="target")
    assert added.schema["target"] == replace(built.schema["target"], group="target")
    for number in range(len(built)):
        assert np.asarray(built[number]["target"]).tobytes() == np.asarray(added[number]["target"]).tobytes()
        assert built[number]["json"] == added[number]["json"]


def test_samples_stay_as_they_are_and_the_group_says_where_it_came_from(
    source: Source, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    build(source, tmp_path)
    manifest = add(tmp_path).manifest
    after = contents(tmp_path)
    assert {name: after[name] for name in expected if name != "dataset.json"} == {
        name: data for name, data in expected.items() if name != "dataset.json"
    }
    assert {*PLANS, "plan.mean.json", "failures.mean.jsonl", "teacher.mean.txt"} <= after.keys() - expected.keys()
    about = manifest.about("mean")
    assert about["teacher"] == {"id": "mean", "version": 1, "batch": 2, "output_shape": [8, 3], "output_dtype": "<f2"}
    assert about["view_hash"] == VIEW.hash
    assert manifest.provenance["teacher"] == Manifest.read(tmp_path).provenance["teacher"]
    assert failures(tmp_path) == {"empty": "empty_file"}


def test_worker_processes_make_the_same_bytes(source: Source, tmp_path: Path) -> None:
    for name in ("one", "many"):
        build(source, tmp_path / name)
    add(tmp_path / "one")
    with ProcessPool(["cpu:0", "cpu:1"], make_teacher) as pool:
        add_teacher_group(ShardDataset.open(tmp_path / "many"), "mean", pool, CONFIG)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_tokens_on_another_grid_are_stored_in_their_own_order(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    both = add(tmp_path, SquareTeacher(VIEW.clip_shape), name="square")
    assert (both.schema["square"].layout, both.schema["square"].shape) == ("plain", (2, 3))
    target = np.asarray(both[0]["target"])  # [S, T', 3]
    np.testing.assert_allclose(np.asarray(both[0]["square"]), target.mean(axis=0, dtype=np.float32), rtol=2e-3)


def test_clip_target_and_a_groups_field_are_read_together_and_gathered_by_one_mask(
    source: Source, tmp_path: Path
) -> None:
    build(source, tmp_path)
    both = add(tmp_path, MeanTeacher(VIEW.clip_shape, version=2, scale=0.5), name="half")
    whole = LoaderConfig(global_batch_size=4, fields=("clip", "target", "half"), seed=3)
    masked = replace(whole, gather={"clip": "visible", "target": "masked", "half": "masked"})
    batches = ShardLoader(both, masked, TubeMask(num_positions=4, ratio=0.5))
    for batch in batches:
        for row, number in enumerate(batch["index"].tolist()):
            sample, kept = both[number], batch["masked"][row].numpy()
            assert np.array_equal(batch["half"][row].numpy(), np.asarray(sample["half"])[kept])
            assert np.array_equal(batch["target"][row].numpy(), np.asarray(sample["target"])[kept])
            assert np.array_equal(batch["clip"][row].numpy(), np.asarray(sample["clip"])[batch["visible"][row].numpy()])
    for batch in ShardLoader(both, whole):
        for row, number in enumerate(batch["index"].tolist()):
            assert np.array_equal(batch["half"][row].numpy(), np.asarray(both[number]["half"]))


def test_a_loader_of_clips_goes_on_after_a_teacher_was_added(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    config = LoaderConfig(global_batch_size=3, fields=("clip",))
    loader = ShardLoader(ShardDataset.open(tmp_path), config)
    batches = iter(loader)
    next(batches)
    state, left = loader.state_dict(), [batch["index"].tolist() for batch in batches]
    resumed = ShardLoader(add(tmp_path), config)
    resumed.load_state_dict(state)
    assert [batch["index"].tolist() for batch in resumed] == left


def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_made(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    before = contents(tmp_path)
    for teacher, said in (
        (MeanTeacher((8, 32, 32, 3)), r"takes clips \[8, 32, 32, 3\], the clips of .* are \[4, 32, 32, 3\]"),
        (MeanTeacher((4, 64, 64, 3)), r"takes clips \[4, 64, 64, 3\]"),
    ):
        with pytest.raises(ValueError, match=said):
            add(tmp_path, teacher)
    with pytest.raises(ShardError, match="has a field 'target' in the samples themselves; choose another name"):
        add(tmp_path, name="target")
    assert contents(tmp_path) == before


def test_another_teacher_under_the_same_name_is_refused_and_the_same_one_finds_it_done(
    source: Source, tmp_path: Path
) -> None:
    build(source, tmp_path)
    add(tmp_path)
    before = contents(tmp_path)
    teacher, dataset = MeanTeacher(VIEW.clip_shape), ShardDataset.open(tmp_path)
    assert add_teacher_group(dataset, "mean", InProcess(teacher), CONFIG).num_resumed == 10
    for other, config in (
        (MeanTeacher(VIEW.clip_shape, version=2), CONFIG),
        (teacher, replace(CONFIG, teacher_batch=3)),
    ):
        with pytest.raises(ShardError, match=r"'mean' of .* was begun with another plan: teacher\.(version|batch) was"):
            add_teacher_group(dataset, "mean", InProcess(other), config)
    assert contents(tmp_path) == before


def test_a_sample_that_the_teacher_fails_on_is_refused_or_filled_and_listed(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    brightest = [np.asarray(ShardDataset.open(tmp_path)[n]["target"], np.float32).max() for n in range(10)]
    third, fourth = sorted(brightest)[-3], sorted(brightest)[-4]
    assert third > fourth
    huge = MeanTeacher(VIEW.clip_shape, scale=float(2 * 65_504 / (third + fourth)))
    bad = [number for number in range(10) if brightest[number] >= third]
    with pytest.raises(ShardError, match=r"'mean' needs every sample, and v\d cannot be made: teacher_error"):
        add(tmp_path, huge)
    assert ShardDataset.open(tmp_path).schema.groups == ("",)
    both = add(tmp_path, huge, missing=-1.0)
    for number in range(10):
        assert bool((np.asarray(both[number]["mean"]) == -1).all()) == (number in bad)
    listed = [line for line in (tmp_path / "failures.mean.jsonl").read_text().splitlines() if "teacher_error" in line]
    assert len(listed) == len(bad)
    assert both.manifest.about("mean")["missing"] == "-1.0"
    with pytest.raises(ShardError, match=r'sample\.missing was "-1\.0", is now "2\.0"'):
        add(tmp_path, huge, missing=2.0)


def test_a_damaged_clip_is_named_and_never_seen_by_the_teacher(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path)
    dataset = ShardDataset.open(tmp_path)
    damage(dataset, 4, "clip")
    with pytest.raises(ShardError, match=f"{dataset.key(4)} cannot be made: decode_error: .*checksum is wrong"):
        add_teacher_group(dataset, "mean", InProcess(MeanTeacher(VIEW.clip_shape)), CONFIG)
    dataset.tar_path(1).unlink()
    with pytest.raises(MissingDataError, match=r"train-00001-of-00004\.tar is missing"):
        add_teacher_group(dataset, "mean", InProcess(MeanTeacher(VIEW.clip_shape)), CONFIG)


def test_captions_are_what_a_teacher_of_text_sees(tmp_path: Path) -> None:
    records = {n: f'{{"text":"{"x" * n}y"}}'.encode() for n in range(20)}
    make_dataset(tmp_path, records=records)
    teacher = LetterTeacher()
    both = add(tmp_path, teacher, name="letters")
    assert [np.asarray(both[n]["letters"]).tolist() for n in (0, 3)] == [[1, ord("y")], [4, ord("x")]]
    assert [len(call) for call in teacher.calls] == [2] * 9 + [2]
    assert both.schema["letters"].dtype == "<f4"


@pytest.mark.parametrize("record", [b"{}", b'{"text":null}', b'{"text":"  "}', b'{"text":7}', b"[1]", b"{"])
def test_a_sample_without_a_caption_is_refused_or_filled(tmp_path: Path, record: bytes) -> None:
    records = dict.fromkeys(range(20), b'{"text":"a"}') | {5: record}
    make_dataset(tmp_path, records=records)
    with pytest.raises(ShardError, match=r"000005 cannot be made: bad_annotation: .*\(--missing\)"):
        add(tmp_path, LetterTeacher(), name="letters")
    both = add(tmp_path, LetterTeacher(), name="letters", missing=float("nan"))
    assert np.isnan(np.asarray(both[5]["letters"])).all()
    assert np.asarray(both[6]["letters"]).tolist() == [1, ord("a")]


def test_a_set_without_what_a_teacher_sees_says_so(source: Source, tmp_path: Path) -> None:
    config = BuildConfig(samples_per_shard=3, layout="frames", time_limit_seconds=None)
    build(source, tmp_path, config=config, view=ViewSpec(num_frames=4, size=32))
    manifest = Manifest.read(tmp_path)
    schema = type(manifest.schema)(tuple(field for field in manifest.schema if field.name == "target"))
    replace(manifest, schema=schema).write(tmp_path)
    for teacher, said in ((MeanTeacher(VIEW.clip_shape), "no field 'clip'"), (LetterTeacher(), "no field 'json'")):
        with pytest.raises(ValueError, match=f"{said}, which a teacher of .* sees; it has target"):
            add(tmp_path, teacher, name="new")

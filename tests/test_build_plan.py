from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.builder import BuildConfig, Item, Source, ViewSpec
from shards.builder.plan import make_plan, publish_plan
from shards.format.errors import ShardError
from tests.builds import start_python
from tests.teachers import MeanTeacher
from tests.videos import needs_decord, write_video

VIEW = ViewSpec(num_frames=4, size=32)


def source_of(num_items: int) -> Source:
    items = tuple(Item(id=str(number), path=f"{number}.webm") for number in range(num_items))
    return Source(kind="folder", root=Path("videos"), items=items)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 5))
def test_every_item_is_in_exactly_one_shard(num_items: int, size: int, seed: int) -> None:
    plan = make_plan(source_of(num_items), VIEW, BuildConfig(samples_per_shard=size, seed=seed), split="train")
    shards = [plan.shard_items(shard) for shard in range(plan.num_shards)]
    assert sorted(int(item.id) for shard in shards for item in shard) == list(range(num_items))
    assert all(len(shard) == size for shard in shards[:-1])


@given(st.permutations(list(range(30))), st.integers(1, 30))
def test_the_plan_depends_on_the_items_not_on_their_order(order: list[int], limit: int) -> None:
    source = source_of(30)
    shuffled = replace(source, items=tuple(source.items[number] for number in order))
    plans = [make_plan(s, VIEW, BuildConfig(), split="train", limit=limit) for s in (source, shuffled)]
    assert plans[0].items == plans[1].items
    assert plans[0].fingerprint == plans[1].fingerprint


@given(st.integers(1, 40), st.integers(0, 3))
def test_a_limit_takes_a_random_sample_or_the_first_of_the_source(limit: int, seed: int) -> None:
    config = BuildConfig(seed=seed)
    sample, first = (
        make_plan(source_of(30), VIEW, config, split="train", limit=limit, limit_order=order)
        for order in ("random", "source")
    )
    whole = make_plan(source_of(30), VIEW, config, split="train")
    assert sample.items == whole.items[:limit]
    assert sorted(int(item.id) for item in first.items) == list(range(min(limit, 30)))
    assert ("limit_order" in first.fingerprint["source"]) == (limit < 30)
    if limit >= 30:  # nothing is left out, so the order of choosing makes no difference
        assert first.fingerprint == whole.fingerprint


def test_what_a_limit_takes_is_part_of_the_plan(tmp_path: Path) -> None:
    publish_plan(make_plan(source_of(9), VIEW, BuildConfig(), split="train", limit=1), tmp_path)
    first = make_plan(source_of(9), VIEW, BuildConfig(), split="train", limit=1, limit_order="source")
    with pytest.raises(ShardError, match=r'source.limit_order was null, is now "source"'):
        publish_plan(first, tmp_path)
    with pytest.raises(ValueError, match="the limit's order is 'last'; choose random or source"):
        make_plan(source_of(9), VIEW, BuildConfig(), split="train", limit=1, limit_order="last")  # type: ignore[arg-type]


def test_auto_gives_the_plan_of_pyav_and_only_what_decodes_is_part_of_it() -> None:
    plans = [make_plan(source_of(3), VIEW, BuildConfig(decoder=name), split="train") for name in ("auto", "pyav")]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert set(plans[0].fingerprint["decoder"]) == {"choice", "pyav", "pillow", "frames_by"}


@needs_decord
def test_decord_is_part_of_the_plan_that_asks_for_it() -> None:
    plan = make_plan(source_of(3), VIEW, BuildConfig(decoder="decord"), split="train")
    assert set(plan.fingerprint["decoder"]) == {"choice", "pyav", "decord", "pillow", "frames_by"}


WITHOUT_DECORD = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "decord" else found(name, *more)
from tools.cli import main
common = ["build", "--recipe", "demo", "--videos", sys.argv[1], "--teacher", "none", "--view.size", "32"]
common += ["--build.patch", "16"]
assert main([*common, "--out", sys.argv[2], "--build.decoder", "decord"]) == 1
assert main([*common, "--out", sys.argv[2], "--build.decoder", "auto"]) == 0
assert "decord" not in sys.modules
"""


def test_without_decord_builds_are_made_and_one_that_asks_for_it_is_refused_at_once(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.webm")
    done = start_python(WITHOUT_DECORD, tmp_path / "videos", tmp_path / "out")
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    assert "build.decoder is 'decord', but decord is not installed here; choose pyav" in errors


def test_another_seed_gives_another_order() -> None:
    plans = [make_plan(source_of(50), VIEW, BuildConfig(seed=seed), split="train") for seed in (0, 1)]
    assert plans[0].items != plans[1].items


def test_a_second_item_of_the_same_key_is_planned_as_a_failure() -> None:
    items = tuple(Item(id=name, path=path) for name, path in [("a/b", "1"), ("a_b", "2"), ("a/b", "3"), ("c", "4")])
    plan = make_plan(Source(kind="folder", root=Path(), items=items), VIEW, BuildConfig(), split="train")
    problems = [item.problem[0] for item in plan.items if item.problem]
    assert problems == ["duplicate_id", "duplicate_id"]
    assert len(plan.items) == 4


def test_the_same_plan_is_accepted_again(tmp_path: Path) -> None:
    for workers in (1, 3):
        config = BuildConfig(workers=workers, max_failures=workers)
        publish_plan(make_plan(source_of(9), VIEW, config, split="train"), tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": replace(VIEW, sampling="stride")}, r'view.sampling was "uniform", is now "stride"'),
        ({"config": BuildConfig(samples_per_shard=9)}, "samples_per_shard was 256, is now 9"),
        ({"config": BuildConfig(layout="frames")}, "schema"),
        ({"config": BuildConfig(seed=4)}, "seed was 0, is now 4"),
        ({"source": source_of(8)}, "source.items was 9, is now 8"),
        ({"teacher": MeanTeacher(VIEW.clip_shape, version=2)}, r"teacher.version was 1, is now 2"),
        ({"teacher": None}, "teacher was .*, is now null"),
        ({"config": BuildConfig(teacher_batch=3)}, "teacher.batch was 16, is now 3"),
        ({"split": "validation"}, 'split was "train", is now "validation"'),
    ],
)
def test_another_plan_is_refused_and_what_differs_is_named(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    given = {"source": source_of(9), "kind": VIEW, "config": BuildConfig(), "split": "train"}
    given["teacher"] = MeanTeacher(VIEW.clip_shape)
    publish_plan(make_plan(**given), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ShardError, match=named):
        publish_plan(make_plan(**(given | change)), tmp_path)  # type: ignore[arg-type]


def test_a_teacher_on_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher gives 8 tokens, the clip has 4 x 4 tubelets"):
        make_plan(source_of(3), VIEW, BuildConfig(tubelet=1), split="train", teacher=MeanTeacher(VIEW.clip_shape))


def test_a_teacher_of_other_clips_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the teacher takes clips of \(4, 64, 64, 3\), the view gives"):
        make_plan(source_of(3), VIEW, BuildConfig(), split="train", teacher=MeanTeacher((4, 64, 64, 3)))


def test_a_view_that_does_not_divide_into_tubes_is_refused() -> None:
    with pytest.raises(ValueError, match="4 frames of 40 px does not divide"):
        make_plan(source_of(3), replace(VIEW, size=40), BuildConfig(), split="train")
    make_plan(source_of(3), replace(VIEW, size=40), BuildConfig(layout="frames"), split="train")


@pytest.mark.parametrize(
    ("limit", "share", "allowed"), [(None, None, 200), (None, 0.01, 2), (None, 5.0, 5), (100, 0.01, 1), (None, 0.0, 0)]
)
def test_allowed_failures_are_a_count_or_a_share(limit: int | None, share: float | None, allowed: int) -> None:
    plan = make_plan(source_of(200), VIEW, BuildConfig(max_failures=share), split="train", limit=limit)
    assert plan.config.allowed_failures(len(plan.items)) == allowed


@pytest.mark.parametrize("name", ["samples_per_shard", "tubelet", "patch", "teacher_batch", "workers", "max_failures"])
def test_a_build_value_out_of_range_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"build.{name} is -1"):
        BuildConfig(**{name: -1})  # type: ignore[arg-type]


def test_nothing_to_build_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to build"):
        make_plan(source_of(0), VIEW, BuildConfig(), split="train")
    with pytest.raises(ValueError, match="limit is 0"):
        make_plan(source_of(1), VIEW, BuildConfig(), split="train", limit=0)


def test_the_test_teacher_puts_token_t_s_at_t_times_s() -> None:
    clips = np.zeros((1, 4, 32, 32, 3), np.uint8)
    clips[0, 2:4, 16:, :16] = 200
    assert np.flatnonzero(MeanTeacher((4, 32, 32, 3))(clips)[0, :, 0]).tolist() == [1 * 4 + 2]

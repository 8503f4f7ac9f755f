from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.builder import BuildFailure, ClipKind, ViewSpec


@given(st.integers(1, 400), st.integers(1, 32), st.sampled_from(["uniform", "stride"]), st.integers(1, 8))
def test_a_padding_view_takes_frames_that_exist_in_order(
    num_source: int, num_frames: int, sampling: str, stride: int
) -> None:
    view = ViewSpec(num_frames=num_frames, sampling=sampling, stride=stride)  # type: ignore[arg-type]
    indices = view.frame_indices(num_source)
    assert len(indices) == num_frames
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < num_source


@given(st.integers(1, 100), st.integers(1, 32), st.integers(1, 8))
def test_a_refusing_view_never_repeats_a_frame(num_source: int, num_frames: int, stride: int) -> None:
    view = ViewSpec(num_frames=num_frames, sampling="stride", stride=stride, short_video="refuse")
    if num_source < (num_frames - 1) * stride + 1:
        with pytest.raises(BuildFailure, match="too_few_frames"):
            view.frame_indices(num_source)
    else:
        indices = view.frame_indices(num_source)
        assert set(np.diff(indices)) <= {stride}
        assert abs(indices[0] - (num_source - 1 - indices[-1])) <= 1


def test_uniform_sampling_takes_the_middle_of_equal_parts() -> None:
    assert ViewSpec(num_frames=4, size=16).frame_indices(48) == [6, 18, 30, 42]


def test_a_short_video_is_padded_with_its_last_frame() -> None:
    assert ViewSpec(num_frames=5, size=16).frame_indices(3) == [0, 1, 2, 2, 2]


def test_resizing_equals_a_whole_resize_and_a_centre_crop() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 480, 3), np.uint8)
    whole = np.asarray(Image.fromarray(frame).resize((240, 120), Image.Resampling.BILINEAR))
    expected = whole[10:110, 70:170]
    assert np.array_equal(ViewSpec(size=100, short_side=120).resize(frame), expected)


def test_resizing_averages_what_it_leaves_out() -> None:
    checkers = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    small = ViewSpec(size=32).resize(np.ascontiguousarray(np.repeat(checkers[..., None], 3, -1).astype(np.uint8)))
    assert abs(small.astype(int) - 127).max() <= 2


@given(st.integers(20, 90), st.integers(20, 90), st.integers(1, 40), st.integers(0, 20))
def test_any_frame_gives_the_view_s_size(height: int, width: int, size: int, extra: int) -> None:
    view = ViewSpec(size=size, short_side=size + extra)
    assert view.resize(np.zeros((height, width, 3), np.uint8)).shape == (size, size, 3)


def test_the_hash_names_what_decides_the_pixels_and_nothing_else() -> None:
    assert ViewSpec().hash == ViewSpec(short_side=224, stride=7).hash
    others = [
        ViewSpec(num_frames=8),
        ViewSpec(sampling="stride"),
        ViewSpec(sampling="stride", stride=7),
        ViewSpec(size=112),
        ViewSpec(short_side=256),
        ViewSpec(short_video="refuse"),
    ]
    assert len({view.hash for view in [ViewSpec(), *others]}) == len(others) + 1


def test_specs_of_before_keep_their_hashes() -> None:
    known = {
        "40d216661648dcc9693fd0cb6d2ca306aaf3cd975ec009afa53a6b1a89cf550c": ViewSpec(),
        "d89c0772c4f05ae161f80c423202a52d549555f3ff4f1d8a9e58dfdda357a9bd": ViewSpec(
            sampling="stride", stride=3, num_frames=8, size=112, short_side=128, short_video="refuse"
        ),
    }
    assert [view.hash for view in known.values()] == list(known)


@pytest.mark.parametrize(
    "values",
    [
        {"num_frames": 0},
        {"size": 0},
        {"stride": 0},
        {"short_side": 100},
        {"sampling": "x"},
        {"short_video": "x"},
        {"geometry": "x"},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"max_frames": 0, "sampling": "fps"},
        {"max_frames": 8},
        {"short_side": 300, "geometry": "squash"},
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"view.{next(iter(values))}"):
        ViewSpec(**values)  # type: ignore[arg-type]


def test_the_page_says_which_frames_a_view_takes() -> None:
    page = (Path(__file__).parents[1] / "docs" / "building.md").read_text()
    uniform = ViewSpec().frame_indices(48)
    assert f"of 48 frames and T = 16, {uniform[0]} {uniform[1]} {uniform[2]} ... {uniform[-1]}" in page
    strided = ViewSpec(sampling="stride", stride=2).frame_indices(48)
    assert f"of 48 frames with T = 16 and stride 2, {strided[0]} {strided[1]} {strided[2]} ... {strided[-1]}" in page
    short = ViewSpec(num_frames=8).frame_indices(5)
    assert f"5 frames and T = 8 give {' '.join(map(str, short))}" in page


@given(st.integers(1, 300), st.integers(1, 40), st.none() | st.integers(1, 20))
def test_every_kth_frame_is_taken_and_of_too_many_so_many_at_equal_distances(
    num_source: int, step: int, cap: int | None
) -> None:
    all_of_them = list(range(0, num_source, step))
    taken = ViewSpec(sampling="every", stride=step, max_frames=cap).frame_indices(num_source)
    check_cap(taken, all_of_them, cap)


@given(st.integers(1, 90), st.sampled_from([1, 2, 5, 7.5]), st.integers(1, 70))
def test_a_rate_takes_each_frame_of_a_video_of_that_rate_up_to_the_cap(count: int, rate: float, cap: int) -> None:
    seconds = [round(number / rate, 3) for number in range(count)]  # as a container that counts milliseconds has it
    taken = ViewSpec(sampling="fps", fps=rate, max_frames=cap).frame_indices(count, seconds)
    check_cap(taken, list(range(count)), cap)


@given(st.lists(st.floats(0, 3, allow_subnormal=False), max_size=40), st.floats(0.2, 9))
def test_a_rate_takes_the_frames_nearest_to_its_times_each_once(gaps: list[float], fps: float) -> None:
    seconds = [0.0, *np.cumsum(gaps).tolist()]
    taken = ViewSpec(sampling="fps", fps=fps).frame_indices(len(seconds), seconds)
    assert taken[0] == 0
    assert taken == sorted(set(taken))
    times = np.asarray(seconds)
    end = seconds[-1] + (seconds[-1] - seconds[-2]) / 2 if len(seconds) > 1 else 0.0
    wanted = np.arange(int(end * fps + 1e-6) + 1) / fps
    for number in taken:  # some wanted time has no frame that is nearer
        distances = np.abs(times[:, None] - wanted).min(axis=0)
        assert (np.abs(times[number] - wanted) <= distances + 1e-5 / fps).any()
    for time in wanted:  # and the nearest frame to each is there, or one as near
        assert np.abs(times[taken] - time).min() <= np.abs(times - time).min() + 1e-5 / fps


def test_a_rate_goes_by_time_and_not_by_number() -> None:
    view = ViewSpec(sampling="fps", fps=1.0)
    assert view.frame_indices(6, [0.0, 0.1, 0.2, 0.9, 2.0, 2.4]) == [0, 3, 4]
    assert view.frame_indices(2, [0.0, 1e12]) == [0, 1]


def check_cap(taken: list[int], all_of_them: list[int], cap: int | None) -> None:
    if cap is None or len(all_of_them) <= cap:
        assert taken == all_of_them
        return
    assert len(taken) == cap
    places = [all_of_them.index(number) for number in taken]
    steps = np.diff([-1 - places[0], *places])
    assert steps.min() >= len(all_of_them) // cap - 1
    assert steps.max() <= len(all_of_them) // cap + 2


def test_squashing_keeps_the_whole_picture_in_a_square() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (60, 200, 3), np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(ViewSpec(size=32, geometry="squash").resize(frame), expected)


@given(st.integers(1, 90), st.integers(1, 90), st.none() | st.integers(1, 60))
def test_a_whole_picture_keeps_its_shape_and_is_never_made_larger(height: int, width: int, limit: int | None) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    found = ViewSpec(geometry="whole", short_side=limit).resize(frame).shape
    if limit is None or min(height, width) <= limit:
        assert found == frame.shape
    else:
        assert min(found[:2]) == limit
        assert abs(max(found[:2]) - max(height, width) * limit / min(height, width)) <= 0.5


def test_new_views_have_hashes_of_their_own_and_come_back_from_their_spec() -> None:
    views = [
        ViewSpec(),
        ViewSpec(geometry="squash"),
        ViewSpec(geometry="whole"),
        ViewSpec(geometry="whole", short_side=336),
        ViewSpec(sampling="every", stride=4),
        ViewSpec(sampling="every", stride=5),
        ViewSpec(sampling="every", stride=4, max_frames=9),
        ViewSpec(sampling="fps"),
        ViewSpec(sampling="fps", fps=2),
        ViewSpec(sampling="fps", max_frames=64),
        ViewSpec(sampling="fps", max_frames=64, geometry="squash"),
    ]
    assert len({view.hash for view in views}) == len(views)
    for view in views:
        assert ViewSpec.from_json(view.to_json() | {"hash": view.hash}).hash == view.hash
    assert ViewSpec(sampling="fps", num_frames=3, short_video="refuse").hash == ViewSpec(sampling="fps").hash


@pytest.mark.parametrize("view", [ViewSpec(sampling="fps"), ViewSpec(sampling="every"), ViewSpec(geometry="whole")])
def test_clips_need_a_view_of_one_shape(view: ViewSpec) -> None:
    with pytest.raises(ValueError, match=r"choose '(uniform|crop)'"):
        ClipKind(view=view).schema(None)

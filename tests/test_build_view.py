from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.builder import BuildFailure, ViewSpec


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


@pytest.mark.parametrize(
    "values",
    [{"num_frames": 0}, {"size": 0}, {"stride": 0}, {"short_side": 100}, {"sampling": "x"}, {"short_video": "x"}],
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

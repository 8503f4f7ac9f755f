"""J and F by hand, the exact assignment against every other, whole videos as SA-V's evaluator counts them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.optimize import linear_sum_assignment

from evaluation.mask_scores import (
    assign,
    boundary_similarity,
    edge,
    matched_ious,
    region_similarity,
    video_scores,
    widen,
)

HEIGHT, WIDTH = 30, 40  # the diagonal is 50: 0.008 of it, rounded up, is one pixel
MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 12)))


def box(left: int, top: int = 10, side: int = 10) -> NDArray[np.bool_]:
    """A square of `side` pixels in an otherwise empty picture of 30 x 40."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = box(0, side=0)


def test_region_similarity_is_intersection_over_union_and_one_of_two_empty_masks() -> None:
    assert region_similarity(box(5), box(5)) == 1.0
    assert region_similarity(box(5), box(10)) == pytest.approx(50 / 150)
    assert region_similarity(box(5), NOTHING) == 0.0
    assert region_similarity(NOTHING, NOTHING) == 1.0


def test_an_edge_is_the_pixels_that_differ_from_right_below_or_both() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[1:3, 1:3] = True
    # seg2bmap: offset by half a pixel towards the origin; the pixel in the middle of a 2 x 2 square is inside.
    assert edge(mask).astype(int).tolist() == [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    full = np.ones((3, 3), np.bool_)
    assert not edge(full).any()


def test_boundary_similarity_allows_a_pixel_of_this_picture_and_no_more() -> None:
    assert boundary_similarity(box(5), box(5)) == 1.0
    assert boundary_similarity(box(5), box(6)) == 1.0  # one pixel aside
    # Two aside, each edge is the ring of an 11 x 11 square, 40 pixels. Of the 11 in its top row 10 lie within a pixel
    # of the other ring's top row, as below; of its upright sides only the ends next to those rows do, 2 in all.
    far = boundary_similarity(box(5), box(7))
    ring, other = edge(box(5)), widen(edge(box(7)), 1)
    assert np.count_nonzero(ring) == 40
    assert np.count_nonzero(ring & other) == 2 * 10 + 2
    assert far == pytest.approx(22 / 40)


@pytest.mark.parametrize(
    ("found", "real", "score"), [(NOTHING, NOTHING, 1.0), (NOTHING, box(3), 0.0), (box(3), NOTHING, 0.0)]
)
def test_boundary_similarity_of_what_has_no_edge(
    found: NDArray[np.bool_], real: NDArray[np.bool_], score: float
) -> None:
    assert boundary_similarity(found, real) == score


@given(MASKS, st.integers(0, 14))
def test_widening_is_a_dilation_by_a_disk(mask: NDArray[np.bool_], radius: int) -> None:
    steps = np.arange(-radius, radius + 1)
    disk = steps[:, None] ** 2 + steps**2 <= radius**2
    assert np.array_equal(widen(mask, radius), binary_dilation(mask, disk))


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 9)))
def test_no_other_assignment_gains_more(worth: NDArray[np.float64]) -> None:
    rows = assign(worth)
    given_to = rows[rows >= 0]
    assert len(set(given_to.tolist())) == len(given_to) == min(worth.shape)
    gained = sum(worth[row, column] for column, row in enumerate(rows) if row >= 0)
    wide = worth if worth.shape[0] >= worth.shape[1] else worth.T
    best = max(
        sum(wide[row, column] for column, row in enumerate(chosen))
        for chosen in itertools.permutations(range(len(wide)), wide.shape[1])
    )
    assert gained == best


def test_the_assignment_of_a_full_sized_problem_is_scipys() -> None:
    worth = np.random.default_rng(0).random((100, 20))
    rows, columns = linear_sum_assignment(worth, maximize=True)
    assert assign(worth)[columns].tolist() == rows.tolist()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_an_assignment_of_nothing_gives_nobody_anything(shape: tuple[int, int]) -> None:
    assert assign(np.zeros(shape)).tolist() == [-1] * shape[1]


def test_objects_without_a_mask_left_score_nothing() -> None:
    found, real = np.stack([box(5)]), np.stack([box(20), box(5), NOTHING])
    assert matched_ious(found, real).tolist() == [0.0, 1.0, 0.0]
    assert matched_ious(found[:0], real).tolist() == [0.0] * 3


def test_the_first_and_the_last_frame_of_a_video_do_not_count() -> None:
    real = np.stack([box(5)] * 5)
    found = np.stack([NOTHING, box(5), box(10), box(5), NOTHING])
    scores = video_scores(found, real)
    assert scores is not None
    aside = boundary_similarity(box(10), box(5))
    assert scores == pytest.approx(((1 + 1 / 3 + 1) / 3, (1 + aside + 1) / 3))


def test_frames_before_an_object_was_seen_by_anybody_do_not_count() -> None:
    real = np.stack([NOTHING, NOTHING, NOTHING, box(5), box(5)])
    late = np.stack([NOTHING, NOTHING, NOTHING, box(10), NOTHING])
    early = np.stack([NOTHING, NOTHING, box(20), box(10), NOTHING])
    for found, frames in ((late, [1 / 3]), (early, [0.0, 1 / 3])):
        scores = video_scores(found, real)
        assert scores is not None
        assert scores[0] == pytest.approx(np.mean(frames))


def test_frames_in_which_neither_sees_a_known_object_are_right() -> None:
    real = np.stack([NOTHING, box(5), NOTHING, box(5), NOTHING])
    found = np.stack([NOTHING, box(5), NOTHING, box(10), NOTHING])
    scores = video_scores(found, real)
    assert scores is not None
    assert scores[0] == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_an_object_that_no_counted_frame_shows_has_no_score() -> None:
    real = np.stack([box(5), NOTHING, NOTHING, box(5)])
    assert video_scores(np.stack([box(5)] * 4), real) is None
    assert video_scores(real[:2], real[:2]) is None

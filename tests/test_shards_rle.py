"""RLE masks: the same text as pycocotools, the same masks back, and nothing read that is not a mask."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco

from shards import rle
from tests.videos import clips_folder

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
BLOBS = st.builds(
    lambda height, width, top, left: _rectangle(height, width, top % height, left % width),
    *(st.integers(1, 3000), st.integers(1, 300), st.integers(0, 3000), st.integers(0, 300)),
)


def _rectangle(height: int, width: int, top: int, left: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + 1 + height // 2, left : left + 1 + width // 3] = True
    return mask


def _theirs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    written = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(written["size"]), "counts": written["counts"].decode()}


@given(MASKS | BLOBS)
@settings(deadline=None)
def test_a_mask_is_written_as_pycocotools_writes_it_and_read_back(mask: NDArray[np.bool_]) -> None:
    written = rle.encode(mask)
    assert written == _theirs(mask)
    assert json.loads(json.dumps(written)) == written
    assert np.array_equal(rle.decode(written), mask)
    assert np.array_equal(coco.decode({**written, "counts": written["counts"].encode()}), mask)


def test_bytes_that_are_not_zero_are_the_object() -> None:
    mask = np.array([[0, 7], [255, 0]], np.uint8)
    assert rle.encode(mask) == rle.encode(mask != 0)


def test_the_empty_mask_is_as_sa_v_writes_it() -> None:
    assert rle.encode(np.zeros((848, 480), np.bool_)) == {"size": [848, 480], "counts": "P`]<"}


def test_real_masks_are_read_as_pycocotools_reads_them_and_written_back_to_the_same_text() -> None:
    about = json.loads((clips_folder() / "sav_000001_manual.json").read_text())
    for frame in about["masklet"][::20]:
        for written in frame:
            mask = rle.decode(written)
            assert np.array_equal(mask, coco.decode(written))
            assert rle.encode(mask) == written


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"size": [2, 2]},
        {"counts": "4"},
        {"size": [2], "counts": "4"},
        {"size": [2.0, 2.0], "counts": "4"},
        {"size": [True, 4], "counts": "4"},
        {"size": [-2, -2], "counts": "4"},
        {"size": [0, 4], "counts": "0"},
        {"size": [1 << 40, 1 << 40], "counts": "4"},
        {"size": [2, 2], "counts": 4},
        {"size": [2, 2], "counts": [4]},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "5"},  # a pixel too many
        {"size": [2, 2], "counts": "3"},  # one too few
        {"size": [2, 2], "counts": "8L"},  # 8 and -4
        {"size": [2, 2], "counts": "4T"},  # ends within a number
        {"size": [2, 2], "counts": "4 "},  # below the first character
        {"size": [2, 2], "counts": "4é"},
        {"size": [2, 2], "counts": "PPPPPPPPPPPP1"},  # a number of 65 bits
        {"size": [2, 2], "counts": "oooooo_" * 9},
    ],
)
def test_what_is_no_mask_is_refused(damaged: Any) -> None:
    with pytest.raises(ValueError, match="RLE"):
        rle.decode(damaged)


@given(st.text(max_size=60), st.integers(1, 50), st.integers(1, 50))
@settings(deadline=None)
def test_any_text_is_a_mask_of_its_size_or_refused(text: str, height: int, width: int) -> None:
    with suppress(ValueError):
        assert rle.decode({"size": [height, width], "counts": text}).shape == (height, width)


def test_another_size_than_expected_is_refused_with_both() -> None:
    with pytest.raises(ValueError, match="4 x 3 px, expected 3 x 4"):
        rle.decode(rle.encode(np.ones((4, 3), np.bool_)), (3, 4))


def test_what_has_no_pixels_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"\[0, 4\]"):
        rle.encode(np.zeros((0, 4), np.bool_))


@given(MASKS, st.integers(1, 30), st.integers(1, 30))
@settings(deadline=None)
def test_resizing_takes_the_pixel_in_the_middle_of_each_cell(mask: NDArray[np.bool_], height: int, width: int) -> None:
    small = rle.resize(mask, (height, width))
    for row in range(height):
        for column in range(width):
            y, x = int((row + 0.5) * mask.shape[0] / height), int((column + 0.5) * mask.shape[1] / width)
            assert small[row, column] == mask[y, x]


def test_a_box_is_half_open_and_of_the_whole_picture_ends_at_one() -> None:
    assert rle.box_of(np.ones((3, 7), np.bool_)) == (0.0, 0.0, 1.0, 1.0)
    assert rle.box_of(np.zeros((3, 7), np.bool_)) is None
    mask = np.zeros((10, 20), np.bool_)
    mask[2:5, 4] = True
    assert rle.box_of(mask) == (0.2, 0.2, 0.25, 0.5)

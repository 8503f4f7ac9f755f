"""Frames beside each other in a picture are the frames' own pixels, enlarged where they are small."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from tools.pages.strips import GAP, LEAST_SIDE, strip
from tools.png import encode_png


def pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image)


@pytest.mark.parametrize(("side", "scale"), [(7, 14), (48, 2), (LEAST_SIDE, 1), (200, 1)])
@pytest.mark.parametrize("num_colours", [3, 4])
def test_every_frame_is_whole_in_a_strip_with_clear_gaps_between(side: int, scale: int, num_colours: int) -> None:
    frames = np.random.default_rng(side).integers(0, 256, (3, side, side + 1, num_colours), np.uint8)
    found = pixels(strip(frames))
    width = scale * (side + 1)
    assert found.shape == (scale * side, 3 * width + 2 * GAP, 4)
    for number, frame in enumerate(frames):
        cell = found[:, number * (width + GAP) :][:, :width]
        assert np.array_equal(cell[::scale, ::scale, :num_colours], frame)
        assert np.array_equal(cell[scale - 1 :: scale, scale - 1 :: scale, :num_colours], frame)
        assert num_colours == 4 or (cell[..., 3] == 255).all()
    assert not found[:, width : width + GAP, 3].any()


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))


@given(arrays(np.uint8, SHAPES))
def test_a_picture_is_the_same_at_every_level(picture: NDArray[np.uint8]) -> None:
    for level in (1, 9):
        assert np.array_equal(pixels(encode_png(Image.fromarray(picture), compress_level=level)), picture)

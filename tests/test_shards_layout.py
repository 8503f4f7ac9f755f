"""Frames to tubes and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.format.layout import clip_to_tubes, target_to_tubes, tubes_to_clip, tubes_to_target

sides = st.integers(1, 4)


@given(times=sides, height=sides, width=sides, tubelet=st.integers(1, 3), patch=st.integers(1, 5))
def test_clip_to_tubes_and_back_is_the_identity(times: int, height: int, width: int, tubelet: int, patch: int) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (times * tubelet, height * patch, width * patch, 3), np.uint8)
    tubes = clip_to_tubes(clip, tubelet, patch)
    assert tubes.shape == (height * width, times, tubelet, patch, patch, 3)
    assert np.array_equal(tubes_to_clip(tubes, height), clip)


@given(times=sides, positions=st.integers(1, 9), dim=sides)
def test_target_to_tubes_and_back_is_the_identity(times: int, positions: int, dim: int) -> None:
    target = np.random.default_rng(0).standard_normal((times * positions, dim)).astype(np.float16)
    assert np.array_equal(tubes_to_target(target_to_tubes(target, times)), target)


def test_position_and_time_of_a_tube_are_those_of_its_token() -> None:
    """Token i = t * S + s stands at tube s, time t; its pixels are patch s of the frames of tubelet t."""
    num_times, grid, tubelet, patch = 3, 4, 2, 2
    clip = np.random.default_rng(0).integers(0, 256, (num_times * tubelet, grid * patch, grid * patch, 3), np.uint8)
    tubes = clip_to_tubes(clip, tubelet, patch)
    target = target_to_tubes(np.arange(num_times * grid * grid)[:, None], num_times)
    for t in range(num_times):
        for s in range(grid * grid):
            y, x = (s // grid) * patch, (s % grid) * patch
            assert np.array_equal(tubes[s, t], clip[t * tubelet : (t + 1) * tubelet, y : y + patch, x : x + patch])
            assert target[s, t, 0] == t * grid * grid + s


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        clip_to_tubes(np.zeros((3, 8, 8, 3), np.uint8), 2, 4)
    with pytest.raises(ValueError, match="multiple"):
        target_to_tubes(np.zeros((5, 2), np.float16), 2)

"""Windows: a query and the rows before it, from (seed, epoch, sample, length) alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order.windows import Window


@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=20),
    num_context=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
)
def test_the_context_is_the_rows_before_the_query(lengths: list[int], num_context: int, seed: int, epoch: int) -> None:
    window = Window("frames", num_context)
    drawn = window.draw(seed, epoch, np.arange(len(lengths)), np.array(lengths))
    for name, rows in drawn.items():
        assert rows.dtype == np.int64
        assert rows.shape == (len(lengths), *window.shapes[name])
    for length, (query,), context in zip(lengths, drawn["query"].tolist(), drawn["context"].tolist(), strict=True):
        if length == 0:
            assert (query, set(context)) == (-1, {-1})
            continue
        assert min(num_context, length - 1) <= query < length
        assert context == [max(query - back, 0) for back in range(num_context, 0, -1)]


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 100), others=st.lists(st.integers(0, 10**6), max_size=4))
def test_a_window_depends_on_seed_epoch_sample_and_length_and_not_on_its_neighbours(
    seed: int, epoch: int, others: list[int]
) -> None:
    window, samples = Window("frames", 3), np.array([*others, 42])
    alone = window.draw(seed, epoch, np.array([42]), np.array([10**9]))["query"][0]
    assert (window.draw(seed, epoch, samples, np.full(len(samples), 10**9))["query"][-1] == alone).all()
    for changed in (
        window.draw(seed + 1, epoch, np.array([42]), np.array([10**9])),
        window.draw(seed, epoch + 1, np.array([42]), np.array([10**9])),
        window.draw(seed, epoch, np.array([43]), np.array([10**9])),
    ):
        assert (changed["query"] != alone).all()


def test_every_row_with_a_whole_context_is_the_query_about_as_often() -> None:
    query = Window("frames", 8).draw(0, 0, np.arange(8000), np.full(8000, 24))["query"]
    counts = np.bincount(query[:, 0], minlength=24)
    assert not counts[:8].any()
    assert np.abs(counts[8:] - 500).max() < 5 * 500**0.5


def test_a_window_without_context_or_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="num_context=-1"):
        Window("frames", -1)
    with pytest.raises(ValueError, match="needs the lengths of frames"):
        Window("frames", 1).draw(0, 0, np.arange(2))

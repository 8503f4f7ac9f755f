"""The order of an epoch and the masks: pure functions with the right statistics."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.order.draws import TubeMask
from pipeline.order.order import SORTED_BELOW, permute

seeds = st.integers(0, 2**63 - 1)


def chi_square(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    """How many standard deviations the chi-square statistic of `counts` against uniform lies above its mean."""
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@given(num_samples=st.integers(1, 5000), seed=seeds, epoch=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_an_epoch_is_a_permutation(num_samples: int, seed: int, epoch: int) -> None:
    order = permute(num_samples, seed, epoch, 0, num_samples)
    assert np.array_equal(np.sort(order), np.arange(num_samples))


@given(num_samples=st.integers(1, 10**13), seed=seeds, epoch=st.integers(0, 1000), data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_slice_equals_the_part_of_a_longer_one(
    num_samples: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, num_samples))
    stop = data.draw(st.integers(start, min(num_samples, start + 300)))
    whole = permute(num_samples, seed, epoch, start, stop)
    middle = (start + stop) // 2
    parts = [permute(num_samples, seed, epoch, start, middle), permute(num_samples, seed, epoch, middle, stop)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert len(np.unique(whole)) == len(whole)


@pytest.mark.parametrize("num_samples", [12, SORTED_BELOW + 5])
def test_every_seed_and_every_epoch_has_another_order(num_samples: int) -> None:
    orders = {tuple(permute(num_samples, seed, epoch, 0, num_samples)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


@pytest.mark.parametrize(("num_samples", "epochs"), [(8, 20_000), (SORTED_BELOW + 1, 400)])
def test_every_sample_is_equally_likely_at_every_position(num_samples: int, epochs: int) -> None:
    orders = np.array([permute(num_samples, 7, epoch, 0, num_samples) for epoch in range(epochs)])
    bins = min(num_samples, 16)
    for position in (0, 1, num_samples // 2, num_samples - 1):
        counts = np.bincount(orders[:, position] * bins // num_samples, minlength=bins)
        assert chi_square(counts) < 5


@pytest.mark.parametrize(("num_samples", "epochs"), [(6, 20_000), (SORTED_BELOW + 1, 400)])
def test_neighbours_in_one_epoch_are_independent(num_samples: int, epochs: int) -> None:
    """The difference of neighbours (modulo n, never 0) is uniform, and so is a neighbour's neighbour's."""
    orders = np.array([permute(num_samples, 3, epoch, 0, num_samples) for epoch in range(epochs)])
    for distance in (1, 2):
        gaps = (orders[:, distance:] - orders[:, :-distance]) % num_samples
        bins = min(num_samples - 1, 32)
        counts = np.bincount(((gaps - 1) * bins // (num_samples - 1)).ravel(), minlength=bins)
        assert chi_square(counts) < 5


def test_positions_of_successive_epochs_are_independent() -> None:
    orders = np.array([permute(8, 11, epoch, 0, 8) for epoch in range(20_000)])
    pairs = orders[:-1, 0] * 8 + orders[1:, 0]
    assert chi_square(np.bincount(pairs, minlength=64)) < 5


def test_a_slice_of_a_huge_data_set_needs_no_memory_for_the_rest() -> None:
    permute(10**12, 0, 0, 0, 256)
    tracemalloc.start()
    permute(10**12, 0, 0, 5 * 10**11, 5 * 10**11 + 256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_slice_outside_of_the_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="positions must lie in"):
        permute(10, 0, 0, 5, 11)


@given(positions=st.integers(2, 300), ratio=st.floats(0.05, 0.95), seed=seeds, epoch=st.integers(0, 99))
@settings(deadline=None)
def test_a_tube_mask_splits_the_positions(positions: int, ratio: float, seed: int, epoch: int) -> None:
    try:
        mask = TubeMask(num_positions=positions, ratio=ratio)
    except ValueError:
        assert round(ratio * positions) in (0, positions)
        return
    drawn = mask.draw(seed, epoch, np.arange(5))
    assert drawn["masked"].shape == (5, round(ratio * positions))
    both = np.concatenate([drawn["visible"], drawn["masked"]], axis=1)
    assert np.array_equal(np.sort(both, axis=1), np.tile(np.arange(positions), (5, 1)))
    assert (np.diff(drawn["visible"], axis=1) > 0).all()


def test_the_reference_mask_hides_147_of_196_positions() -> None:
    mask = TubeMask(num_positions=196, ratio=0.75)
    assert (mask.num_masked, mask.num_visible) == (147, 49)


def test_a_mask_depends_on_seed_epoch_and_sample_and_on_nothing_else() -> None:
    mask = TubeMask(num_positions=64)
    samples = np.array([5, 900, 17])
    drawn = mask.draw(1, 2, samples)["visible"]
    assert np.array_equal(mask.draw(1, 2, samples[[2, 0]])["visible"], drawn[[2, 0]])
    for other in (mask.draw(0, 2, samples), mask.draw(1, 3, samples), mask.draw(1, 2, samples + 1)):
        assert not np.array_equal(other["visible"], drawn)


def test_every_position_is_hidden_equally_often() -> None:
    mask = TubeMask(num_positions=16, ratio=0.75)
    visible = mask.draw(0, 0, np.arange(40_000))["visible"]
    assert chi_square(np.bincount(visible.ravel(), minlength=16)) < 5
    pairs = visible[:, 0] * 16 + visible[:, 1]  # sorted, so first < second: all sets of four are equally likely
    assert len(np.unique(pairs)) > 70

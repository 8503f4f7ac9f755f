"""Masks: dense, of the promised size and shape, and a function of (seed, epoch, sample) alone."""

import os
import shlex
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import choose as choosing
from pipeline.order.draws import Mask, MultiBlockMask, RandomMask, TubeMask

COMPILER = shutil.which(shlex.split(os.environ.get("CC", "cc"))[0])
SAMPLES = np.array([5, 0, 168_912, 77, 5], np.int64)
REFERENCE: dict[str, Mask] = {
    "tube": TubeMask(num_positions=196),
    "random": RandomMask(num_positions=1568),
    "multi-block": MultiBlockMask(grid=(14, 14)),
}


@pytest.mark.parametrize("kind", REFERENCE)
def test_visible_and_masked_are_all_positions_once_and_ascending(kind: str) -> None:
    mask = REFERENCE[kind]
    drawn = mask.draw(3, 1, SAMPLES)
    for name, positions in drawn.items():
        assert positions.dtype == np.int64
        assert positions.shape == (5, *mask.shapes[name])
        assert (np.diff(positions, axis=1) > 0).all()
    together = np.sort(np.concatenate([drawn["visible"], drawn["masked"]], axis=1), axis=1)
    assert (together == np.arange(mask.num_positions)).all()


def test_the_reference_masks_hide_as_many_as_the_papers_say() -> None:
    assert REFERENCE["tube"].shapes == {"visible": (49,), "masked": (147,)}  # 8 * 147 = 1176 tokens
    assert REFERENCE["random"].shapes == {"visible": (392,), "masked": (1176,)}  # int(0.75 * 1568)
    assert REFERENCE["multi-block"].shapes == {"visible": (49,), "masked": (147,)}


@pytest.mark.parametrize("kind", REFERENCE)
@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), others=st.lists(st.integers(0, 10**6), max_size=4))
def test_a_mask_depends_on_seed_epoch_and_sample_and_not_on_its_neighbours(
    kind: str, seed: int, epoch: int, others: list[int]
) -> None:
    mask = REFERENCE[kind]
    alone = mask.draw(seed, epoch, np.array([42], np.int64))["masked"][0]
    among = mask.draw(seed, epoch, np.array([*others, 42], np.int64))["masked"][-1]
    assert (alone == among).all()
    for changed in (mask.draw(seed + 1, epoch, np.array([42])), mask.draw(seed, epoch + 1, np.array([42]))):
        assert (changed["masked"][0] != alone).any()


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
def test_installing_compiled_the_choice() -> None:
    assert choosing._library is not None


@pytest.mark.skipif(choosing._library is None, reason="pipeline/order/choose.c was not compiled for this machine")
@given(
    count=st.one_of(st.integers(1, 40), st.sampled_from([196, 256, 1568])),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
    samples=st.lists(st.integers(0, 2**62), min_size=1, max_size=12),
)
def test_compiled_and_numpy_choose_the_same_positions(
    count: int, share: float, seed: int, epoch: int, samples: list[int]
) -> None:
    arguments = (count, max(1, round(share * count)), seed, epoch, np.array(samples, np.int64))
    for ours, numpys in zip(choosing.choose(*arguments), choosing.choose_by_numpy(*arguments), strict=True):
        np.testing.assert_array_equal(ours, numpys, strict=True)


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_masks_are_the_same_without_a_compiled_library(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = REFERENCE[kind].draw(3, 1, SAMPLES)
    monkeypatch.setattr(choosing, "_library", None)
    for name, positions in REFERENCE[kind].draw(3, 1, SAMPLES).items():
        np.testing.assert_array_equal(positions, compiled[name], strict=True)


@pytest.mark.parametrize("kind", REFERENCE)
def test_every_position_is_hidden_about_as_often_as_the_ratio_says(kind: str) -> None:
    mask = REFERENCE[kind]
    masked = mask.draw(0, 0, np.arange(2000, dtype=np.int64))["masked"]
    share = np.bincount(masked.ravel(), minlength=mask.num_positions) / 2000
    tolerance = (
        0.06 if kind != "multi-block" else 0.45
    )  # blocks do not reach over the border, corners are rarely hidden
    assert abs(share - 0.75).max() < tolerance
    assert share.mean() == pytest.approx(0.75)


def test_a_block_mask_is_made_of_blocks() -> None:
    mask = MultiBlockMask(grid=(14, 14), ratio=0.12, num_blocks=1)
    for hidden in mask.draw(0, 0, np.arange(50, dtype=np.int64))["masked"]:
        rows, columns = hidden // 14, hidden % 14
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(hidden) == 24  # of a block of about 29
        assert height * width <= 36  # a rectangle of about that size, and hardly more
        assert 0.5 <= height / width <= 2


def test_few_neighbours_differ_in_a_block_mask() -> None:
    """Of pairs of neighbours, those with one hidden and one visible: blocks have borders, tubes are all border."""

    def border(mask: Mask) -> float:
        hidden = np.zeros((200, 196), np.bool_)
        np.put_along_axis(hidden, mask.draw(0, 0, np.arange(200, dtype=np.int64))["masked"], True, axis=1)
        frames = hidden.reshape(200, 14, 14)
        return float((frames[:, 1:] != frames[:, :-1]).mean())

    assert border(REFERENCE["multi-block"]) < 0.6 * border(REFERENCE["tube"])


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_mask_that_leaves_nothing_to_do_is_refused(ratio: float) -> None:
    for make in (
        lambda: TubeMask(num_positions=16, ratio=ratio),
        lambda: RandomMask(num_positions=16, ratio=ratio),
        lambda: MultiBlockMask(grid=(4, 4), ratio=ratio),
    ):
        with pytest.raises(ValueError, match="at least one must be hidden and one visible"):
            make()


@pytest.mark.parametrize("wrong", [{"num_blocks": 0}, {"scale": 1.5}, {"aspect": (2.0, 1.0)}])
def test_impossible_blocks_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MultiBlockMask(grid=(4, 4), **wrong)  # type: ignore[arg-type]

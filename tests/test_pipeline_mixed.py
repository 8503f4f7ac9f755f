"""Several sources as one: exact shares, evenly spread, the same on every rank, resumed anywhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.order.mixing import WINDOW, epoch_counts, shares, spread
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset

weight_lists = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)


@given(weights=weight_lists, total=st.integers(1, 1000))
def test_shares_add_up_and_are_within_one_of_exact(weights: list[float], total: int) -> None:
    counts = shares(weights, total)
    assert sum(counts) == total
    assert all(abs(count - weight / sum(weights) * total) < 1 for count, weight in zip(counts, weights, strict=True))


@given(weights=weight_lists, num_heaviest=st.integers(1, 1000))
def test_an_epoch_is_one_pass_over_the_heaviest_source_and_shares_are_exact(
    weights: list[float], num_heaviest: int
) -> None:
    counts = epoch_counts(weights, num_heaviest)
    assert counts[weights.index(max(weights))] == num_heaviest
    total = sum(counts)
    most = 1 if len(weights) == 2 else 1.5
    assert all(abs(count - w / sum(weights) * total) <= most for count, w in zip(counts, weights, strict=True))


@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=6).filter(any))
def test_every_window_holds_each_share_rounded_up_or_down(counts: list[int]) -> None:
    order, total = spread(counts), sum(counts)
    assert np.bincount(order, minlength=len(counts)).tolist() == counts
    for start in range(0, total - WINDOW + 1, WINDOW):
        held = np.bincount(order[start : start + WINDOW], minlength=len(counts))
        assert (np.abs(held - np.array(counts) * WINDOW / total) < 1).all()


@given(counts=st.tuples(st.integers(0, 300), st.integers(1, 300)), size=st.integers(1, 120))
def test_of_two_sources_any_window_of_any_size_does(counts: tuple[int, int], size: int) -> None:
    order, total = spread(counts), sum(counts)
    held = np.convolve(order, np.ones(size, np.int64), "valid") if size <= total else np.empty(0)
    assert (np.abs(held - counts[1] * size / total) < 1 + 1e-9).all()


def test_the_reference_mix_of_video_and_text_holds_six_to_eight_text_batches_in_any_window() -> None:
    counts = epoch_counts([0.86, 0.14], 567)
    assert counts == [567, 92]
    held = np.convolve(spread(counts), np.ones(WINDOW, np.int64), "valid")
    assert (held.min(), held.max()) == (6, 7)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardDataset]:
    return {
        "video": make_dataset(tmp_path_factory.mktemp("video"), num_samples=40),
        "text": make_dataset(tmp_path_factory.mktemp("text"), num_samples=9),
    }


def mixed(
    sets: dict[str, ShardDataset], world: World | None = None, weights: tuple[float, float] = (0.8, 0.2)
) -> MixedLoader:
    config, reads = LoaderConfig(global_batch_size=4), Reads(fields=("label",))
    loaders = {
        "video": ShardLoader(sets["video"], config, world=world),
        "text": ShardLoader(sets["text"], config, world=world, reads=reads),
    }
    return MixedLoader(loaders, dict(zip(loaders, weights, strict=True)))


Seen = tuple[str, int, int, list[int]]


def epoch_of(loader: MixedLoader) -> list[Seen]:
    return [(batch.source, batch.epoch, batch.number, batch["index"].tolist()) for batch in loader]


def test_an_epoch_takes_the_heaviest_source_once_and_the_others_begin_anew(sets: dict[str, ShardDataset]) -> None:
    loader = mixed(sets)
    assert loader.num_batches(0) == len(loader) == 12  # 10 of video, 2 of text
    for epoch in range(3):
        seen = epoch_of(loader)
        assert [(batch[1], batch[2]) for batch in seen] == [(epoch, number) for number in range(12)]
        assert Counter(batch[0] for batch in seen) == {"video": 10, "text": 2}
        video = sorted(index for source, _, _, rows in seen if source == "video" for index in rows)
        assert video == list(range(40))
    assert loader.loaders["text"].state_dict()["epoch"] == 3


def test_all_ranks_take_the_same_source_and_together_the_global_batch(sets: dict[str, ShardDataset]) -> None:
    ranks = [mixed(sets, World(rank=rank, size=2)) for rank in range(2)]
    for _ in range(2):
        for batches in zip(*ranks, strict=True):
            assert len({(batch.source, batch.epoch, batch.number) for batch in batches}) == 1
    whole = mixed(sets)
    one, two = (mixed(sets, World(rank=rank, size=2)) for rank in range(2))
    for expected, first, second in zip(epoch_of(whole), epoch_of(one), epoch_of(two), strict=True):
        assert (first[0], first[3] + second[3]) == (expected[0], expected[3])


def test_a_mixture_resumes_at_every_step_on_another_world(sets: dict[str, ShardDataset]) -> None:
    whole = mixed(sets)
    states, seen = [whole.state_dict()], []
    for _ in range(2):
        for batch in whole:
            seen.append((batch.source, batch.epoch, batch.number, batch["index"].tolist()))
            states.append(whole.state_dict())
            del batch
    for step in range(24):
        ranks = [mixed(sets, World(rank=rank, size=2)) for rank in range(2)]
        for rank in ranks:
            rank.load_state_dict(states[step])
        rest: list[Seen] = []
        while len(rest) < len(seen) - step:
            rest += [(*one[:3], one[3] + two[3]) for one, two in zip(*map(epoch_of, ranks), strict=True)]
        assert rest == seen[step:]
        assert ranks[0].state_dict() == states[-1]


def test_a_source_of_weight_zero_gives_nothing(sets: dict[str, ShardDataset]) -> None:
    assert {batch[0] for batch in epoch_of(mixed(sets, weights=(1, 0)))} == {"video"}


def test_stats_are_those_of_all_sources_together(sets: dict[str, ShardDataset]) -> None:
    loader = mixed(sets)
    epoch_of(loader)
    stats = loader.stats()
    assert (stats.num_batches, stats.num_samples) == (12, 48)
    parts = [part.stats() for part in loader.loaders.values()]
    assert stats.num_bytes == sum(part.num_bytes for part in parts)
    assert stats.reader.startswith("video: ")


def test_a_mixture_refuses_a_state_of_other_weights(sets: dict[str, ShardDataset]) -> None:
    state = mixed(sets).state_dict()
    with pytest.raises(ValueError, match=r"weights is .*0\.8.* in the state and .*0\.7"):
        mixed(sets, weights=(0.7, 0.3)).load_state_dict(state)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"video": 1.0}, "every source needs a weight"),
        ({"video": 1.0, "text": -1.0}, "must not be negative"),
        ({"video": 0.0, "text": 0.0}, "nor all zero"),
        ({"video": float("nan"), "text": 1.0}, "must not be negative"),
        ({"video": float("inf"), "text": 1.0}, "must not be negative"),
    ],
)
def test_weights_that_mean_nothing_are_refused(sets: dict[str, ShardDataset], weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedLoader(mixed(sets).loaders, weights)

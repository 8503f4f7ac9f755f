"""Batches within budgets of frames and tokens, dealt to ranks by cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.schedule import LengthBudget, deal
from pipeline.reads import Reads
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset

pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=120)


@given(
    pairs=pairs,
    frames=st.integers(40, 200),
    tokens=st.integers(300, 900),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 100),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_batches_hold_every_sample_once_within_all_budgets_on_any_world(
    pairs: list[tuple[int, int]], frames: int, tokens: int, ranks: int, seed: int, epoch: int, shuffle: bool
) -> None:
    lengths = dict(zip(("frames", "tokens"), np.array(pairs).T, strict=True))
    budgets = {"frames": frames, "tokens": tokens}

    def schedule(rank: int, size: int) -> LengthBudget:
        return LengthBudget(lengths, budgets, World(rank=rank, size=size), seed=seed, shuffle=shuffle)

    worlds, single = [schedule(rank, ranks) for rank in range(ranks)], schedule(0, 1)
    assert {schedule.num_batches(epoch) for schedule in worlds} == {single.num_batches(epoch)}
    seen: list[int] = []
    for number in range(single.num_batches(epoch)):
        whole = single.rows(epoch, number)
        parts = [schedule.rows(epoch, number) for schedule in worlds]
        assert len({len(part) for part in parts}) == 1
        assert all(len(part) <= schedule.max_rows for part, schedule in zip(parts, worlds, strict=True))
        joined = np.concatenate(parts)
        assert sorted(joined[joined >= 0]) == sorted(whole)
        for name, budget in budgets.items():
            assert len(whole) * lengths[name][whole].max() <= budget
        seen += whole.tolist()
    assert sorted(seen) == list(range(len(pairs)))


@given(costs=st.lists(st.integers(0, 1000), min_size=1, max_size=60), ranks=st.integers(1, 8))
def test_ranks_get_equal_numbers_and_costs_that_differ_by_the_dearest_sample_at_most(
    costs: list[int], ranks: int
) -> None:
    parts = deal(np.array(costs, np.float64), ranks)
    assert sorted(place for part in parts for place in part.tolist()) == list(range(len(costs)))
    sizes, totals = [len(part) for part in parts], [sum(costs[place] for place in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(totals) - min(totals) <= max(costs)


def test_a_sample_over_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget of 8 frames must hold the longest sample, which has 9"):
        LengthBudget({"frames": np.array([3, 9])}, {"frames": 8}, World(), seed=0, shuffle=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"), num_samples=23)


def budgeted(dataset: ShardDataset, rank: int = 0, size: int = 1) -> ShardLoader:
    lengths = {"frames": np.arange(23) % 7, "tokens": np.arange(23) * 5 % 11}
    config = LoaderConfig(length_budget={"frames": 24, "tokens": 40}, seed=3)
    world = World(rank=rank, size=size)
    return ShardLoader(dataset, config, world=world, reads=Reads(fields=("target",), lengths=lengths))


def test_a_budgeted_loader_resumes_at_every_step_on_any_world(dataset: ShardDataset) -> None:
    whole = budgeted(dataset)
    states, batches = [], []
    for _ in range(2):
        states.append(whole.state_dict())
        for batch in whole:
            batches.append(sorted(batch["index"].tolist()))
            states.append(whole.state_dict())
        states.pop()
    assert sorted(index for batch in batches for index in batch) == sorted([*range(23)] * 2)
    for step in range(0, len(batches), 3):
        ranks = [budgeted(dataset, rank, 2) for rank in range(2)]
        rest: list[list[int]] = []
        for part in ranks:
            part.load_state_dict(states[step])
        while len(rest) < len(batches) - step:
            rest += [
                sorted(index for batch in parts for index in batch["index"].tolist() if index >= 0)
                for parts in zip(*ranks, strict=True)
            ]
        assert rest == batches[step:]


def test_a_state_of_another_budget_is_refused(dataset: ShardDataset) -> None:
    state = budgeted(dataset).state_dict()
    with pytest.raises(ValueError, match="length_budget"):
        budgeted(dataset).load_state_dict(state | {"length_budget": {"frames": 24}})
    with pytest.raises(ValueError, match="does not fit"):
        ShardLoader(dataset, LoaderConfig(seed=3, drop_last=False), reads=Reads(fields=("target",))).load_state_dict(
            state
        )


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({}, "no length is known of tokens, .* only of nothing"),
        ({"frames": np.arange(23)}, r"no length is known of tokens, .* only of \['frames'\]"),
        ({"tokens": np.arange(22)}, "each of the 23 samples, got 22"),
    ],
)
def test_a_budget_needs_a_length_of_every_sample(
    dataset: ShardDataset, lengths: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardLoader(dataset, LoaderConfig(length_budget={"tokens": 99}), reads=Reads(fields=("clip",), lengths=lengths))


@pytest.mark.parametrize("budget", [{}, {"tokens": 0}])
def test_a_budget_of_nothing_is_refused(budget: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="length_budget"):
        LoaderConfig(length_budget=budget)

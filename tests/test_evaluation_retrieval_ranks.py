"""Ranks of retrieval: hand-worked cases, ties, several captions, and a brute-force count."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.retrieval_ranks import Ranks, bootstrap, summarize, text_to_video, video_to_text


def matrix(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def one_caption_each(rows: Sequence[Sequence[float]]) -> tuple[Ranks, Ranks]:
    similarity, owner = matrix(rows), torch.arange(len(rows))
    return text_to_video(similarity, owner), video_to_text(similarity, owner)


NO_TIES = [[0.8, 0.3, 0.1], [0.7, 0.6, 0.2], [0.9, 0.5, 0.4]]
EVEN = [[0.9, 0.1, 0.2, 0.3], [0.6, 0.5, 0.1, 0.2], [0.9, 0.8, 0.3, 0.4], [0.7, 0.6, 0.5, 0.1]]
CONSTANT = [[0.5] * 4] * 4
ONE_TIED_ROW = [[0.7, 0.7, 0.0], [0.1, 0.9, 0.2], [0.3, 0.3, 0.3]]


@pytest.mark.parametrize(
    ("rows", "to_video", "to_text"),
    [
        (NO_TIES, [1, 2, 3], [2, 1, 1]),
        (EVEN, [1, 2, 4, 4], [1.5, 3, 2, 4]),
        (CONSTANT, [2.5] * 4, [2.5] * 4),
        (ONE_TIED_ROW, [1.5, 1, 2], [1, 1, 1]),
        ([[0.2]], [1], [1]),
    ],
)
def test_the_rank_of_the_right_answer_counts_what_is_higher_and_half_of_what_is_equal(
    rows: list[list[float]], to_video: list[float], to_text: list[float]
) -> None:
    found = one_caption_each(rows)
    assert [ranks.values.tolist() for ranks in found] == [to_video, to_text]


def test_a_collapsed_model_stands_in_the_middle_and_its_ties_are_counted() -> None:
    ranks, _ = one_caption_each(CONSTANT)
    assert summarize(ranks) == {"r1": 0.0, "r5": 1.0, "r10": 1.0, "median_rank": 2.5, "mean_rank": 2.5}
    assert (ranks.num_tied, ranks.num_candidates) == (4, 4)


def test_the_median_of_an_even_number_of_queries_is_the_mean_of_the_two_middle_ones() -> None:
    ranks, _ = one_caption_each(EVEN)
    assert summarize(ranks) == {"r1": 0.25, "r5": 1.0, "r10": 1.0, "median_rank": 3.0, "mean_rank": 2.75}


def test_every_caption_is_a_query_and_a_group_scores_as_its_best_caption() -> None:
    similarity = matrix(
        [
            [0.9, 0.1, 0.3],  # of video 0: rank 1
            [0.2, 0.8, 0.4],  # of video 0: rank 3
            [0.5, 0.7, 0.6],  # of video 1: rank 1
            [0.1, 0.3, 0.2],  # of video 2: rank 2
            [0.6, 0.2, 0.5],  # of video 2: rank 2
        ]
    )
    owner = torch.tensor([0, 0, 1, 2, 2])
    to_video, to_text = text_to_video(similarity, owner), video_to_text(similarity, owner)
    assert to_video.values.tolist() == [1, 3, 1, 2, 2]
    assert summarize(to_video)["mean_rank"] == 9 / 5  # over captions, not over videos
    # groups x videos: [0.9, 0.8, 0.4], [0.5, 0.7, 0.6], [0.6, 0.3, 0.5]
    assert to_text.values.tolist() == [1, 2, 2]
    assert (to_video.num_candidates, to_text.num_candidates) == (3, 3)


def test_a_video_without_captions_is_a_wrong_answer_and_asks_nothing() -> None:
    similarity, owner = matrix([[0.1, 0.9, 0.0], [0.2, 0.3, 0.4]]), torch.tensor([0, 2])
    to_video, to_text = text_to_video(similarity, owner), video_to_text(similarity, owner)
    assert to_video.values.tolist() == [2, 1]
    assert to_text.values.tolist() == [2, 1]
    assert to_text.owner.tolist() == [0, 2]
    assert (to_video.num_candidates, to_text.num_candidates) == (3, 2)


def test_what_has_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="no video has a caption"):
        text_to_video(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="do not lie together"):
        video_to_text(torch.zeros(2, 2), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="are not numbers"):
        text_to_video(torch.full((2, 2), torch.nan), torch.arange(2))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """Small whole similarities, so that many are equal, and captions of some of the videos."""
    num_videos = draw(st.integers(1, 7))
    captions = draw(st.lists(st.integers(0, 3), min_size=num_videos, max_size=num_videos).filter(any))
    owner = [video for video, count in enumerate(captions) for _ in range(count)]
    row = st.lists(st.integers(0, 4), min_size=num_videos, max_size=num_videos)
    return draw(st.lists(row, min_size=len(owner), max_size=len(owner))), owner


def mean_place(scores: Sequence[int], right: int) -> float:
    """The mean of the first and the last place that sorting could give the right answer."""
    best_first = sorted(scores, reverse=True)
    first = best_first.index(scores[right]) + 1
    last = len(scores) - best_first[::-1].index(scores[right])
    return (first + last) / 2


@given(problems())
def test_ranks_are_those_of_a_brute_force_sort(problem: tuple[list[list[int]], list[int]]) -> None:
    rows, owner = problem
    similarity, owners = matrix(rows), torch.tensor(owner)
    assert text_to_video(similarity, owners).values.tolist() == [
        mean_place(row, video) for row, video in zip(rows, owner, strict=True)
    ]
    groups = sorted(set(owner))
    best = {
        (group, video): max(row[video] for row, own in zip(rows, owner, strict=True) if own == group)
        for group in groups
        for video in groups
    }
    assert video_to_text(similarity, owners).values.tolist() == [
        mean_place([best[group, video] for group in groups], groups.index(video)) for video in groups
    ]


def ranks_of(values: Sequence[float], owner: Sequence[int]) -> Ranks:
    return Ranks(values=np.array(values, float), owner=np.array(owner), num_tied=0, num_candidates=100)


@given(problems(), st.integers(0, 3))
def test_intervals_lie_around_what_a_slow_bootstrap_finds(
    problem: tuple[list[list[int]], list[int]], seed: int
) -> None:
    rows, owner = problem
    ranks = text_to_video(matrix(rows), torch.tensor(owner))
    random, videos = np.random.default_rng(seed), np.unique(ranks.owner)
    slow = []
    for _ in range(20):
        drawn = videos[random.integers(len(videos), size=len(videos))]
        values = np.concatenate([ranks.values[ranks.owner == video] for video in drawn])
        slow.append(summarize(ranks_of(values.tolist(), [0] * len(values))))
    for name, (low, high) in bootstrap(ranks, 20, seed).items():
        expected = np.quantile([each[name] for each in slow], (0.025, 0.975))
        assert (low, high) == pytest.approx(tuple(expected))


def test_captions_of_one_video_are_drawn_together() -> None:
    values = [1.0] * 10 + [50.0] * 10
    by_video = bootstrap(ranks_of(values, [0] * 10 + [1] * 10), 200, seed=0)
    assert by_video["r1"] == (0.0, 1.0)
    apart = bootstrap(ranks_of(values, list(range(20))), 200, seed=0)
    assert apart["r1"][0] > 0.2
    assert apart["r1"][1] < 0.8


def test_the_interval_covers_the_true_recall_in_about_95_of_100_sets_of_videos() -> None:
    random, covered = np.random.default_rng(0), 0
    for trial in range(300):
        hit = random.random(100) < 0.3
        low, high = bootstrap(ranks_of(np.where(hit, 1, 20).tolist(), list(range(100))), 200, seed=trial)["r1"]
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_one_video_has_one_interval_of_no_width() -> None:
    assert bootstrap(ranks_of([3.0], [0]), 10, seed=0)["median_rank"] == (3.0, 3.0)

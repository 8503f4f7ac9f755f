"""Accuracies, confusions and intervals, against scikit-learn, scipy and cases worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from evaluation.choice import held_out_part, labelled_part
from evaluation.classified import classify
from evaluation.scores import (
    Held,
    bootstrap_interval,
    confusion,
    mean_class,
    per_class,
    top_k,
    wilson_interval,
)


def drawn(count: int, num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return torch.rand(count, num_classes, generator=generator).softmax(dim=1), labels


def held(labels: torch.Tensor) -> Held:
    return Held.of(labels, [f"v{number}" for number in range(len(labels))])


@given(count=st.integers(1, 60), num_classes=st.integers(2, 9), k=st.integers(1, 8), seed=st.integers(0, 999))
def test_top_k_is_that_of_scikit_learn(count: int, num_classes: int, k: int, seed: int) -> None:
    scores, labels = drawn(count, num_classes, seed)
    expected = 1.0
    if k < num_classes:
        target = scores.numpy()[:, 1] if num_classes == 2 else scores.numpy()
        if num_classes > 2:
            expected = top_k_accuracy_score(labels.numpy(), target, k=k, labels=range(num_classes))
        else:
            expected = float((scores.argmax(dim=1) == labels).float().mean())
    assert float(top_k(scores, labels, k).double().mean()) == pytest.approx(expected)


def test_of_equal_scores_the_first_class_counts_as_argmax_has_it() -> None:
    scores, labels = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.4, 0.4]]), torch.tensor([1, 1])
    assert top_k(scores, labels, 1).tolist() == [False, True]
    assert top_k(scores, labels, 2).tolist() == [True, True]
    assert top_k(torch.full((3, 3), 0.25), torch.tensor([0, 1, 2]), 1).tolist() == [True, False, False]


@given(count=st.integers(2, 60), num_classes=st.integers(2, 6), seed=st.integers(0, 999))
def test_confusions_and_class_means_are_those_of_scikit_learn(count: int, num_classes: int, seed: int) -> None:
    scores, labels = drawn(count, num_classes, seed)
    guess, names = scores.argmax(dim=1), [f"c{number}" for number in range(num_classes)]
    table = [[row["predicted"].get(name, 0) for name in names] for row in confusion(guess, labels, names)]
    assert np.array_equal(table, confusion_matrix(labels, guess, labels=range(num_classes)))
    correct = (guess == labels).float()
    there = sorted(set(labels.tolist()))
    expected = np.mean([float(correct[labels == each].mean()) for each in there])
    assert mean_class(correct, labels) == pytest.approx(expected, abs=1e-6)
    if len(there) > 1 and set(guess.tolist()) <= set(there):
        assert mean_class(correct, labels) == pytest.approx(balanced_accuracy_score(labels, guess), abs=1e-6)


def test_a_class_that_is_not_there_has_no_accuracy() -> None:
    rows = per_class(torch.tensor([1.0, 0.0]), torch.tensor([2, 2]), ["a", "b", "c"])
    assert rows[1] == {"class": "b", "count": 0, "top1": None}
    assert rows[2] == {"class": "c", "count": 2, "top1": 0.5}


def test_the_scores_of_a_videos_views_are_averaged() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.2, 0.8]])
    of = Held.of(torch.tensor([0, 1, 0, 0]), ["a", "b", "a", "a"])
    assert of.names == ("a", "b")
    torch.testing.assert_close(of.average(scores), torch.tensor([[0.5, 0.5], [0.3, 0.7]]))
    found = classify([scores], of, ["x", "y"])
    assert found.metrics["top1"] == 1.0  # a tie goes to the first class, which is the label
    assert found.protocol["most_views"] == 3
    assert [row["key"] for row in found.rows] == ["a", "b"]


def test_views_of_one_video_with_different_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="the views of video 'a' have different labels"):
        Held.of(torch.tensor([0, 1]), ["a", "a"])


def test_one_sample_and_one_class_give_right_numbers() -> None:
    found = classify([torch.tensor([[1.0]])], held(torch.tensor([0])), ["only"])
    assert found.metrics["top1"] == found.metrics["mean_class_top1"] == 1.0
    assert found.intervals["top1"] == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert found.intervals["mean_class_top1"] == (1.0, 1.0)
    assert "top5" not in found.metrics  # it would be 1 whatever is said


def test_no_sample_and_an_unknown_label_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no held-out sample with a label"):
        classify([torch.zeros(0, 2)], held(torch.zeros(0, dtype=torch.int64)), ["a", "b"])
    with pytest.raises(ValueError, match="label 4 does not exist: there are 2 classes"):
        classify([torch.zeros(1, 2)], held(torch.tensor([4])), ["a", "b"])


@pytest.mark.parametrize(("right", "count"), [(0, 7), (3, 7), (240, 240), (81, 263)])
def test_wilsons_interval_is_that_of_scipy(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_the_bootstrap_is_that_of_scipy_within_its_noise() -> None:
    values = np.random.default_rng(0).random(200)
    low, high = bootstrap_interval(lambda drawn: float((drawn * torch.from_numpy(values)).sum() / drawn.sum()), 200)
    expected = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.006)


def test_the_bootstrap_draws_the_same_by_seed() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        bootstrap_interval(lambda drawn: float((drawn * values).sum()), 50, seed) for seed in (0, 0, 1)
    )
    assert first == again != other


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=80),
    views=st.integers(1, 3),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_what_is_drawn_is_drawn_by_video_and_by_seed(labels: list[int], views: int, share: float, seed: int) -> None:
    videos = [f"v{number}" for number in range(len(labels)) for _ in range(views)]
    of_samples = torch.tensor(labels).repeat_interleave(views)
    out = held_out_part(videos, share, seed)
    assert torch.equal(out, held_out_part(videos, share, seed))
    assert 0 < out.sum() < len(out)
    used = labelled_part(of_samples, videos, share, seed)
    for mask in (out, used):
        assert torch.equal(mask.view(-1, views).all(dim=1), mask.view(-1, views).any(dim=1))
    for label in set(labels):
        count = int(used[of_samples == label].sum()) // views
        assert count == int(np.ceil(share * labels.count(label) - 1e-9))
    assert bool((labelled_part(of_samples, videos, min(1.0, share * 1.5), seed) | ~used).all())  # a part of the larger

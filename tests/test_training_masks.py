"""What is found in a frame against what is there: matching by brute force, and losses that are known beforehand."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model.sam3 import Predictions
from tests.sam3_students import MASK_SIDE, NUM_OBJECTS, random_batch
from training.masks_losses import WEIGHTS, box_giou, dice_loss, feature_losses, mask_ious, mask_losses
from training.masks_matching import match_greedily, matching_costs

SURE = 20.0  # a logit
TERMS = ("dice", "bce", "box_l1", "box_giou", "iou_error")


def greedy_by_hand(costs: np.ndarray, real: np.ndarray) -> dict[int, int]:
    """Object -> prediction: all pairs in the order of their costs, each taken that is still free."""
    pairs = itertools.product(range(costs.shape[0]), np.flatnonzero(real).tolist())
    chosen: dict[int, int] = {}
    for query, number in sorted(pairs, key=lambda pair: costs[pair]):
        if number not in chosen and query not in chosen.values():
            chosen[number] = query
    return chosen


def as_dict(queries: Tensor, matched: Tensor) -> dict[int, int]:
    return {number: int(queries[number]) for number in matched.nonzero()[:, 0].tolist()}


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 6))
def test_the_cheapest_pair_of_all_that_are_left_is_taken_each_time(seed: int, num_queries: int, most: int) -> None:
    random = np.random.default_rng(seed)
    costs = random.random((3, num_queries, most), np.float32)
    real = random.random((3, most)) < 0.7
    queries, matched = match_greedily(torch.from_numpy(costs), torch.from_numpy(real))
    for row in range(3):
        assert as_dict(queries[row], matched[row]) == greedy_by_hand(costs[row], real[row])
    assert (matched.sum(dim=1) == torch.from_numpy(real).sum(dim=1).clamp(max=num_queries)).all()
    assert not (matched & ~torch.from_numpy(real)).any()


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_it_costs_at_most_twice_what_the_best_matching_costs_and_is_it_where_costs_are_apart(seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = random.random((1, 10, 5)) + 1  # between 1 and 2
    queries, matched = match_greedily(torch.from_numpy(costs), torch.ones(1, 5, dtype=torch.bool))
    assert bool(matched.all())
    own = costs[0, queries[0].numpy(), np.arange(5)].sum()
    best = costs[0][linear_sum_assignment(costs[0])].sum()
    assert best - 1e-9 <= own <= 2 * best
    right = random.permutation(10)[:5]
    costs[0, right, np.arange(5)] = random.random(5) / 2  # each object has one prediction that is its own
    queries, _ = match_greedily(torch.from_numpy(costs), torch.ones(1, 5, dtype=torch.bool))
    rows, columns = linear_sum_assignment(costs[0])
    assert queries[0].tolist() == right.tolist() == rows[np.argsort(columns)].tolist()


def test_the_best_matching_may_be_another_one() -> None:
    costs = torch.tensor([[[0.0, 0.1], [0.2, 1.0]]])  # taking 0 first leaves 1.0; the best is 0.1 + 0.2
    queries, _ = match_greedily(costs, torch.ones(1, 2, dtype=torch.bool))
    assert queries.tolist() == [[0, 1]]
    assert linear_sum_assignment(costs[0].numpy())[1].tolist() == [1, 0]


def test_a_pair_costs_its_masks_its_boxes_and_its_doubt() -> None:
    masks = torch.full((1, 1, 4, 4), -SURE)
    masks[0, 0, :2] = SURE  # 8 pixels
    objects = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    objects[0, 0, :2] = 1
    objects[0, 1, 1:3] = 1  # 4 of them, and 4 others
    boxes, object_boxes = torch.tensor([[[0.0, 0, 1, 0.5]]]), torch.tensor([[[0.0, 0, 1, 0.5], [0, 0.25, 1, 0.75]]])
    costs = matching_costs(masks, boxes, torch.zeros(1, 1), objects, object_boxes)
    assert costs[0, 0].tolist() == pytest.approx([0.5, (1 - 4 / 12) + 0.5 / 4 + 0.5], abs=1e-5)


def perfect(batch: dict[str, Tensor], num_queries: int = 30, seed: int = 0) -> Predictions:
    """The objects themselves, in an order of their own, among queries that found nothing."""
    size, generator = len(batch["num_objects"]), torch.Generator().manual_seed(seed)
    masks = torch.full((size, num_queries, MASK_SIDE, MASK_SIDE), -SURE)
    boxes, logits = torch.rand(size, num_queries, 4, generator=generator), torch.full((size, num_queries), -SURE)
    for row in range(size):
        places = torch.randperm(num_queries, generator=generator)
        for number in range(int(batch["num_objects"][row])):
            place = places[number]
            masks[row, place] = (batch["object_masks"][row, number].float() * 2 - 1) * SURE
            boxes[row, place], logits[row, place] = batch["object_boxes"][row, number], SURE
    presence = torch.where(batch["num_objects"] > 0, SURE, -SURE)[:, None].float()
    return Predictions(masks, boxes, logits, presence, logits.sigmoid())


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_perfect_prediction_costs_nothing(count: int) -> None:
    scores = mask_losses(perfect(random_batch([count])), random_batch([count]))
    assert scores["loss"].tolist() == pytest.approx([0.0], abs=1e-4)
    assert all(scores[name].tolist() == pytest.approx([0.0], abs=1e-4) for name in (*TERMS, "presence"))
    assert scores["mask_iou"].tolist() == pytest.approx([1.0])
    assert scores["num_matched"].tolist() == [count]


def test_a_prediction_of_nothing_costs_all_that_it_misses() -> None:
    batch = random_batch([2])
    found = perfect(batch)
    found = found._replace(masks=torch.full_like(found.masks, -SURE), boxes=found.boxes * 0, presence=-found.presence)
    scores = mask_losses(found, batch)
    areas = batch["object_masks"][0, :2].flatten(1).sum(dim=1).float()
    assert float(scores["dice"]) == pytest.approx(float((1 - 1 / (areas + 1)).mean()), rel=1e-4)
    assert float(scores["bce"]) == pytest.approx(SURE * float(areas.mean()) / MASK_SIDE**2, rel=1e-4)
    assert float(scores["box_l1"]) == pytest.approx(float(batch["object_boxes"][0, :2].sum(dim=1).mean()), rel=1e-5)
    assert float(scores["box_giou"]) > 1
    assert float(scores["presence"]) == pytest.approx(SURE)
    assert float(scores["mask_iou"]) == 0
    assert float(scores["loss"]) == pytest.approx(sum(weight * float(scores[n]) for n, weight in WEIGHTS.items()))
    assert WEIGHTS == {"dice": 5, "bce": 5, "box_l1": 5, "box_giou": 2, "iou_error": 2, "presence": 1}


def test_of_25_objects_the_20_that_were_drawn_are_scored() -> None:
    batch = random_batch([NUM_OBJECTS])
    found = perfect(batch)
    batch["num_objects"] += 5
    scores = mask_losses(found, batch)
    assert scores["num_matched"].tolist() == [20.0]
    assert scores["loss"].tolist() == pytest.approx([0.0], abs=1e-4)


def test_where_there_is_no_object_the_presence_alone_counts() -> None:
    batch = random_batch([0, 0])
    found = perfect(batch)._replace(presence=torch.tensor([[-SURE], [0.0]]))
    scores = mask_losses(found, batch)
    assert scores["loss"].tolist() == pytest.approx([0.0, np.log(2)], abs=1e-5)
    assert all(scores[name].tolist() == [0.0, 0.0] for name in (*TERMS, "mask_iou", "num_matched"))


def test_an_object_that_was_lost_in_resizing_is_present_and_otherwise_left_out() -> None:
    batch = random_batch([0, 1])
    batch["num_lost"] = torch.tensor([1, 2])
    found = perfect(batch)._replace(presence=torch.full((2, 1), SURE))
    scores = mask_losses(found, batch)
    assert scores["loss"].tolist() == pytest.approx([0.0, 0.0], abs=1e-4)
    assert scores["num_lost"].tolist() == [1.0, 2.0]
    assert scores["num_matched"].tolist() == [0.0, 1.0]


def test_a_mask_without_a_pixel_is_no_object() -> None:
    batch, alone = random_batch([2]), random_batch([2])
    batch["object_masks"][0, 1] = 0
    alone["num_objects"] -= 1
    found = perfect(alone)
    assert mask_losses(found, batch)["loss"].tolist() == mask_losses(found, alone)["loss"].tolist()
    batch["object_masks"][0, 0] = 0
    none = mask_losses(found, batch)
    assert none["loss"].tolist() == none["presence"].tolist() == pytest.approx([SURE])


def test_of_more_objects_than_predictions_those_that_fit_best_are_scored() -> None:
    batch = random_batch([NUM_OBJECTS])
    found = perfect(random_batch([NUM_OBJECTS]))
    best = found.logits[0].argsort(descending=True)[:10]
    masks, boxes, logits, ious = (part[:, best] for part in (*found[:3], found.ious))
    few = Predictions(masks, boxes, logits, found.presence, ious)
    scores = mask_losses(few, batch)
    assert scores["num_matched"].tolist() == [10.0]
    assert scores["loss"].tolist() == pytest.approx([0.0], abs=1e-4)


def test_what_stands_behind_the_objects_of_a_row_has_no_part() -> None:
    batch, other = random_batch([3, 1]), random_batch([3, 1])
    for row, count in enumerate((3, 1)):
        other["object_masks"][row, count:] = 1
        other["object_boxes"][row, count:] = 0.3
    found = perfect(random_batch([2, 2], seed=8))
    one, two = mask_losses(found, batch), mask_losses(found, other)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_rows_do_not_depend_on_each_other() -> None:
    batch = random_batch([3, 0, 1])
    found = perfect(random_batch([2, 2, 2], seed=8))
    together = mask_losses(found, batch)
    for row in range(3):
        own = {name: value[row : row + 1] for name, value in batch.items()}
        alone = mask_losses(Predictions._make(part[row : row + 1] for part in found), own)
        assert alone["loss"].tolist() == pytest.approx(together["loss"][row : row + 1].tolist(), rel=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([0, 1, 5, 20]), st.sampled_from([1e-3, 1.0, 1e4]))
def test_loss_and_gradients_are_finite_whatever_is_found(seed: int, count: int, loud: float) -> None:
    batch, generator = random_batch([count, 1], seed=seed % 1000), torch.Generator().manual_seed(seed)
    parts: list[Any] = [
        (loud * torch.randn(2, 7, *shape, generator=generator)).requires_grad_() for shape in ((48, 48), (4,), ())
    ]
    presence = torch.zeros(2, 1, requires_grad=True)
    masks, boxes, logits = parts
    scores = mask_losses(Predictions(masks, boxes, logits, presence, logits.sigmoid()), batch)
    scores["loss"].sum().backward()  # type: ignore[no-untyped-call]
    assert all(value.isfinite().all() for value in scores.values())
    assert all(part.grad is not None and part.grad.isfinite().all() for part in (*parts, presence))


def test_terms_are_what_they_are_called() -> None:
    found, real = torch.zeros(1, 1, 4, 4, dtype=torch.bool), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    found[..., :2, :], real[..., 1:3, :] = True, True
    assert mask_ious(found, real).tolist() == [[pytest.approx(4 / 12)]]
    logits = torch.where(found, SURE, -SURE)
    assert dice_loss(logits, real.float()).tolist()[0] == pytest.approx([1 - (2 * 4 + 1) / (8 + 8 + 1)], abs=1e-5)
    a, b = torch.tensor([[0.0, 0, 0.5, 1]]), torch.tensor([[0.5, 0, 1, 1], [0.25, 0, 0.75, 1], [0, 0, 0.5, 1]])
    assert box_giou(a, b).tolist() == pytest.approx([0.0, 1 / 3, 1.0], abs=1e-5)
    far = box_giou(torch.tensor([0.0, 0, 0.1, 0.1]), torch.tensor([0.9, 0.9, 1, 1]))
    assert float(far) == pytest.approx(-0.98, abs=1e-5)


def test_features_are_compared_by_their_distance_and_their_angle_and_refused_in_another_shape() -> None:
    seen = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    same = feature_losses(seen, seen.clone())
    assert same["feature_mse"].tolist() == [0.0, 0.0]
    assert same["feature_cosine"].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    twice = feature_losses(2 * seen, seen)
    assert twice["feature_mse"].tolist() == pytest.approx(seen.square().mean(dim=(1, 2, 3)).tolist(), rel=1e-5)
    assert feature_losses(-seen, seen)["feature_cosine"].tolist() == pytest.approx([2.0, 2.0], rel=1e-5)
    with pytest.raises(ValueError, match=r"features are \[8, 3, 3\], the stored ones \[8, 4, 4\]"):
        feature_losses(seen, torch.zeros(2, 8, 4, 4))

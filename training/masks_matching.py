"""Which prediction answers for which object: the cheapest pair first, then the cheapest of what is left."""

import torch
from torch import Tensor


def matching_costs(masks: Tensor, boxes: Tensor, logits: Tensor, object_masks: Tensor, object_boxes: Tensor) -> Tensor:
    """What it would cost to match each prediction with each object: (1 - mask IoU) + L1 / 4 + (1 - sigmoid(logit)).

    Args:
        masks: logits `[B, Q, h, w]`.
        boxes: `[B, Q, 4]`.
        logits: `[B, Q]`.
        object_masks: 0 or 1, `[B, N, h, w]`, as they are.
        object_boxes: `[B, N, 4]`.

    Returns:
        f32 `[B, Q, N]`. The IoU is that of probabilities; L1 is the sum over a box's four numbers.
    """
    found, real = masks.float().sigmoid().flatten(2), object_masks.float().flatten(2)
    both = found @ real.transpose(1, 2)  # [B, Q, N]
    either = found.sum(dim=2)[:, :, None] + real.sum(dim=2)[:, None] - both
    apart = (boxes.float()[:, :, None] - object_boxes.float()[:, None]).abs().sum(dim=-1)
    return (1 - both / either.clamp(min=1e-6)) + apart / 4 + (1 - logits.float().sigmoid())[:, :, None]


def match_greedily(costs: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Match predictions with objects, one with one, the cheapest pair of all that are left first.

    Nothing waits for the device. Of equally cheap pairs the first prediction is taken, and of those its first object.

    Args:
        costs: `[B, Q, N]`, finite.
        real: bool `[B, N]`, which objects there are.

    Returns:
        i64 `[B, N]`, the prediction of each object, and bool `[B, N]`, whether it has one: a real object without is one
        of more than there are predictions.
    """
    num_queries, num_objects = costs.shape[1:]
    left = costs.detach().masked_fill(~real[:, None], torch.inf)
    chosen = torch.zeros(real.shape, dtype=torch.long, device=costs.device)
    matched = torch.zeros_like(real)
    queries = torch.arange(num_queries, device=costs.device)
    objects = torch.arange(num_objects, device=costs.device)
    for _ in range(min(num_queries, num_objects)):
        lowest, place = left.flatten(1).min(dim=1)  # [B]
        query, number = place // num_objects, place % num_objects
        takes = (objects == number[:, None]) & lowest.isfinite()[:, None]  # [B, N]
        chosen, matched = torch.where(takes, query[:, None], chosen), matched | takes
        gone = (queries == query[:, None])[:, :, None] | (objects == number[:, None])[:, None]
        left = left.masked_fill(gone, torch.inf)
    return chosen, matched

"""What predicted masks, boxes and scores cost against the objects of a frame, sample by sample and term by term."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from model.sam3 import Predictions
from training.masks_matching import match_greedily, matching_costs

WEIGHTS = {"dice": 5.0, "bce": 5.0, "box_l1": 5.0, "box_giou": 2.0, "iou_error": 2.0, "presence": 1.0}
EPS = 1e-6


def mask_losses(found: Predictions, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Match predictions with objects and score them.

    An object counts whose mask has a pixel; one that was lost in resizing is present and otherwise left out, as is one
    for which no prediction is left. Where there is no object, the presence alone is scored.

    Args:
        found: of B frames.
        batch: `object_masks` (0 or 1, `[B, N, h, w]`), `object_boxes` (`[B, N, 4]`), `num_objects` and `num_lost`
            (i64 `[B]`), of which the first says how many of the N are real.

    Returns:
        f32 `[B]` each. `loss` is the sum of the terms, times `WEIGHTS`: means over the matched objects of `dice`, `bce`
        (mean over pixels), `box_l1` (sum of four numbers), `box_giou` (1 - GIoU) and `iou_error` (squared, of
        `found.ious` and the true IoU); and `presence`. Beside it `mask_iou`, `num_matched` and `num_lost`.
    """
    with torch.autocast(found.masks.device.type, enabled=False):
        masks, objects = _at_size(found.masks.float(), batch["object_masks"]), batch["object_masks"].float()
        real = torch.arange(objects.shape[1], device=objects.device) < batch["num_objects"][:, None]
        real &= objects.flatten(2).any(dim=2)
        logits, boxes = found.logits.float(), found.boxes.float()
        costs = matching_costs(masks.detach(), boxes, logits, objects, batch["object_boxes"])
        queries, matched = match_greedily(costs, real)
        share = matched.float() / matched.sum(dim=1, keepdim=True).clamp(min=1)  # [B, N]
        masks, boxes = _of(masks, queries), _of(boxes, queries)
        ious = mask_ious(masks.detach() > 0, objects > 0)
        each = {
            "dice": dice_loss(masks, objects),
            "bce": F.binary_cross_entropy_with_logits(masks, objects, reduction="none").mean(dim=(2, 3)),
            "box_l1": (boxes - batch["object_boxes"].float()).abs().sum(dim=-1),
            "box_giou": 1 - box_giou(boxes, batch["object_boxes"].float()),
            "iou_error": (_of(found.ious.float(), queries) - ious).square(),
            "mask_iou": ious,
        }
        scores = {name: (value * share).sum(dim=1) for name, value in each.items()}
        present = (real.any(dim=1) | (batch["num_lost"] > 0)).float()
        scores["presence"] = F.binary_cross_entropy_with_logits(found.presence.float()[:, 0], present, reduction="none")
        loss = torch.stack([weight * scores[name] for name, weight in WEIGHTS.items()]).sum(dim=0)
        counts = {"num_matched": matched.sum(dim=1).float(), "num_lost": batch["num_lost"].float()}
    return {"loss": loss, **scores, **counts}


def feature_losses(seen: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """How far features are from those of a teacher, both `[B, C, h, w]`.

    Returns:
        f32 `[B]` each: `feature_mse`, and `feature_cosine`, 1 - the cosine of each place's channels, mean over places.

    Raises:
        ValueError: the shapes differ; it names both.
    """
    if seen.shape != wanted.shape:
        raise ValueError(
            f"the student's features are {list(seen.shape[1:])}, the stored ones {list(wanted.shape[1:])}: take a "
            "student whose pyramid is as wide as the teacher's and whose level 3 is as large at this size of frames"
        )
    with torch.autocast(seen.device.type, enabled=False):
        seen, wanted = seen.float(), wanted.float()
        cosine = F.cosine_similarity(seen, wanted, dim=1)  # [B, h, w]
        return {
            "feature_mse": (seen - wanted).square().mean(dim=(1, 2, 3)),
            "feature_cosine": 1 - cosine.mean(dim=(1, 2)),
        }


def dice_loss(masks: Tensor, objects: Tensor) -> Tensor:
    """Of logits and of 0 or 1, `[B, N, h, w]`: 1 - (2 |A and B| + 1) / (|A| + |B| + 1), `[B, N]`."""
    found, real = masks.sigmoid().flatten(2), objects.flatten(2)
    return 1 - (2 * (found * real).sum(dim=2) + 1) / (found.sum(dim=2) + real.sum(dim=2) + 1)


def mask_ious(found: Tensor, real: Tensor) -> Tensor:
    """Intersection over union of bool masks `[B, N, h, w]`: f32 `[B, N]`, 0 of two empty ones."""
    both, either = (found & real).flatten(2).sum(dim=2), (found | real).flatten(2).sum(dim=2)
    return both / either.clamp(min=1)


def box_giou(found: Tensor, real: Tensor) -> Tensor:
    """Generalised IoU (arXiv 1902.09630) of boxes `[..., 4]`, xyxy: from -1 to 1; finite for boxes without an area."""
    inner = (torch.minimum(found, real)[..., 2:] - torch.maximum(found, real)[..., :2]).clamp(min=0).prod(dim=-1)
    outer = (torch.maximum(found, real)[..., 2:] - torch.minimum(found, real)[..., :2]).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (found, real)]
    either = areas[0] + areas[1] - inner
    return inner / either.clamp(min=EPS) - (outer - either) / outer.clamp(min=EPS)


def _at_size(masks: Tensor, objects: Tensor) -> Tensor:
    """Logits at the size at which objects are compared."""
    size = objects.shape[-2:]
    return masks if masks.shape[-2:] == size else F.interpolate(masks, size, mode="bilinear", align_corners=False)


def _of(values: Tensor, queries: Tensor) -> Tensor:
    """Of `[B, Q, ...]`, those of queries `[B, N]`: `[B, N, ...]`."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, queries]

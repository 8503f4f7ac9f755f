"""What a memory of past frames is worth to a student that finds objects.

The same queries are asked with the right memory, with none, and with another video's:

    J of optimally matched masks, presence beside its base rate, the loss; differences paired, sample by sample
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.mask_scores import matched_ious
from evaluation.ranks import gather_rows
from evaluation.result import Result, Split
from evaluation.scores import wilson_interval
from evaluation.standard_errors import interval_of_mean, paired
from model.sam3 import Predictions
from pipeline.world import World

Memory = Literal["right", "none", "other"]
MEMORIES: tuple[Memory, ...] = get_args(Memory)
WHATS = ("loss", "iou", "presence")  # less of the first and more of the others is better


class Finder(Protocol):
    """What is asked of an objective."""

    def find(self, batch: Mapping[str, Tensor]) -> Predictions:
        """What is found in the frames of a batch, with `fpn` as the past where the batch has it, without otherwise."""
        ...

    def score(self, found: Predictions, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What that costs against the objects of the batch: `loss` `[B]` among others."""
        ...


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """What is measured.

    Attributes:
        memories: "none" alone for a student that has no memory.
        num_context: frames that it remembers when it watches a whole video; 0 for a student that has no memory.
    """

    memories: tuple[Memory, ...] = MEMORIES
    num_context: int = 0

    def __post_init__(self) -> None:
        if not self.memories or len(set(self.memories)) < len(self.memories) or not set(self.memories) <= set(MEMORIES):
            named = ", ".join(self.memories) or "none named"
            raise ValueError(f"the memories are {named}; name each once of {', '.join(MEMORIES)}")


@torch.no_grad()
def measure_masks(model: nn.Module, data: Mapping[str, Split], config: MasksConfig, world: World) -> Result:
    """Measure an objective's student on fixed queries; an evaluator, see `evaluation.result`.

    Returns:
        Metrics, by memory: `loss_MEMORY`; `iou_MEMORY`, the mean over samples with objects of their mean J, each object
        with a mask of its own so that the sum is most; `presence_MEMORY`, how often it is rightly said whether there is
        any object, and `presence_base_rate`, how often the commoner answer alone is right. `WHAT_gain_BASELINE` is by
        how much the right memory is better than a baseline, `WHAT_gain_BASELINE_errors` that in standard errors of the
        paired difference. What there is nothing to take from is left out.
    """
    finder, split, device = cast(Finder, model), data["val"], torch.device("cpu")
    was_training = model.training
    model.eval()
    parts = []
    for batch, other in _with_others(split.batches):
        device = batch["index"].device
        parts.append(_score(finder, batch, other, config)[batch["valid"].cpu()])
    model.train(was_training)
    columns = ["index", "num_objects", "any", *(f"{what}_{memory}" for memory in config.memories for what in WHATS)]
    rows = torch.cat(parts) if parts else torch.zeros(0, len(columns), dtype=torch.float64)
    rows = gather_rows(rows, world, device).cpu()
    rows = rows[rows[:, 0].argsort()]
    table = dict(zip(columns, rows.unbind(dim=1), strict=True))
    return Result(
        metrics=_metrics(table, config),
        intervals=_intervals(table, config),
        rows=[_spelled(row, columns, split) for row in rows.tolist()],
        protocol={
            "evaluator": "masks",
            "memories": list(config.memories),
            "matching": "optimal, by mask IoU, of all queries",
            "other": "the memory of the sample before",
        },
        digests={"val": split.digest},
    )


def _with_others(batches: Iterable[Mapping[str, Tensor]]) -> Iterator[tuple[Mapping[str, Tensor], Tensor | None]]:
    """Batches, and for each row the `fpn` of the row before; the first of all takes that of its batch's last.

    None where a batch has none, or a single row is all there is.
    """
    before: Tensor | None = None
    for batch in batches:
        context, other = batch.get("fpn"), None
        if context is not None:
            real = context[batch["valid"]]
            before = real[-1:] if before is None and len(real) > 1 else before
            if before is not None:
                other = torch.cat([before, context[:-1]])
            before = real[-1:].clone() if len(real) else before  # the batch's memory is filled again
        yield batch, other


def _score(finder: Finder, batch: Mapping[str, Tensor], other: Tensor | None, config: MasksConfig) -> Tensor:
    """A row for each sample, f64 on the CPU: its number, its objects, and what there is of each memory."""
    alone = {name: value for name, value in batch.items() if name != "fpn"}
    pasts = {"right": batch.get("fpn"), "other": other}
    there = (batch["num_objects"] + batch["num_lost"] > 0).cpu()
    columns = [batch["index"].cpu(), batch["num_objects"].cpu(), there]
    for memory in config.memories:
        past = pasts.get(memory)
        if memory != "none" and past is None:
            columns += [torch.full((len(there),), math.nan)] * len(WHATS)
            continue
        found = finder.find(alone if past is None else {**alone, "fpn": past})
        said = (found.presence[:, 0] > 0).cpu()
        columns += [finder.score(found, alone)["loss"].cpu(), _ious(found.masks, batch), said == there]
    return torch.stack([column.double() for column in columns], dim=1)


def _ious(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean J of each sample's objects, `[B]`; not a number where it has none."""
    size = batch["object_masks"].shape[-2:]
    found = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False) > 0
    masks, real = found.cpu().numpy(), batch["object_masks"].bool().cpu().numpy()
    means = []
    for row, count in enumerate(batch["num_objects"].tolist()):
        means.append(float(matched_ious(masks[row], real[row, :count]).mean()) if count else math.nan)
    return torch.tensor(means, dtype=torch.float64)


def _metrics(table: Mapping[str, Tensor], config: MasksConfig) -> dict[str, float]:
    metrics = {f"{what}_{memory}": _mean(table[f"{what}_{memory}"]) for what in WHATS for memory in config.memories}
    share = _mean(table["any"])
    metrics["presence_base_rate"] = max(share, 1 - share)
    for what in WHATS:
        for baseline in config.memories if "right" in config.memories else ():
            if baseline != "right":
                gain, errors = paired(
                    table[f"{what}_right"], table[f"{what}_{baseline}"], less_is_better=what == "loss"
                )
                metrics |= {f"{what}_gain_{baseline}": gain, f"{what}_gain_{baseline}_errors": errors}
    metrics |= {"num_samples": float(len(table["index"])), "num_objects": float(table["num_objects"].sum())}
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _intervals(table: Mapping[str, Tensor], config: MasksConfig) -> dict[str, tuple[float, float]]:
    """Where a mean IoU and a share lie with 95 % confidence, as other videos would have given them."""
    intervals = {}
    for memory in config.memories:
        ious = table[f"iou_{memory}"]
        ious = ious[~ious.isnan()]
        if len(ious) > 1:
            intervals[f"iou_{memory}"] = interval_of_mean(ious)
        right = table[f"presence_{memory}"]
        right = right[~right.isnan()]
        if len(right):
            intervals[f"presence_{memory}"] = wilson_interval(float(right.mean()), len(right))
    return intervals


def _mean(values: Tensor) -> float:
    values = values[~values.isnan()]
    return float(values.mean()) if len(values) else math.nan


def _spelled(row: list[float], columns: list[str], split: Split) -> dict[str, Any]:
    named = dict(zip(columns, row, strict=True))
    key, count, there = split.key_of(int(named.pop("index"))), int(named.pop("num_objects")), bool(named.pop("any"))
    values = {name: None if math.isnan(value) else value for name, value in named.items()}
    return {"key": key, "num_objects": count, "any": there, **values}

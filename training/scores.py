"""Scores of samples, and their weighted means over chunks, steps and ranks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.world import World
from training.distributed import sum_over_ranks, union_over_ranks


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an objective says of some samples.

    Attributes:
        loss: f32 `[B]`.
        weight: f32 `[B]`, how much each counts; 0 for those that could not be read.
        others: f32 `[B]` by name.
    """

    loss: Tensor
    weight: Tensor
    others: Mapping[str, Tensor]

    def loss_sum(self) -> Tensor:
        """The weighted sum of the losses."""
        return self.sum(self.loss)

    def weight_sum(self) -> Tensor:
        """The sum of the weights."""
        return self.weight.sum()

    def sum(self, score: Tensor) -> Tensor:
        """The weighted sum of a score; that of a sample without weight may be anything."""
        return (score * self.weight).where(self.weight > 0, 0).sum()


def score_batch(objective: nn.Module, batch: Mapping[str, Tensor]) -> Scores:
    """Run an objective, and check what it gives.

    Raises:
        ValueError: There is no loss, or a score is not one number a sample.
    """
    given: dict[str, Tensor] = dict(objective(dict(batch)))
    if "loss" not in given:
        raise ValueError(f"the objective gives {', '.join(given) or 'nothing'}; it has to give a loss")
    return weigh(given, batch["valid"])


def weigh(given: Mapping[str, Tensor], valid: Tensor) -> Scores:
    """Scores of samples with how much each counts: by its `weight`, and only if it is `valid`.

    Raises:
        ValueError: A score is not one number a sample.
    """
    given = dict(given)
    for name, value in given.items():
        if value.shape != valid.shape:
            raise ValueError(
                f"the objective's {name} has shape {list(value.shape)} on a batch of {len(valid)} samples; it has to "
                f"be {list(valid.shape)}, one number a sample"
            )
    weight = given.pop("weight", None)
    weight = valid.float() if weight is None else weight.detach().float().where(valid, 0)
    loss = given.pop("loss", torch.zeros_like(weight))
    return Scores(loss=loss, weight=weight, others=given)


class Sums:
    """Weighted sums of scores by name, on the device and of this rank alone."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._sums: dict[str, Tensor] = {}

    def add(self, scores: Scores, source: str = "", *, with_loss: bool = False) -> None:
        """Take in the further scores of some samples: with the loss if asked, and as `loss_SOURCE` if it has one."""
        named = dict(scores.others)
        if source:
            named[f"loss_{source}"] = scores.loss
        if with_loss:
            named["loss"] = scores.loss
        for name, score in named.items():
            self._add(name, torch.stack([scores.sum(score.detach()), scores.weight_sum()]))

    def merge(self, other: "Sums", counts: Tensor) -> None:
        """Take in the sums of another step, if it `counts`: a bool scalar."""
        for name, pair in other._sums.items():
            self._add(name, pair.where(counts, 0))

    def _add(self, name: str, pair: Tensor) -> None:
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def names(self) -> list[str]:
        """The scores that this rank has met."""
        return list(self._sums)

    def __getitem__(self, name: str) -> Tensor | None:
        """Sum and weight, f32 `[2]`; None for a score that was not met here."""
        return self._sums.get(name)


def means_over_ranks(sums: Sums, world: World, device: torch.device) -> dict[str, float]:
    """The weighted means of all scores that any rank has met; waits for the device and for the ranks."""
    names = union_over_ranks(sums.names(), world, device)
    if not names:
        return {}
    nothing = torch.zeros(2, device=device)
    pairs = torch.stack([nothing if (pair := sums[name]) is None else pair for name in names])
    totals = sum_over_ranks(pairs, world).tolist()
    return {name: total / weight for name, (total, weight) in zip(names, totals, strict=True) if weight}

"""The linear probe of systems whose students encode clips: the trained encoder beside the one it began as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from evaluation.features import Features, extract_features
from evaluation.probe import ProbeConfig, ProbeResult, chance, linear_probe
from evaluation.result import Result, Split
from pipeline.world import World

ROLES = ("train", "val")


def probe(model: nn.Module, data: Mapping[str, Split], config: ProbeConfig, world: World) -> Result:
    """Train a linear classifier on the mean features of "train", and score it on "val".

    Raises:
        ValueError: a data set has no labels, the label names of the two differ, or there is more than one rank.
    """
    if world.size > 1:
        raise ValueError(f"the probe runs in one process, here are {world.size}; start it without torchrun")
    names = data["train"].label_names
    if names != data["val"].label_names:
        raise ValueError("the label names of --train and --val differ; build both from the same labels")
    device = next(model.parameters()).device
    on_train, on_val = (_features(model, data[role], device) for role in ROLES)
    with torch.autocast(device.type, enabled=False):
        found = linear_probe(on_train, on_val, len(names), config, device)
    metrics = {"top1": found.top1, "train_top1": found.train_top1, "chance": chance(on_train, on_val)}
    facts = {"num_classes": len(names), **{name: getattr(found, name) for name in ("num_train", "num_val")}}
    return Result(
        metrics=metrics | {"top1_spread": found.top1_spread},
        rows=[{"seed": seed, "top1": top1} for seed, top1 in zip(config.seeds, found.top1_per_seed, strict=True)],
        protocol={"evaluator": "probe", **asdict(config), **facts, "top1_interval": found.top1_interval},
        digests={role: data[role].digest for role in ROLES},
    )


def _features(model: nn.Module, split: Split, device: torch.device) -> Features:
    return extract_features(model, split.batches, bf16=torch.is_autocast_enabled(device.type))


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """A trained student beside what it has to beat.

    Attributes:
        trained: the probe of the trained student.
        untrained: the probe of the same student with fresh weights.
        chance: accuracy of always saying the most frequent training label.
        num_classes: classes.
        step: the checkpoint's step.
    """

    trained: ProbeResult
    untrained: ProbeResult
    chance: float
    num_classes: int
    step: int

    @classmethod
    def of(cls, results: Mapping[str, Result], step: int) -> ProbeReport:
        """Put the results of the trained and the untrained student together."""
        trained = results["trained"]
        return cls(
            trained=_as_probe(trained),
            untrained=_as_probe(results["untrained"]),
            chance=trained.metrics["chance"],
            num_classes=trained.protocol["num_classes"],
            step=step,
        )

    def to_json(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return asdict(self)

    def table(self) -> str:
        """The report as lines for the terminal."""
        num_seeds = len(self.trained.top1_per_seed)
        title = (
            f"linear probe, top-1 of {self.trained.num_val} clips in {self.num_classes} classes "
            f"({self.trained.num_train} to train on, mean ± deviation of {num_seeds} seeds, 95 % interval)"
        )
        rows = {f"trained, step {self.step}": self.trained, "untrained": self.untrained}
        lines = [
            f"  {name:<20} {r.top1:6.1%} ± {r.top1_spread:.1%}  [{r.top1_interval[0]:.1%}, {r.top1_interval[1]:.1%}]"
            for name, r in rows.items()
        ]
        return "\n".join([title, *lines, f"  {'most frequent label':<20} {self.chance:6.1%}"])


def _as_probe(result: Result) -> ProbeResult:
    numbers = {**result.protocol, **result.metrics, "top1_per_seed": tuple(row["top1"] for row in result.rows)}
    return ProbeResult(**{field.name: numbers[field.name] for field in fields(ProbeResult)})

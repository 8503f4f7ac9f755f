"""What a linear probe reports of students that encode clips: the trained encoder beside the one it began as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.probe import ProbeResult
from evaluation.result import Result

ROLES = ("train", "val")


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
    """The numbers of a result, those of each seed counted from its rows."""
    metrics, protocol = result.metrics, result.protocol
    right = [[guess == row["label"] for guess in row["predicted"]] for row in result.rows]
    return ProbeResult(
        top1=metrics["top1"],
        top1_spread=metrics["top1_spread"],
        top1_per_seed=tuple(sum(seed) / len(seed) for seed in zip(*right, strict=True)),
        top1_interval=(metrics["top1_low"], metrics["top1_high"]),
        train_top1=metrics["train_top1"],
        num_train=protocol["num_train"],
        num_val=protocol["num_val"],
    )

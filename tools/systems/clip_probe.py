"""What a linear probe reports of students that encode clips: the trained encoder beside the one it began as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.probe import ProbeResult, as_probe_result
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
            trained=as_probe_result(trained),
            untrained=as_probe_result(results["untrained"]),
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

"""Results as evaluators give them, with names that mean harm."""

from __future__ import annotations

from evaluation.result import Result

HOSTILE = "<script>alert(1)</script>&\"'"


def make_result(top1: float, *, classes: tuple[str, ...] = ("pushing", HOSTILE), seed: int | None = 0) -> Result:
    """A probe's result on 200 samples."""
    half = 0.06
    return Result(
        metrics={"top1": top1, "top5": min(1.0, top1 + 0.2), "chance": 1 / len(classes)},
        intervals={"top1": (top1 - half, top1 + half)},
        protocol={
            "evaluator": "linear probe",
            "num_classes": len(classes),
            "num_train": 800,
            "num_val": 200,
            "lr": 0.1,
        },
        digests={"train": "a" * 64, "val": "b" * 64, "model": "c" * 64, "view": "d" * 64},
        tables={
            "per_class": [{"class": name, "count": 100, "top1": top1} for name in classes],
            "confusion": [
                {"class": name, "predicted": {other: 90 if other == name else 10 for other in classes}}
                for name in classes
            ],
        },
        seed=seed,
    )

"""What the demo measures its student by, each beside the same student with fresh weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluation.result import Result
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.progress import Progress, untold
from tools.measure import find_evaluation, measure
from tools.systems import system_of
from tools.systems.clips import ClipRecipe
from training.checkpoint import newest_checkpoint
from training.initial import restore

ABOUT = {
    "probe": {
        "title": "linear probe, top-1",
        "short": "probe, top-1",
        "metric": "top1",
        "about": "A linear classifier on the frozen student's mean-pooled tokens, trained on the labels of the "
        "training clips and scored on the held-out clips.",
    }
}


def evaluate_student(
    recipe: ClipRecipe, run_dir: Path, paths: Mapping[str, Path], advance: Progress = untold
) -> dict[str, Any]:
    """Measure a student.

    Args:
        recipe: the student's.
        run_dir: its run.
        paths: data sets by role, `train` and `val`.
        advance: called with the number of samples after every batch.

    Returns:
        By evaluation: its title and what it is, the metric that counts and those that are shown, and the results of the
        "trained" and the "untrained" student without what they say of every sample.
    """
    datasets = {role: ShardDataset.open(path) for role, path in paths.items()}
    evaluation = find_evaluation(recipe, "probe")
    checkpoint = newest_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    torch.manual_seed(recipe.train.seed)
    objective = system_of(recipe).make_objective(recipe).eval()
    found = {}
    for which in ("untrained", "trained"):
        if which == "trained":
            restore(objective, checkpoint)
        found[which] = measure(recipe, evaluation, objective.eval(), datasets, World(), advance=advance)
    names = datasets["val"].manifest.label_names
    return {"probe": _record("probe", {which: _probed(found[which], names) for which in ("trained", "untrained")})}


def _record(name: str, results: Mapping[str, Result]) -> dict[str, Any]:
    plain = {which: {k: v for k, v in result.to_json().items() if k != "rows"} for which, result in results.items()}
    return {**ABOUT[name], "metrics": [ABOUT[name]["metric"]], "results": plain}


def _probed(result: Result, names: Sequence[str]) -> Result:
    """A probe's result with its interval and its confusions where they are looked for."""
    metrics = result.metrics
    counts = [[0] * len(names) for _ in names]
    for row in result.rows:
        for guess in row["predicted"]:
            counts[row["label"]][guess] += 1
    confusion = [
        {"class": name, "predicted": dict(zip(names, line, strict=True))}
        for name, line in zip(names, counts, strict=True)
    ]
    return Result(
        metrics={"top1": metrics["top1"], "chance": metrics["chance"]},
        protocol=result.protocol,
        digests=result.digests,
        intervals={"top1": (metrics["top1_low"], metrics["top1_high"])},
        tables={"confusion": confusion},
    )

"""Whether students learn the same of what codecs have stored: each seed twice, on raw shards and on coded ones."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.dataset import ShardDataset
from shards.exchange.reshard import Cut, encode_fields, plan_reshard, unchanged
from shards.exchange.selection import Selection
from tools.demo.steps import say
from tools.job import Job
from tools.progress import track
from tools.systems import system_of
from tools.systems.clips import ClipRecipe as Recipe
from tools.train import train
from training.metrics import read_metrics

CODECS = {"clip": "yuv420", "target": "int8"}
MEASURES = {"loss": "validation_loss", "top1": "probe_top1"}  # our name -> that of a run's metrics
LEAST_SEEDS = 2  # of one there is no spread
UNLIKELY = 0.05


def compare_codecs(students: Mapping[str, Recipe], num_seeds: int, out: Path) -> dict[str, Any]:
    """Train every student with every seed on raw and on coded shards, and measure all on the same raw held-out set.

    The two of a pair begin as the same weights and see the same samples behind the same masks. A probe learns from the
    training clips as its student saw them.

    Args:
        students: their recipes by name.
        num_seeds: of each.
        out: folder of the demo, with its raw sets.

    Returns:
        `bytes` of the training set, raw and coded, and by student its `title` and what `compare` says of each measure.
    """
    sets = {"raw": out / "train", "coded": out / "codecs" / "train"}
    encode(sets["raw"], sets["coded"])
    found = {}
    for name, recipe in students.items():
        values: dict[str, dict[str, list[float]]] = {measure: {which: [] for which in sets} for measure in MEASURES}
        for seed in range(num_seeds):
            for which, path in sets.items():
                measured = _train(recipe, seed, path, out / "validation", out / "codecs" / f"{name}-{which}-{seed}")
                for measure, value in measured.items():
                    values[measure][which].append(value)
        compared = {measure: compare(**both) for measure, both in values.items()}
        found[name] = {"title": system_of(recipe).title, "steps": recipe.train.steps, **compared}
    sizes = {
        which: sum(one.num_bytes for one in ShardDataset.open(path).manifest.shards) for which, path in sets.items()
    }
    return {"codecs": CODECS, "bytes": sizes, "students": found}


def encode(raw: Path, coded: Path) -> None:
    """Copy a set into one stored by codecs, as `reshard --codec` does."""
    dataset = ShardDataset.open(raw)
    changes = encode_fields(unchanged(dataset), CODECS)
    rewrite = plan_reshard(dataset, Selection(), Cut(), changes)
    total = sum(rewrite.origin.samples) * len(rewrite.origin.schema.groups)
    with track("encoding", total=total, unit="samples") as progress:
        rewrite.run(coded, progress=progress)


def _train(recipe: Recipe, seed: int, data: Path, held_out: Path, run_dir: Path) -> dict[str, float]:
    seeded = dataclasses.replace(
        recipe,
        train=dataclasses.replace(recipe.train, seed=seed),
        data=dataclasses.replace(recipe.data, seed=seed),
    )
    job = Job(
        recipe=seeded,
        data={"": data},
        run_dir=run_dir,
        val={"": held_out},
        evaluate=("probe",),
        report=lambda line: None,
    )
    train(job)
    last = read_metrics(run_dir / "metrics.jsonl")[-1]
    measured = {measure: float(last[metric]) for measure, metric in MEASURES.items()}
    say(f"{run_dir.name}: " + ", ".join(f"{measure} {value:.5g}" for measure, value in measured.items()))
    return measured


def compare(raw: Sequence[float], coded: Sequence[float]) -> dict[str, Any]:
    """What the same seeds gave on raw and on coded shards.

    Returns:
        Both, by seed; the mean `difference` of the pairs, coded less raw, and its deviation over them, `of_pairs`; the
        deviation over the seeds of one kind, `of_seeds`; `chance`, how likely as many seeds on one set, in two groups,
        lie so far apart (Student's t of two samples); and whether the difference is therefore `within_noise`.
    """
    count = len(raw)
    pairs = [after - before for before, after in zip(raw, coded, strict=True)]
    difference = statistics.fmean(pairs)
    of_seeds = math.sqrt((statistics.variance(raw) + statistics.variance(coded)) / 2)
    error = of_seeds * math.sqrt(2 / count)
    chance = chance_of(difference / error, 2 * (count - 1)) if error else float(difference == 0)
    return {
        "raw": list(raw),
        "coded": list(coded),
        "difference": difference,
        "of_pairs": statistics.stdev(pairs),
        "of_seeds": of_seeds,
        "chance": chance,
        "within_noise": chance >= UNLIKELY,
    }


def chance_of(t: float, freedom: int) -> float:
    """How likely Student's t, of an even number of degrees of freedom, is at least as far from 0 as `t`.

    Abramowitz and Stegun, 26.7.4.
    """
    cosine = freedom / (freedom + t * t)  # squared
    terms = (math.comb(2 * k, k) * (cosine / 4) ** k for k in range(freedom // 2))
    return max(0.0, 1 - math.sqrt(1 - cosine) * sum(terms))

"""One seed of the demo: two tiny models, stage 1, stage 2 from it, and the exam; the work of a process."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.demo.fvlm_models import make_models
from tools.demo.fvlm_plan import SIZE, STAGES, recipe_path
from tools.demo.steps import TORCH_THREADS

SETS = {1: "captions", 2: "lessons"}  # of videos, by stage
TEXTS, EXAM = "texts", "exam"


@dataclass(frozen=True, kw_only=True)
class SeedTask:
    """What a process gets.

    Attributes:
        out: the demo's folder, with recipes, tokenizer and data sets.
        seed: of weights and order.
        overrides: values on top of the recipes.
    """

    out: Path
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its models, runs and scores go."""
        return self.out / "seeds" / str(self.seed)

    def run_dir(self, stage: int) -> Path:
        """Of a stage's run."""
        return self.folder / f"stage{stage}"


def work_on(task: SeedTask) -> dict[str, Any]:
    """Train both stages and take the exam.

    Returns:
        Metrics, the costs by kind of question and the rows of the exam, what the rows of training say of text and
        padding, and seconds.
    """
    import torch

    torch.set_num_threads(TORCH_THREADS)
    task.folder.mkdir(parents=True)
    logging.basicConfig(filename=task.folder / "log.txt", format="%(asctime)s %(levelname)s: %(message)s", force=True)
    make_models(task.folder, size=SIZE, seed=task.seed)
    seconds = {}
    for stage in STAGES:
        start = time.perf_counter()
        _train(task, stage)
        seconds[f"stage {stage}"] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    result = _examine(task)
    seconds["exam"] = round(time.perf_counter() - start, 2)
    names = ("metrics", "tables", "digests", "rows")
    return {
        "seed": task.seed,
        **{name: result[name] for name in names},
        "training": {f"stage{stage}": _about(task.run_dir(stage)) for stage in STAGES},
        "seconds": seconds,
    }


def _train(task: SeedTask, stage: int) -> None:
    from tools.job import Job
    from tools.recipe import load_recipe
    from tools.train import train

    models = [f"--model.{name}={(task.folder / name).resolve()}" for name in ("dinov2", "llm")]
    seeds = [f"--train.seed={task.seed}", f"--data.seed={task.seed}"]
    recipe = load_recipe(recipe_path(task.out, stage), [*models, *seeds, *task.overrides])
    data = {"video": task.out / "sets" / SETS[stage], "text": task.out / "sets" / TEXTS}
    init = task.run_dir(stage - 1) if stage > 1 else None
    train(Job(recipe=recipe, data=data, run_dir=task.run_dir(stage), init=init, report=lambda line: None))


def _examine(task: SeedTask) -> dict[str, Any]:
    """`evaluate vlm`, with its page beside the runs."""
    from tools.evaluate.system import MetricsReport, evaluate
    from tools.recipe import load_recipe

    run = task.run_dir(STAGES[-1])
    recipe = load_recipe(run / "recipe.yaml", (), recorded=True)
    report = evaluate(recipe, run, "vlm", {"val": task.out / "sets" / EXAM}, out=task.folder)
    assert isinstance(report, MetricsReport)
    return report.results["trained"].to_json()


def _about(run_dir: Path) -> dict[str, float]:
    """What a run's rows of metrics say: steps, how many of them were on text, padding, losses."""
    from training.metrics import read_metrics

    rows = read_metrics(run_dir / "metrics.jsonl")
    starts = [0, *(int(row["step"]) for row in rows)]
    steps = [row["step"] - start for row, start in zip(rows, starts, strict=False)]
    text = sum(row.get("share_batches_text", 0.0) * count for row, count in zip(rows, steps, strict=True))
    padding = {name: _mean(rows, steps, name) for name in ("padding_frames", "padding_tokens")}
    losses = {"first_loss": rows[0]["loss"], "final_loss": rows[-1]["loss"]}
    return {"steps": starts[-1], "text_batches": round(text), **padding, **losses}


def _mean(rows: Sequence[Mapping[str, float]], steps: Sequence[float], name: str) -> float:
    """Over the steps of the rows that have it."""
    there = [(row[name], count) for row, count in zip(rows, steps, strict=True) if name in row]
    return sum(value * count for value, count in there) / max(sum(count for _, count in there), 1)


def steps_done(tasks: Sequence[SeedTask]) -> int:
    """Steps that have been trained so far, of all seeds and stages, by their last rows of metrics."""
    total = 0
    for task in tasks:
        for stage in STAGES:
            path = task.run_dir(stage) / "metrics.jsonl"
            lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
            total += int(json.loads(lines[-1])["step"]) if lines else 0
    return total


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """What report.json keeps of a seed: all but the rows, which are in its `vlm.json`."""
    return {name: value for name, value in found.items() if name != "rows"}


def with_seeds(task: SeedTask, count: int) -> list[SeedTask]:
    """The same work for the seeds from 0 on."""
    return [dataclasses.replace(task, seed=seed) for seed in range(count)]

"""Evaluations of a system's own: `reelshard evaluate NAME --run RUN`, whatever the run's system is measured by."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.progress import Progress, untold

if TYPE_CHECKING:
    from evaluation.result import Result
    from shards.dataset import ShardDataset
    from tools.systems.base import Recipe, Report

HELP = "what else the run's system is measured by"
ROLES = {
    "train": "data set that an evaluation trains on, such as a probe's classifier",
    "val": "data set that the student is scored on",
}

_DESCRIPTION = """Measure a run's newest checkpoint. Which evaluations there are, the run's system says; an unknown NAME
is answered with them. The recipe's section `evaluate` configures them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard evaluate`."""
    parser.description = _DESCRIPTION
    parser.add_argument("what", metavar="NAME", help="as the system calls it")
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="folder of the training run")
    for role, what in ROLES.items():
        parser.add_argument(f"--{role}", type=Path, metavar="SET", help=f"{what}; a folder or its URL")
    parser.add_argument(
        "--mode", metavar="A,B", help="of a student that can look at its data in several ways: which (evaluate.modes)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write NAME.json and NAME.html there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON only")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from tools.datasets import open_dataset
    from tools.measure import find_evaluation
    from tools.progress import track
    from tools.recipe import load_recipe
    from tools.terminal import clean

    refuse_misplaced_name(args.what)
    modes = [] if args.mode is None else [f"--evaluate.modes={json.dumps(args.mode.split(','))}"]
    recipe = load_recipe(recorded_recipe(args.run_dir), [*args.overrides, *modes], recorded=True)
    evaluation = find_evaluation(recipe, args.what)
    given = {role: getattr(args, role) for role in ROLES}
    paths = {role: path for role, path in given.items() if path is not None}
    if set(paths) != set(evaluation.roles):
        wanted = " and ".join(f"--{role} SET" for role in evaluation.roles)
        raise ValueError(f"`evaluate {args.what}` needs {wanted}, given is {' and '.join(paths) or 'none'}")
    notes: list[str] = []
    total = sum(len(open_dataset(path, recipe.data)) for path in paths.values())
    total *= 2 if evaluation.with_untrained else 1
    with track("evaluating", total=total, unit="samples") as advance:
        report = evaluate(recipe, args.run_dir, args.what, paths, out=args.out, advance=advance, say=notes.append)
    if args.json:
        print(json.dumps(report.to_json()))
    else:
        print("\n".join([report.table(), *(f"  {clean(note)}" for note in notes)]))
    return 0


def refuse_misplaced_name(name: str) -> None:
    """Refuse an evaluation of every encoder whose name does not stand first.

    Raises:
        ValueError: it says how to write it.
    """
    from tools.evaluate import EVALUATIONS

    if name in EVALUATIONS:
        raise ValueError(f"`evaluate {name}` has options of its own: write the name first, `evaluate {name} ...`")


def recorded_recipe(run_dir: Path) -> Path:
    """The recipe in the folder of a run.

    Raises:
        ValueError: it is no such folder.
    """
    advice = "--run is the --out of `reelshard train`"
    if not run_dir.is_dir():
        raise ValueError(f"there is no run folder {str(run_dir)!r}; {advice}")
    for name in ("recipe.yaml", "run.json"):  # a data set has the first of them too
        if not (run_dir / name).is_file():
            raise ValueError(f"{run_dir} is no run folder: it has no {name}; {advice}")
    return run_dir / "recipe.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsReport:
    """What an evaluation gave that has no report of its own.

    Attributes:
        results: of the "trained" student, and of the "untrained" one where that was asked for.
        step: the checkpoint's step.
    """

    results: Mapping[str, Result]
    step: int

    def to_json(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {"step": self.step, **{which: result.to_json() for which, result in self.results.items()}}

    def table(self) -> str:
        """A line a metric."""
        lines = [f"step {self.step}: {', '.join(self.results)}"]
        for name in self.results["trained"].metrics:
            values = "  ".join(f"{result.metrics[name]:>12.4f}" for result in self.results.values())
            lines.append(f"  {name:<20} {values}")
        return "\n".join(lines)


def evaluate(
    recipe: Recipe,
    run_dir: Path,
    name: str,
    paths: Mapping[str, Path],
    *,
    out: Path | None = None,
    advance: Progress = untold,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure the newest checkpoint of a run, and, where the evaluation wants it, the untrained student it began as.

    Args:
        recipe: the run's recipe.
        run_dir: the run.
        name: of the evaluation.
        paths: data sets by role.
        out: folder that gets `NAME.json` and `NAME.html`; None writes nothing.
        advance: called with the number of samples after every batch.
        say: takes a line for the user: whether the views could be compared, what was written.

    Raises:
        ValueError: If there is no whole checkpoint, or a data set is not what the evaluation needs.
        ShardError: If the views of the data sets, or of what the run was trained on, differ.
    """
    import torch

    from pipeline.world import World
    from tools.datasets import open_dataset
    from tools.evaluate.common import as_record, write_results
    from tools.measure import find_evaluation, measure
    from tools.systems import system_of
    from training.checkpoint import newest_checkpoint
    from training.initial import restore

    evaluation = find_evaluation(recipe, name)
    checkpoint = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"{run_dir} has no whole checkpoint; train one with `reelshard train --out {run_dir}`")
    datasets = {role: open_dataset(path, recipe.data) for role, path in paths.items()}
    say(_compare_views(run_dir, datasets))
    torch.manual_seed(recipe.train.seed)
    objective = system_of(recipe).make_objective(recipe).to(recipe.train.torch_device())
    results: dict[str, Result] = {}
    for which in ("untrained", "trained") if evaluation.with_untrained else ("trained",):
        if which == "trained":
            restore(objective, checkpoint)
        results[which] = measure(recipe, evaluation, objective.eval(), datasets, World(), advance=advance)
    found: dict[str, Result] = {which: results[which] for which in ("trained", "untrained") if which in results}
    if out is not None:
        record = {"step": checkpoint.step, **as_record(name, f"{name} of {system_of(recipe).title}", found)}
        exhibits = []
        if evaluation.exhibits is not None:
            exhibits = list(evaluation.exhibits(recipe, evaluation.model(objective), datasets))
        for path in write_results(out, record, found, exhibits=exhibits):
            say(f"written to {path}")
    make_report = evaluation.report or (lambda results, step: MetricsReport(results=results, step=step))
    return make_report(found, checkpoint.step)


def _compare_views(run_dir: Path, datasets: Mapping[str, ShardDataset]) -> str:
    """Compare the views of the data sets, and of those that the run was trained on, as its record says."""
    from shards.format.views import refuse_other_views, single_view_hash
    from tools.encoders import recorded_view

    views = {dataset.place: single_view_hash(dataset.manifest) for dataset in datasets.values()}
    if (trained_on := recorded_view(run_dir)) is not None:
        views[f"the data of {run_dir}"] = trained_on
    return refuse_other_views(views)

"""Evaluate a trained student: `reelshard evaluate probe`.

reelshard evaluate probe --run runs/first --train ssv2/train --val ssv2/validation
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.progress import Progress, untold

if TYPE_CHECKING:
    import torch
    from torch import nn

    from evaluation.features import Features
    from evaluation.probe import ProbeResult
    from shards.dataset import ShardDataset
    from tools.systems.clips import ClipRecipe as Recipe

HELP = "measure what a trained student has learned"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard evaluate`."""
    parser.add_argument("what", choices=["probe"], help="probe: a linear classifier on frozen, mean-pooled features")
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--train", type=Path, required=True, help="labelled data set that the classifier is trained on")
    parser.add_argument("--val", type=Path, required=True, help="labelled data set that it is scored on")
    parser.add_argument("--json", action="store_true", help="print the report as JSON only")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from shards.dataset import ShardDataset
    from tools.progress import track
    from tools.recipe import load_recipe
    from tools.terminal import clean

    recipe = load_recipe(_recorded_recipe(args.run_dir), args.overrides)
    notes: list[str] = []
    num_clips = 2 * (len(ShardDataset.open(args.train)) + len(ShardDataset.open(args.val)))
    with track("encoding", total=num_clips, unit="clips") as advance:
        report = probe(recipe, args.run_dir, args.train, args.val, advance=advance, say=notes.append)
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        print("\n".join([report.table(), *(f"  {clean(note)}" for note in notes)]))
    return 0


def _recorded_recipe(run_dir: Path) -> Path:
    advice = "--run is the --out of `reelshard train`"
    if not run_dir.is_dir():
        raise ValueError(f"there is no run folder {str(run_dir)!r}; {advice}")
    for name in ("recipe.yaml", "run.json"):  # a data set has the first of them too
        if not (run_dir / name).is_file():
            raise ValueError(f"{run_dir} is no run folder: it has no {name}; {advice}")
    return run_dir / "recipe.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
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


def probe(
    recipe: Recipe,
    run_dir: Path,
    train: Path,
    val: Path,
    *,
    advance: Progress = untold,
    say: Callable[[str], None] = lambda line: None,
) -> ProbeReport:
    """Probe the newest checkpoint of a run, and the untrained student it began as.

    Args:
        recipe: the run's recipe; its `evaluate` section is the probe's configuration.
        run_dir: the run.
        train: labelled data set for the classifier.
        val: labelled data set to score it on.
        advance: called with the number of clips after every batch; two passes over both data sets.
        say: takes a line for the user: whether the views could be compared.

    Raises:
        ValueError: If there is no whole checkpoint, a data set has no labels or another geometry, or the label
            names of the two differ.
        ShardError: If the views of the two data sets, or of what the run was trained on, differ.
    """
    import torch

    from evaluation.probe import chance, linear_probe
    from shards.dataset import ShardDataset
    from tools.systems import system_of
    from training.checkpoint import newest_checkpoint

    checkpoint = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"{run_dir} has no whole checkpoint; train one with `reelshard train --out {run_dir}`")
    sets = ShardDataset.open(train), ShardDataset.open(val)
    names = sets[0].manifest.label_names
    if names != sets[1].manifest.label_names:
        raise ValueError(f"the label names of {train} and {val} differ; build both from the same labels")
    say(_compare_views(run_dir, sets))
    device = recipe.train.torch_device()
    torch.manual_seed(recipe.train.seed)
    system = system_of(recipe)
    objective = system.make_objective(recipe).to(device)
    results = []
    for state in (None, checkpoint.model):
        if state is not None:
            objective.load_state_dict(state)
        on_train, on_val = (_features(system.encoder(objective), d, recipe, device, advance) for d in sets)
        results.append(linear_probe(on_train, on_val, len(names), recipe.evaluate, device))
    return ProbeReport(
        untrained=results[0],
        trained=results[1],
        chance=chance(on_train, on_val),
        num_classes=len(names),
        step=checkpoint.step,
    )


def _compare_views(run_dir: Path, sets: tuple[ShardDataset, ShardDataset]) -> str:
    """Compare the views of both data sets, and of the one that the run was trained on, as its record says."""
    from shards.format.files import read_small
    from shards.format.parse import mapping, parse_json, text
    from shards.format.views import refuse_other_views, view_hash

    views = {str(dataset.directory): view_hash(dataset.manifest) for dataset in sets}
    with contextlib.suppress(OSError, ValueError, KeyError):  # runs of earlier versions do not say
        record = mapping(mapping(parse_json(read_small(run_dir / "run.json")), "a run")["dataset"], "its data set")
        views[f"the data of {run_dir}"] = text(record["view_hash"], "its view")
    return refuse_other_views(views)


def _features(
    encoder: nn.Module, dataset: ShardDataset, recipe: Recipe, device: torch.device, advance: Progress
) -> Features:
    from evaluation.features import extract_features
    from tools.loaders import make_loader
    from tools.systems import system_of

    system: Any = system_of(recipe)
    loader = make_loader(recipe, dataset, system.feed_of_clips(recipe, dataset), device)
    try:
        return extract_features(encoder, loader, bf16=recipe.train.uses_bf16(device), advance=advance)
    finally:
        loader.close()

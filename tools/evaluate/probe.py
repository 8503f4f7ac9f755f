"""`reelshard evaluate probe`: how much of the labels a small classifier reads off a frozen encoder.

reelshard evaluate probe --checkpoint runs/first --train ssv2/train --val ssv2/validation --out reports/first
torchrun --no-python --nproc-per-node 8 reelshard evaluate probe --checkpoint MCG-NJU/videomae-base --kind attentive ...
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.datasets import as_overrides
from tools.evaluate.common import (
    add_encoder_arguments,
    add_result_arguments,
    add_set_arguments,
    opened,
    publish,
)

if TYPE_CHECKING:
    from evaluation.encoder import Encoder
    from evaluation.result import Result

HELP = "a linear or attentive classifier on frozen features"
NAME = "probe"
BASELINES = ("untrained", "pixels")

_DESCRIPTION = """Train a classifier on the frozen features of --train and score it on --val, with the untrained encoder
and raw pixels beside it. Learning rate, weight decay and layer are chosen on a held-out part of the training videos,
never on --val. Scores of several views of a video are averaged. docs/evaluation.md has the protocols."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name=NAME)
    add_encoder_arguments(parser)
    add_set_arguments(parser, train="data set that the classifier is trained on", val="data set that it is scored on")
    add_head_arguments(parser)
    parser.add_argument(
        "--features", metavar="FIELD", help="read the features that `evaluate features` stored, encode nothing"
    )
    add_result_arguments(parser)


def add_head_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which classifier is trained on what part of the data, and what stands beside it."""
    parser.add_argument("--kind", choices=("linear", "attentive"), default="linear", help="of classifier")
    parser.add_argument(
        "--layers", nargs="+", default=["last"], metavar="N", help="to choose among: numbers, last, all"
    )
    parser.add_argument("--labels", nargs="+", type=float, default=[1.0], metavar="SHARE", help="such as 1 0.1 0.01")
    parser.add_argument("--lr", nargs="+", type=float, metavar="LR", help="to choose among; one is taken as it is")
    parser.add_argument("--weight-decay", nargs="+", type=float, metavar="WD", help="to choose among, likewise")
    parser.add_argument("--epochs", type=int, help="passes over the training data (linear 100, attentive 20)")
    parser.add_argument("--seed", type=int, help="of everything that is drawn (default: the recipe's, or 0)")
    parser.add_argument("--blocks", type=int, default=1, help="attentive: 1 as V-JEPA, 4 as V-JEPA 2 (default 1)")
    parser.add_argument("--heads", type=int, help="attentive: heads of its attention (default: width / 64)")
    parser.add_argument(
        "--baselines",
        nargs="*",
        choices=BASELINES,
        help="what stands beside the encoder (default: untrained and pixels; with --features nothing)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if _is_of_another_system(args):
        from tools.evaluate import system

        args.what, args.run_dir = NAME, Path(args.checkpoint)
        args.overrides = [*args.overrides, *as_overrides(args)]
        return system.run(args)
    from tools.evaluate.probe_runs import run_probes

    with opened(args, ("train", "val")) as bench:
        results, lines = run_probes(args, bench)
        more = _as_before(bench.encoder, results)
        title = f"{args.kind} probe of {bench.encoder.name}"
        publish(args, bench.world, results, title=title, lines=[*table(results), *lines], more=more)
    return 0


def _is_of_another_system(args: argparse.Namespace) -> bool:
    """Whether a run's system has a probe of its own, which is not the one for clips."""
    from tools.encoders import recipe_behind
    from tools.measure import find_evaluation
    from tools.systems.clips import EVALUATORS

    recipe = recipe_behind(args.checkpoint, args.overrides)
    return recipe is not None and find_evaluation(recipe, NAME) is not EVALUATORS["probe"]


def table(results: Mapping[str, Result]) -> list[str]:
    """The results as lines for the terminal."""
    first = next(iter(results.values()))
    about = first.protocol
    seeds = len(first.rows[0]["predicted"])
    views = f", up to {about['most_views']} views averaged" if about["most_views"] > 1 else ""
    title = (
        f"{about['evaluator']}, top-1 of {about['num_val']} videos in {about['num_classes']} classes{views} "
        f"({about['num_train']} clips to train on, mean ± deviation of {seeds} seeds, 95 % interval)"
    )
    lines = []
    for name, result in results.items():
        metrics, (low, high) = result.metrics, result.intervals["top1"]
        top5 = f"  top-5 {metrics['top5']:.1%}" if "top5" in metrics else ""
        called = f"{name}, step {result.protocol['step']}" if result.protocol["step"] is not None else name
        lines.append(
            f"  {called:<20} {metrics['top1']:6.1%} ± {metrics['top1_spread']:.1%}  [{low:.1%}, {high:.1%}]{top5}"
        )
    lines.append(f"  {'most frequent label':<20} {first.metrics['chance']:6.1%}")
    tried = first.tables.get("tried", ())
    if tried:
        lines.append(
            f"  layer {about['layer']}, lr {about['chosen_lr']:g}, weight decay {about['chosen_weight_decay']:g}: "
            f"chosen among {len(tried)} on {about['chosen_on']}"
        )
    return [title, *lines]


def _as_before(encoder: Encoder, results: Mapping[str, Result]) -> dict[str, Any]:
    """The entries that the JSON of a linear probe has had since the first version."""
    from evaluation.probe import as_probe_result

    first = next(iter(results.values()))
    of = {which: results[which] for which in ("trained", "untrained") if which in results}
    if "train_top1" not in first.metrics:
        return {}
    return {
        **{which: dataclasses.asdict(as_probe_result(result)) for which, result in of.items()},
        "chance": first.metrics["chance"],
        "num_classes": first.protocol["num_classes"],
        "step": encoder.facts.step,
    }

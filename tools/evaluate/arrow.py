"""`reelshard evaluate arrow`: does the encoder know the arrow of time? Clips against the same clips reversed.

reelshard evaluate arrow --checkpoint runs/first --train ssv2/train --val ssv2/validation
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tools.evaluate.common import (
    Bench,
    add_encoder_arguments,
    add_result_arguments,
    add_seed_argument,
    add_set_arguments,
    opened,
    publish,
)

if TYPE_CHECKING:
    from evaluation.result import Result

HELP = "tell clips from reversed ones"
LRS = (1e-3, 1e-2, 1e-1)  # to choose among, on held-out training videos

_DESCRIPTION = """Train a linear classifier on the frozen features of clips of --train, forward and reversed, and score
it on those of --val, with the untrained encoder and raw pixels beside it. Labels are not needed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name="arrow")
    add_encoder_arguments(parser)
    add_set_arguments(parser, train="data set that the classifier is trained on", val="data set that it is scored on")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the features (default 100)")
    add_seed_argument(parser)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with opened(args, ("train", "val")) as bench:
        results = _measure(bench, args)
        title = f"Arrow of time by {bench.encoder.name}"
        publish(args, bench.world, results, title=title, lines=[*_table(results), f"views: {bench.views}"])
    return 0


def _measure(bench: Bench, args: argparse.Namespace) -> dict[str, Result]:
    from evaluation.arrow import arrow_of_time, both_ways
    from evaluation.features import collect
    from evaluation.linear import ProbeConfig
    from tools.evaluate.beside import with_baselines
    from tools.progress import track

    config = ProbeConfig(epochs=args.epochs, lrs=LRS, seeds=tuple(range(args.seed, args.seed + 3)))
    encoders = with_baselines(bench.encoder, ("untrained", "pixels"), args.seed)
    vectors = [both_ways(encoder) for encoder in encoders.values()]
    total = sum(len(dataset) for dataset in bench.datasets.values())
    with track("encoding", total=total, unit="clips") as advance, bench.splits(("clip",), advance=advance) as splits:
        found = {
            role: collect(
                split.batches,
                lambda batch: [vector for each in vectors for vector in each(batch)],
                world=bench.world,
                unlabelled=True,
            )
            for role, split in splits.items()
        }
        data = {role: dataclasses.replace(split, batches=()) for role, split in splits.items()}
    return {
        name: arrow_of_time(
            {role: features[2 * place : 2 * place + 2] for role, features in found.items()},
            data,
            config,
            encoder.device,
            about=encoder.protocol(),
            digest=encoder.digest,
        )
        for place, (name, encoder) in enumerate(encoders.items())
    }


def _table(results: Mapping[str, Result]) -> list[str]:
    first = next(iter(results.values()))
    lines = [f"forward or reversed, {first.protocol['num_val']} videos both ways (chance 50 %, 95 % interval)"]
    for name, result in results.items():
        cells = []
        for metric, title in (("top1", "each"), ("paired_top1", "as a pair")):
            low, high = result.intervals[metric]
            cells.append(f"{title} {result.metrics[metric]:6.1%} [{low:.1%}, {high:.1%}]")
        lines.append(f"  {name:<12} {'   '.join(cells)}")
    return lines

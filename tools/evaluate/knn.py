"""`reelshard evaluate knn`: what the nearest training clips say of held-out ones; nothing is trained.

reelshard evaluate knn --checkpoint runs/first --train ssv2/train --val ssv2/validation
"""

from __future__ import annotations

import argparse
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
    from evaluation.knn import KNNConfig
    from evaluation.result import Result

HELP = "k nearest neighbours on frozen features"

_DESCRIPTION = """Let the nearest clips of --train vote on each clip of --val, by the cosine of their frozen features,
with the untrained encoder and raw pixels beside it. Nothing is trained, and nothing is chosen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name="knn")
    add_encoder_arguments(parser)
    add_set_arguments(parser, train="data set whose clips vote", val="data set that they vote on")
    parser.add_argument("--k", nargs="+", type=int, default=[1, 5, 20], help="neighbours (default 1 5 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes; 0 gives each one (default 0.07)")
    parser.add_argument("--layer", type=int, metavar="N", help="of the encoder (default: the last)")
    add_seed_argument(parser)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from evaluation.knn import KNNConfig

    config = KNNConfig(ks=tuple(args.k), temperature=args.temperature or None, layer=args.layer)
    with opened(args, ("train", "val")) as bench:
        results = _measure(bench, config, args.seed)
        title = f"k nearest neighbours by {bench.encoder.name}"
        lines = [*_table(results, config), f"views: {bench.views}"]
        publish(args, bench.world, results, title=title, lines=lines)
    return 0


def _measure(bench: Bench, config: KNNConfig, seed: int) -> dict[str, Result]:
    from evaluation.knn import nearest_neighbours
    from tools.evaluate.beside import encode, with_baselines

    encoders = with_baselines(bench.encoder, ("untrained", "pixels"), seed)
    layers = {name: (encoder.num_layers,) for name, encoder in encoders.items()}
    if config.layer is not None:
        layers |= dict.fromkeys(("trained", "untrained"), (config.layer,))
    train, val = encode(bench, encoders, layers)
    return {
        name: nearest_neighbours(train[name], val[name], config, about=encoder.protocol(), digest=encoder.digest)
        for name, encoder in encoders.items()
    }


def _table(results: Mapping[str, Result], config: KNNConfig) -> list[str]:
    first = next(iter(results.values()))
    about = first.protocol
    lines = [
        f"nearest neighbours, top-1 of {about['num_val']} videos in {about['num_classes']} classes "
        f"({about['num_train']} clips vote, 95 % interval)"
    ]
    for name, result in results.items():
        cells = [f"k={k} {_spell(result, f'top1_k{k}')}" for k in config.ks]
        lines.append(f"  {name:<12} {'   '.join(cells)}")
    return [*lines, f"  {'most frequent label':<20} {first.metrics['chance']:6.1%}"]


def _spell(result: Result, metric: str) -> str:
    low, high = result.intervals[metric]
    return f"{result.metrics[metric]:6.1%} [{low:.1%}, {high:.1%}]"

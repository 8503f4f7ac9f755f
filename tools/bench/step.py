"""`reelshard bench --train RECIPE`: how fast a system trains here, where the time goes, and what to change."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.dataset import ShardDataset
    from tools.bench.step_rate import StepRate
    from tools.systems.base import Recipe
    from training.peaks import Peaks

NUM_BATCHES = 2  # of the largest size, in a synthetic data set; readers begin them anew


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `--train`."""
    group = parser.add_argument_group("the training step")
    group.add_argument(
        "--train",
        metavar="RECIPE",
        help="measure training by this recipe instead, on DATASET, or on one that is made for it",
    )
    group.add_argument(
        "--batch-sizes", type=_sizes, default=(), metavar="N,...", help="with --train (default: the recipe's)"
    )
    group.add_argument(
        "--variants",
        type=_variants,
        metavar="NAME,...",
        help="with --train: recipe,eager,compiled,fp32,bf16,fp16,recompute,sdpa (default: by the device)",
    )
    group.add_argument("--peak-tflops", type=float, metavar="N", help="with --train: what the device can compute")
    group.add_argument("--peak-gb-per-second", type=float, metavar="N", help="with --train: what its memory gives")


def _sizes(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in text.split(",") if part)
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"positive whole numbers joined by commas, got {text!r}")
    return numbers


def _variants(text: str) -> tuple[str, ...]:
    from tools.bench.step_rate import VARIANTS

    names = tuple(part for part in text.split(",") if part)
    if unknown := sorted(set(names) - set(VARIANTS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(VARIANTS)}")
    return names


def run(args: argparse.Namespace, machine: str) -> int:
    """Measure and report."""
    from shards.format.publish import publish_json
    from tools.bench.step_rate import VARIANTS, measure_step
    from tools.bench.step_report import print_rates
    from tools.recipe import load_recipe

    device = [] if args.device is None else [f"--train.device={args.device}"]
    recipe = load_recipe(args.train, [*args.overrides, *device])
    sizes = args.batch_sizes or (recipe.data.global_batch_size,)
    peaks = _asked_peaks(args)
    names = args.variants or _usual(recipe)
    rates: list[StepRate] = []
    with _data(recipe, args.data, args.synthesize or NUM_BATCHES * max(sizes)) as dataset:
        if len(dataset) < max(sizes):
            raise ValueError(f"{dataset.place} holds {len(dataset)} samples, fewer than a batch of {max(sizes)}")
        for size in sizes:
            for name in names:
                source = {args.source: dataset}
                rates.append(
                    measure_step(recipe, source, VARIANTS[name], batch_size=size, seconds=args.seconds, peaks=peaks)
                )
    print_rates(recipe, rates, machine)
    if args.json:
        publish_json(args.json, {"machine": machine, "recipe": args.train, "rates": [asdict(rate) for rate in rates]})
    return 0


def _asked_peaks(args: argparse.Namespace) -> Peaks | None:
    """The peaks of the command line.

    Raises:
        ValueError: only one of them is there, or one is not positive.
    """
    from training.peaks import Peaks

    given = (args.peak_tflops, args.peak_gb_per_second)
    if given == (None, None):
        return None
    if None in given or min(given) <= 0:
        raise ValueError("--peak-tflops and --peak-gb-per-second belong together, and are more than 0")
    return Peaks(flops_per_second=given[0] * 1e12, bytes_per_second=given[1] * 1e9, source="the command line")


def _usual(recipe: Recipe) -> Sequence[str]:
    """What is worth a comparison on the device; compiling for a CPU takes minutes."""
    if recipe.train.torch_device().type == "cuda":
        return ("recipe", "eager", "compiled", "fp32", "recompute", "sdpa")
    return ("recipe", "bf16", "recompute", "sdpa")


@contextlib.contextmanager
def _data(recipe: Recipe, path: Path | None, num_samples: int) -> Iterator[ShardDataset]:
    """The data set that was named, made where there is none yet; without a name one for the moment.

    Raises:
        ValueError: it has to be made, and the system does not say how.
    """
    from shards.dataset import ShardDataset
    from tools.progress import track
    from tools.systems import system_of

    with contextlib.ExitStack() as stack:
        folder = path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelshard-bench-"))) / "data"
        if not (folder / "dataset.json").exists():
            with track("synthesizing", total=num_samples, unit="samples") as advance:
                system_of(recipe).synthesize(recipe, folder, num_samples, advance)
        yield ShardDataset.open(folder)

"""`reelshard card`: a dataset card in Markdown, whose header tells the Hub and `datasets` how to load the set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tools.datasets import add_cache_arguments, cache_of

if TYPE_CHECKING:
    from shards.dataset import ShardDataset

HELP = "write a data set's card (README.md): header for the Hub, provenance, counts, classes, lengths, pictures"

_DESCRIPTION = """Write SET/README.md, the card by which the Hub and `datasets.load_dataset(SET)` know a data set, and
its pictures card-samples.png, card-classes.png and card-lengths.png beside it.

The header names the tars of the samples, and those of each field group as a configuration of its own, so that every row
is loaded once. A README.md that this command did not write is left alone."""
CARD_NAME = "README.md"
NUM_PICTURES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument("data", type=Path, metavar="SET", help="folder of the data set, or its URL")
    add_cache_arguments(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the card here, its pictures beside it (default: SET/README.md)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the card."""
    from shards.dataset import ShardDataset
    from shards.format.errors import ShardError
    from shards.format.publish import publish_bytes
    from tools.card_page import MADE_BY, card, class_counts
    from tools.terminal import clean

    dataset = ShardDataset.open(args.data, cache_of(args))
    if args.out is None and dataset.mirror is not None:
        raise ValueError(f"{dataset.place} is elsewhere: give --out FILE, and put the card beside its tars")
    path = args.out or dataset.directory / CARD_NAME
    if path.exists() and MADE_BY not in path.read_bytes().decode(errors="replace"):
        raise ShardError(f"{path} was written by others and stays as it is: move it away, or give --out FILE")
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = class_counts(dataset)
    pictures = _pictures(dataset, classes)
    for name, data in pictures.items():
        publish_bytes(path.with_name(name), data)
    publish_bytes(path, card(dataset, classes, list(pictures)).encode())
    print(clean(f"{path}: the card of {len(dataset):,} samples, {len(pictures)} pictures beside it"))
    return 0


def _pictures(dataset: ShardDataset, classes: dict[str, int]) -> dict[str, bytes]:
    """PNGs by file name; of samples, classes and lengths, where there are any to be drawn."""
    from tools.card_pictures import draw_classes, draw_samples
    from tools.lengths import draw, lengths_of

    found: dict[str, bytes] = {}
    if (samples := draw_samples(dataset, NUM_PICTURES)) is not None:
        found["card-samples.png"] = samples
    if classes:
        found["card-classes.png"] = draw_classes(classes)
    if any(field.has_lengths for field in dataset.schema):
        found["card-lengths.png"] = draw(lengths_of(dataset), f"split {dataset.manifest.split}")
    return found

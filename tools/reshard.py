"""`reelshard reshard`: a data set copied into other shards, or a part of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.datasets import add_cache_arguments, cache_of

if TYPE_CHECKING:
    from shards.dataset import ShardDataset
    from shards.exchange.reshard import Change
    from shards.exchange.rewrite import Rewrite
    from shards.format.manifest import Manifest

HELP = "copy a data set into shards of another size, or some of its samples and fields"

_DESCRIPTION = """Copy SRC to DST sample by sample, in the same order. Every payload is compared with its checksum as it
is read, and SRC is not touched. Label names, field groups, projections and provenance go along; the provenance's
history says what was done.

What was stopped goes on where it was when the same command is run again, and ends with the same bytes."""
RAW = "raw"
_SIZE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) ?(?P<unit>|k|M|G|T)B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.add_argument("data", type=Path, metavar="SRC", help="folder of the data set, or its URL")
    add_cache_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DST", help="folder of the new data set")
    add_cut_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--labels", metavar="A,B", help="only samples of these classes, by name or number")
    which.add_argument("--keys", type=Path, metavar="FILE", help="only samples whose keys are lines of this file")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N of the samples at random")
    parser.add_argument("--seed", type=int, default=0, help="with --sample: which N (default: 0)")
    parser.add_argument("--drop", metavar="FIELD,...", help="leave fields out")
    parser.add_argument(
        "--codec",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="store a field by a codec, yuv420 or int8, or as it is: raw; may be repeated",
    )
    parser.add_argument(
        "--rename", action="append", default=[], metavar="A=B", help="call the field A B; may be repeated"
    )


def add_cut_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how samples are cut into shards."""
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--shard-size", metavar="SIZE", help="most bytes of a tar of the main series, such as 1GB or 500M")
    cut.add_argument(
        "--samples-per-shard", type=int, metavar="N", help="samples of a shard (default: as in the largest of SRC)"
    )


def run(args: argparse.Namespace) -> int:
    """Copy, and print what came of it."""
    from shards.dataset import ShardDataset
    from shards.exchange.reshard import Cut, plan_reshard
    from shards.exchange.selection import Selection

    if args.seed and args.sample is None:
        raise ValueError("--seed says which samples are drawn; give --sample N too")
    dataset = ShardDataset.open(args.data, cache_of(args))
    labels = tuple(split_names(args.labels, "--labels")) if args.labels is not None else ()
    selection = Selection(labels=labels, keys=args.keys, sample=args.sample, seed=args.seed)
    cut = Cut(samples_per_shard=args.samples_per_shard, shard_bytes=parse_size(args.shard_size))
    rewrite = plan_reshard(dataset, selection, cut, _changes(args, dataset))
    return write(rewrite, args.out, "resharding")


def _changes(args: argparse.Namespace, dataset: ShardDataset) -> Sequence[Change]:
    """The fields of the copy."""
    from shards.exchange.reshard import drop_fields, encode_fields, rename_fields, unchanged

    changes = unchanged(dataset)
    if args.drop is not None:
        changes = drop_fields(changes, split_names(args.drop, "--drop"))
    codecs = _pairs(args.codec, "--codec", "FIELD=NAME")
    if codecs and args.shard_size is not None:
        raise ValueError("--shard-size counts the bytes that SRC has; with --codec give --samples-per-shard")
    changes = encode_fields(changes, {name: None if codec == RAW else codec for name, codec in codecs.items()})
    return rename_fields(changes, _pairs(args.rename, "--rename", "OLD=NEW"))


def _pairs(given: Sequence[str], option: str, form: str) -> dict[str, str]:
    """What is said of each field.

    Raises:
        ValueError: one is no pair, or a field is named twice.
    """
    pairs: dict[str, str] = {}
    for text in given:
        field, _, value = text.partition("=")
        if not field or not value:
            raise ValueError(f"{option} {text} does not say what of which field; give {form}")
        if field in pairs:
            raise ValueError(f"{option} names the field {field!r} twice")
        pairs[field] = value
    return pairs


def write(rewrite: Rewrite, out: Path, title: str) -> int:
    """Write a data set, and print what it is."""
    from shards.codecs.base import add_up
    from tools.progress import track
    from tools.terminal import clean

    origin = rewrite.origin
    total = sum(origin.samples) * len(origin.schema.groups)
    with track(title, total=total, unit="samples") as progress:
        manifest = rewrite.run(out, progress=progress)
    fidelity = add_up(rewrite.fidelity)
    lines = [describe(manifest, out), *(f"{name} as its codec stores it: {found}" for name, found in fidelity.items())]
    print("\n".join(map(clean, lines)))
    return 0


def describe(manifest: Manifest, out: Path) -> str:
    """A finished data set in a line."""
    from shards.words import spell_bytes

    fields = ", ".join(manifest.schema.names)
    return (
        f"{out}: {manifest.num_samples:,} samples with {fields} in {len(manifest.shards):,} shards, "
        f"{spell_bytes(manifest.num_bytes)}, data set {manifest.digest[:12]}"
    )


def split_names(text: str, option: str) -> list[str]:
    """Names between commas.

    Raises:
        ValueError: one is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{option} {text!r} has an empty name; give names with commas between them")
    return names


def parse_size(text: str | None) -> int | None:
    """A size in bytes, such as `500M` or `1.5 GB`.

    Raises:
        ValueError: it is none.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if not found or len(text) > 20:
        raise ValueError(f"--shard-size {text!r} is no size; give bytes, or a number with k, M, G or T such as 1GB")
    return int(float(found["number"]) * _UNITS[found["unit"]])

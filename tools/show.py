"""`reelshard show`: what a data set is, and what a sample of it looks like."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.words import spell_bytes
from tools.datasets import add_cache_arguments, cache_of
from tools.terminal import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shards.dataset import ShardDataset
    from shards.payload import StoredValue

HELP = "print a data set's manifest and fields, or a sample; draw a sample as a picture"

_DESCRIPTION = """Without KEY, print what the data set is: fields, shards, classes, failures, provenance.

With KEY (the key of a sample, or #N for sample number N), print the sample; with --png also draw its frames (a clip, or
packed JPEG pieces) as a strip with its label, and its targets as a PCA picture below them.

With --lengths, print how many frames, tokens and other rows samples have, as histograms; with --png also draw them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard show`."""
    parser.description = _DESCRIPTION
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of a data set, or its URL")
    add_cache_arguments(parser)
    parser.add_argument("key", nargs="?", metavar="KEY", help="key of a sample, or '#N' for sample number N")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the sample into this file")
    parser.add_argument("--lengths", action="store_true", help="print histograms of frames, tokens and other rows")
    parser.add_argument("--recipe", help="print what a sample costs as this recipe's system reads it")
    parser.add_argument("--source", default="", metavar="NAME", help="with --recipe: as this source of a mix")
    parser.add_argument("--json", action="store_true", help="print JSON: the manifest, or the sample's metadata")


def run(args: argparse.Namespace) -> int:
    """Print, and draw where asked."""
    from shards.dataset import ShardDataset

    dataset = ShardDataset.open(args.dataset, cache_of(args))
    if args.recipe is not None:
        if args.key is not None or args.png or args.lengths:
            raise ValueError("--recipe is about the whole data set; leave KEY, --png and --lengths out")
        return _show_reads(args, dataset)
    if args.overrides or args.source:
        raise ValueError("values of a recipe and --source have a meaning with --recipe NAME only")
    if args.lengths:
        return _show_lengths(args, dataset)
    if args.key is None:
        if args.png:
            raise ValueError(f"--png draws one sample; give its key too, such as {dataset.key(0)!r}")
        print(json.dumps(dataset.manifest.to_json()) if args.json else describe(dataset))
        return 0
    number = _number(dataset, args.key)
    print(json.dumps(_sample_json(dataset, number)) if args.json else describe_sample(dataset, number))
    if args.png:
        from shards.format.publish import publish_bytes
        from tools.figures import draw_strip, load_sample

        publish_bytes(args.png, draw_strip(load_sample(dataset, number)))
        if not args.json:
            print(clean(f"drawn into {args.png}"))
    return 0


def _show_lengths(args: argparse.Namespace, dataset: ShardDataset) -> int:
    """Print how long samples are, and draw it where asked."""
    from shards.format.publish import publish_bytes
    from tools.lengths import describe, draw, facts, lengths_of

    if args.key is not None:
        raise ValueError("--lengths is about the whole data set; leave KEY out")
    found = lengths_of(dataset)
    print(json.dumps({name: facts(lengths) for name, lengths in found.items()}) if args.json else describe(found))
    if args.png:
        publish_bytes(args.png, draw(found, dataset.place))
        if not args.json:
            print(clean(f"drawn into {args.png}"))
    return 0


def _show_reads(args: argparse.Namespace, dataset: ShardDataset) -> int:
    """Print how many bytes a sample costs as the system of a recipe reads it."""
    from tools.draws import bytes_per_draw, bytes_per_sample
    from tools.recipe import load_recipe
    from tools.systems import system_of

    recipe = load_recipe(args.recipe, args.overrides)
    system = system_of(recipe)
    reads = system.feed(recipe, dataset, args.source).reads
    draw, whole = bytes_per_draw(dataset, reads, seed=recipe.data.seed), bytes_per_sample(dataset)
    total = sum(draw.values())
    if args.json:
        print(json.dumps({"system": system.name, "bytes_per_draw": draw, "bytes_per_sample": whole}))
        return 0
    lines = [f"{dataset.place}: {system.title} reads {total:,.0f} of the {whole:,.0f} bytes of a sample"]
    for name, num_bytes in draw.items():
        drawn = f", drawn by {reads.gather[name]}" if name in reads.gather else ""
        lines.append(f"  {name:<10} {num_bytes:>14,.0f}{drawn}")
    print("\n".join(map(clean, lines)))
    return 0


def _number(dataset: ShardDataset, key: str) -> int:
    if not key.startswith("#"):
        try:
            return dataset.index_of(key)
        except KeyError:
            raise ValueError(f"{dataset.place} has no sample {key!r}; its first is {dataset.key(0)!r}") from None
    if not key[1:].isdecimal() or int(key[1:]) >= len(dataset):
        raise ValueError(f"{key!r} is no sample number; allowed are #0 to #{len(dataset) - 1}")
    return int(key[1:])


def describe(dataset: ShardDataset) -> str:
    """The manifest as lines for people."""
    from shards.describe import describe_fields

    manifest = dataset.manifest
    mean = manifest.num_bytes / max(1, len(dataset))
    lines = [
        f"{dataset.place}: split {manifest.split}, {len(dataset):,} samples in {dataset.num_shards:,} shards, "
        f"{spell_bytes(manifest.num_bytes)} ({spell_bytes(mean)} a sample)",
        f"digest      {manifest.digest}",
        "fields",
        *(f"  {line}" for line in describe_fields(dataset)),
    ]
    if manifest.label_names:
        lines.append(f"classes     {len(manifest.label_names)}: {'; '.join(manifest.label_names[:8])}")
        lines[-1] += "; ..." if len(manifest.label_names) > 8 else ""
    failed = ", ".join(f"{reason} {count}" for reason, count in manifest.failures.items()) or "none"
    lines.append(f"failures    {failed}")
    lines.append("provenance")
    lines += [f"  {line}" for line in _spell_tree(manifest.provenance)]
    return "\n".join(map(clean, lines))


def describe_sample(dataset: ShardDataset, number: int) -> str:
    """One sample as lines for people."""
    lines = [f"sample {number} of {len(dataset)}: key {dataset.key(number)}"]
    for name, value in dataset[number].items():
        if isinstance(value, bytes):
            lines.append(f"  {name}: {len(value):,} bytes")
        elif isinstance(value, list):
            sizes = f", {min(map(len, value)):,} to {max(map(len, value)):,} bytes each" if value else ""
            lines.append(f"  {name}: {len(value):,} pieces{sizes}")
        else:
            lines.append(f"  {name}: {value.dtype} {list(value.shape)}{_spread(value)}")
    if "json" in dataset.schema:
        about = dataset.metadata(number)
        lines += [f"  {line}" for line in _spell_tree(about)]
        lines += [f"  {line}" for line in _spell_reader(dataset, about.get("decoder"))]
    return "\n".join(map(clean, lines))


def _spread(value: NDArray[Any]) -> str:
    import numpy as np

    if value.dtype.kind == "c" or not value.size:
        return ""
    with np.errstate(all="ignore"):  # sums beyond the range, and what is not a number, are what they are
        low, high, mean = float(value.min()), float(value.max()), float(value.mean(dtype=np.float64))
    return f", {low:.4g} to {high:.4g}, mean {mean:.4g}"


def _spell_reader(dataset: ShardDataset, decoder: object) -> list[str]:
    """Who read the sample's video, and what is known against it."""
    facts = dataset.manifest.provenance.get("decoder")
    if not isinstance(decoder, str) or not isinstance(facts, dict):
        return []
    lines = [f"read by: {decoder} {facts.get(decoder) or '(version not recorded)'}"]
    if decoder == "decord" and "frames_by" not in facts:
        lines[0] += (
            ", by an older version that could take other frames than it says: "
            f"`reelshard verify {dataset.place} --sources VIDEOS` tells"
        )
    return lines


def _sample_json(dataset: ShardDataset, number: int) -> dict[str, Any]:
    fields = {name: _value_json(value) for name, value in dataset[number].items()}
    about = dict(dataset.metadata(number)) if "json" in dataset.schema else {}
    return {"number": number, "key": dataset.key(number), "fields": fields, "metadata": about}


def _value_json(value: StoredValue) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"num_bytes": len(value)}
    if isinstance(value, list):
        return {"piece_bytes": [len(piece) for piece in value]}
    return {"dtype": value.dtype.str, "shape": list(value.shape)}


def _spell_tree(tree: Any, prefix: str = "") -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, dict):
            lines += _spell_tree(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {value}")
    return lines

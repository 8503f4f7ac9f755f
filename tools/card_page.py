"""The text of a dataset card: the Hub's header in YAML, then Markdown."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from shards.dataset import ShardDataset
from shards.describe import describe_fields
from shards.exchange.reshard import HISTORY
from shards.format.errors import ShardError
from shards.format.index import ShardInfo
from shards.words import spell_bytes, spell_counts
from tools.lengths import facts, lengths_of
from tools.terminal import clean

MADE_BY = "<!-- written by `reelshard card` -->"
MOST_CLASSES = 30
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SPLIT = re.compile(r"\w+(\.\w+)*")
_WORDS = {"card-samples.png": "Samples", "card-classes.png": "Classes", "card-lengths.png": "Lengths"}


def class_counts(dataset: ShardDataset) -> dict[str, int]:
    """Samples of each class by its name, those without a sample too; nothing where there are no labels.

    Raises:
        ShardError: a sample's JSON is damaged.
    """
    names = dataset.manifest.label_names
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    for number in range(len(dataset)) if "json" in dataset.schema else ():
        try:
            label = dataset.metadata(number).get("label")
        except ShardError:
            if names:
                raise
            return {}  # JSON of others, which need not be an object
        if isinstance(label, int) and not isinstance(label, bool):
            counts[names[label] if 0 <= label < len(names) else str(label)] += 1
    return dict(counts)


def card(dataset: ShardDataset, classes: Mapping[str, int], pictures: Sequence[str]) -> str:
    """The card.

    Args:
        dataset: what it is about; sidecars are read.
        classes: as of `class_counts`.
        pictures: file names of those that lie beside the card.
    """
    parts = [_header(dataset), MADE_BY, _what(dataset), _fields(dataset), _classes(classes), _lengths(dataset)]
    parts += [f"![{_WORDS[name]}]({name})" for name in pictures]
    parts += [_provenance(dataset), _loading(dataset)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(dataset: ShardDataset) -> str:
    """The YAML header: JSON values are YAML too, whatever is in them."""
    manifest = dataset.manifest
    split = manifest.split if _SPLIT.fullmatch(manifest.split) else re.sub(r"\W+", "_", manifest.split)
    lines = ["---", "tags:", "- webdataset", "- reelshard", "size_categories:"]
    lines.append(f"- {next((words for most, words in _SIZES if len(dataset) < most), 'n>10M')}")
    lines.append("configs:")
    for group in manifest.schema.groups:
        lines.append(f"- config_name: {json.dumps(group or 'default')}")
        lines += ["  data_files:", f"  - split: {json.dumps(split)}"]
        lines.append(f"    path: {json.dumps(_path(manifest.series(group), manifest.split, group))}")
    return "\n".join([*lines, "---"])


def _path(series: Sequence[ShardInfo], split: str, group: str) -> str | list[str]:
    """The tars of a series as one pattern, which no other series fits; all their names where they have others."""
    stem = f"{split}.{group}" if group else split
    named = all(re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.tar", info.name) for info in series)
    plain = re.fullmatch(r"[\w.-]+", stem)
    return f"{stem}-*.tar" if named and plain else [re.sub(r"([\[\]*?])", r"[\1]", info.name) for info in series]


def _what(dataset: ShardDataset) -> str:
    manifest = dataset.manifest
    source = manifest.provenance.get("source")
    kind = source.get("kind") if isinstance(source, dict) else source
    lines = [
        f"# {_text(dataset.directory.name)}",
        f"{len(dataset):,} samples of the split `{_code(manifest.split)}`"
        + (f", from {_text(str(kind))}" if kind else "")
        + f", in {dataset.num_shards:,} WebDataset shards, {spell_bytes(manifest.num_bytes)}.",
        f"Digest `{manifest.digest}`: the same digest is the same data, to the byte.",
    ]
    if manifest.failures:
        lines.append(f"Samples that could not be built: {_text(spell_counts(manifest.failures))}.")
    return "\n\n".join(lines)


def _fields(dataset: ShardDataset) -> str:
    rows = "\n".join(clean(line) for line in describe_fields(dataset)).replace("```", "'''")
    return f"## Fields\n\n```\n{rows}\n```"


def _classes(classes: Mapping[str, int]) -> str:
    if not classes:
        return ""
    ranked = sorted(classes.items(), key=lambda one: (-one[1], one[0]))
    counts = [count for _, count in ranked]
    rows = [f"| {_text(name)} | {count:,} |" for name, count in ranked[:MOST_CLASSES]]
    if len(ranked) > MOST_CLASSES:
        rows.append(f"| {len(ranked) - MOST_CLASSES:,} more | {sum(counts[MOST_CLASSES:]):,} |")
    balance = f"{len(ranked):,} classes of {min(counts):,} to {max(counts):,} samples."
    return "\n".join(["## Classes", "", balance, "", "| class | samples |", "|---|---:|", *rows])


def _lengths(dataset: ShardDataset) -> str:
    if not any(field.has_lengths for field in dataset.schema):
        return ""
    rows = []
    for name, lengths in lengths_of(dataset).items():
        about = facts(lengths)
        spread = f"{about['min']:,} to {about['max']:,} | {about['mean']:.1f} | {about['median']:g} | {about['p90']:g}"
        rows.append(f"| `{_code(name)}` | {about['total']:,} | {spread} |")
    head = ["## Lengths", "", "| field | in all | of a sample | mean | median | 90 % up to |"]
    return "\n".join([*head, "|---|---:|---:|---:|---:|---:|", *rows])


def _provenance(dataset: ShardDataset) -> str:
    known = {name: value for name, value in dataset.manifest.provenance.items() if name != HISTORY}
    history = dataset.manifest.provenance.get(HISTORY, [])
    lines = ["## Provenance", ""]
    lines += [f"- {_text(name)}: `{_code(value)}`" for name, value in _leaves(known)] or ["Nothing is known of it."]
    if isinstance(history, list) and history:
        lines += ["", "What was done with it since, oldest first:", ""]
        lines += [f"1. `{_code(json.dumps(step, ensure_ascii=False))}`" for step in history]
    return "\n".join(lines)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", str(value)))
    return found


def _loading(dataset: ShardDataset) -> str:
    lines = ["## Loading", "", "```python", "from datasets import load_dataset", ""]
    lines.append('rows = load_dataset("PATH_OR_ID")')
    lines += [f'rows = load_dataset("PATH_OR_ID", {json.dumps(group)})' for group in dataset.manifest.groups]
    lines += ["", "from shards import ShardDataset", "", 'dataset = ShardDataset.open("PATH")', "```", ""]
    lines.append(
        "`load_dataset` takes the tars that the header names; `data_dir=` would take the sidecars for tars, too."
    )
    return "\n".join(lines)


def _text(text: str) -> str:
    """Text that is nothing but text in Markdown, in a table too."""
    plain = html.escape(" ".join(clean(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain)


def _code(text: str) -> str:
    """Text between backticks."""
    return " ".join(clean(text).split()).replace("`", "'").replace("|", "\\|")

"""Several data sets of one schema as one: classes united, samples that are in two of them kept once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from shards.dataset import ShardDataset
from shards.exchange.names import some
from shards.exchange.origin import Origin
from shards.exchange.reshard import HISTORY, Change, Chosen, Cut, about_source, projections, unchanged
from shards.exchange.rewrite import Rewrite, digest_of_keys
from shards.exchange.selection import label_of
from shards.format.beside import teacher_of
from shards.format.errors import ShardError
from shards.format.manifest import Manifest
from shards.format.parse import mapping, parse_json
from shards.format.publish import canonical_json
from shards.format.views import refuse_other_views, view_hash
from shards.payload import StoredValue, as_bytes
from shards.writer import Value

Say = Callable[[str], None]


@dataclass(frozen=True)
class Merged:
    """The samples of several data sets, one set behind the other."""

    parts: Sequence[Chosen]
    keys: Sequence[str]
    starts: Sequence[int]

    @classmethod
    def of(cls, parts: Sequence[Chosen]) -> Merged:
        """Join parts."""
        starts = [0, *accumulate(len(part.keys) for part in parts)]
        return cls(parts, [key for part in parts for key in part.keys], starts)

    def value(self, place: int, field: str) -> Value:
        """One field of one sample."""
        part = bisect_right(self.starts, place) - 1
        return self.parts[part].value(place - self.starts[part], field)


def plan_merge(datasets: Sequence[ShardDataset], cut: Cut, say: Say = lambda line: None) -> Rewrite:
    """One data set of several, in the order in which they are given; `Rewrite.run` writes it.

    A sample that is in two of them with the same bytes is kept once. Other samples that have a key twice get `-2`,
    `-3`, ... behind it.

    Args:
        datasets: two at least.
        cut: into which shards.
        say: takes a line for the user: which keys met, and what could not be compared.

    Raises:
        ValueError: there are fewer than two.
        ShardError: they differ in their fields, views or teachers; or their classes cannot be united.
    """
    if len(datasets) < 2:
        raise ValueError("two data sets at least make one; give a further one")
    first = datasets[0]
    for other in datasets[1:]:
        _refuse_other_schema(first, other)
    _refuse_other_teachers(datasets)
    places = [f"{dataset.directory} ({number})" for number, dataset in enumerate(datasets, start=1)]
    views = {place: view_hash(dataset.manifest) for place, dataset in zip(places, datasets, strict=True)}
    said = refuse_other_views(views)
    if None in views.values() and set(views.values()) != {None}:
        say(said)
    names, changes = _unite_labels(datasets)
    parts = _parts(datasets, changes, say)
    merged = Merged.of(parts)
    done = {"command": "merge", "of": [_whole_story(dataset.manifest) for dataset in datasets]}
    main = [field.name for field in first.schema if field.group == ""]
    files: dict[str, bytes] = {}
    for dataset in datasets:
        files |= projections(dataset, dataset.schema.groups)
    origin = Origin(
        split=first.manifest.split,
        schema=first.schema,
        label_names=names,
        provenance={**_common([dataset.manifest.provenance for dataset in datasets]), HISTORY: [done]},
        samples=cut.samples([(part.dataset, part.numbers, main) for part in parts]),
        keys=digest_of_keys(merged.keys),
    )
    return Rewrite(origin=origin, samples=merged, files=files)


def _whole_story(manifest: Manifest) -> dict[str, Any]:
    return {**about_source(manifest), "provenance": dict(manifest.provenance)}


def _common(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all provenances agree in, looked into down to their leaves."""
    first, *others = provenances
    common: dict[str, Any] = {}
    for name, value in first.items():
        if name == HISTORY or any(name not in other for other in others):
            continue
        values = [other[name] for other in others]
        if all(other == value for other in values):
            common[name] = value
        elif name == "groups" and isinstance(value, dict):
            common[name] = _common([value, *values])
    return common


def _refuse_other_schema(first: ShardDataset, other: ShardDataset) -> None:
    """Raises ShardError if fields differ; which is said."""
    ours, theirs = ({field.name: field.to_json() for field in one.schema} for one in (first, other))
    if list(first.schema) == list(other.schema):
        return
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    words = []
    for name in differing[:3]:
        for dataset, fields in ((first, ours), (other, theirs)):
            words.append(f"{name!r} is {_spell(fields.get(name))} in {dataset.directory}")
    raise ShardError(
        f"data sets of one schema are merged; {', '.join(words) or 'the order of fields differs'}: drop or rename "
        "fields with `reelshard reshard` first"
    )


def _spell(field: Mapping[str, Any] | None) -> str:
    if field is None:
        return "not there"
    shape = "" if field["shape"] is None else f"{field['dtype']} {field['shape']} "
    group = f" of the group {field['group']!r}" if field["group"] else ""
    codec = f" by the codec {field['codec']}" if "codec" in field else ""
    return f"{shape}{field['layout'] if shape or field['layout'] == 'packed' else 'bytes'}{codec}{group}"


def _refuse_other_teachers(datasets: Sequence[ShardDataset]) -> None:
    first = datasets[0]
    for group in first.schema.groups:
        known = teacher_of(first.manifest, group)
        for other in datasets[1:]:
            found = teacher_of(other.manifest, group)
            if known is not None and found is not None and known != found:
                differing = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
                raise ShardError(
                    f"the targets{f' of the group {group!r}' if group else ''} in {first.directory} and in "
                    f"{other.directory} are of different teachers: they differ in {', '.join(differing)}; build one of "
                    "them again, or drop its targets"
                )


def _unite_labels(datasets: Sequence[ShardDataset]) -> tuple[tuple[str, ...], list[list[Change]]]:
    """The classes of all sets, and the fields of each set with its class numbers changed to those.

    Raises:
        ShardError: a set has labels without names where another has names, or a name twice.
    """
    every = [dataset.manifest.label_names for dataset in datasets]
    if all(names == every[0] for names in every):
        return every[0], [unchanged(dataset) for dataset in datasets]
    united: dict[str, int] = {}
    changes = []
    for dataset, names in zip(datasets, every, strict=True):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ShardError(f"{dataset.directory} has two classes called {twice!r}: they cannot be told from others'")
        if not names:
            _refuse_labels(dataset)
        numbers = [united.setdefault(name, len(united)) for name in names]
        same = numbers == list(range(len(numbers)))
        relabel = _Relabel(tuple(numbers))
        changes.append(
            [
                replace(change, apply=relabel) if change.field.name == "json" and not same else change
                for change in unchanged(dataset)
            ]
        )
    return tuple(united), changes


def _refuse_labels(dataset: ShardDataset) -> None:
    """Raises ShardError if samples have class numbers, which nobody says the meaning of."""
    for number in range(len(dataset)) if "json" in dataset.schema else ():
        if (label := dataset.metadata(number).get("label")) is not None:
            raise ShardError(
                f"{dataset.directory} has labels (sample {dataset.key(number)} has {label}) and no names of classes, "
                "the others have names: which is which is not known, so they are not merged"
            )


@dataclass(frozen=True)
class _Relabel:
    """Changes the class number in a JSON member."""

    numbers: tuple[int, ...]

    def __call__(self, value: StoredValue) -> Value:
        """Raises ValueError where the number is of no class."""
        about = mapping(parse_json(as_bytes(value)), "its JSON")
        label = label_of(about)
        if label is None:
            return as_bytes(value)
        if not 0 <= label < len(self.numbers):
            raise ValueError(f"its label is {label}, and its data set has {len(self.numbers)} classes")
        return canonical_json({**about, "label": self.numbers[label]})


def _parts(datasets: Sequence[ShardDataset], changes: Sequence[Sequence[Change]], say: Say) -> list[Chosen]:
    """What is taken of each set, and under which keys."""
    taken: dict[str, tuple[int, int]] = {}
    twice: list[str] = []
    renamed: list[str] = []
    parts = []
    every = [[key for shard in range(one.num_shards) for key in one.index(shard).keys] for one in datasets]
    reserved = {key for keys in every for key in keys}
    for place, (dataset, own, keys) in enumerate(zip(datasets, changes, every, strict=True)):
        new_keys, numbers = [], []
        for number, key in enumerate(keys):
            name = key
            if key in taken:
                other, other_number = taken[key]
                alike = [change.apply for change in changes[other]] == [change.apply for change in own]
                if alike and _prints(datasets[other], other_number) == _prints(dataset, number):
                    twice.append(key)
                    continue
                name = next(free for free in _others(key) if free not in taken and free not in reserved)
                renamed.append(key)
            taken[name] = place, number
            new_keys.append(name)
            numbers.append(number)
        if numbers:
            parts.append(Chosen(dataset, new_keys, numbers, {change.field.name: change for change in own}))
    if twice:
        say(f"{some(twice, 'sample')} in several of them, byte for byte: kept once")
    if renamed:
        say(f"{some(renamed, 'key')} of other samples in several of them: the later ones have -2, -3, ... behind them")
    return parts


def _others(key: str) -> Iterator[str]:
    return (f"{key}-{number}" for number in range(2, 1 << 32))


def _prints(dataset: ShardDataset, number: int) -> list[tuple[int, int]]:
    """Size and checksum of each field of a sample."""
    (shard,), (row,) = dataset.locate(np.array([number]))
    columns = [dataset.extents(int(shard), name) for name in dataset.schema.names]
    return [(int(column.sizes[row]), int(column.checksums[row])) for column in columns]

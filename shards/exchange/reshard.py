"""Copy a data set sample by sample: other shards, fewer samples, fewer fields, other names, other codings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.dataset import ShardDataset
from shards.exchange.origin import Origin
from shards.exchange.rewrite import Rewrite, as_value, cut_by_size, cut_evenly, digest_of_keys, read_beside
from shards.exchange.selection import Selection
from shards.format.beside import projection_name, teacher_of
from shards.format.errors import ShardError
from shards.format.manifest import Manifest
from shards.format.npy import PAGE_BYTES
from shards.format.schema import Field, Schema
from shards.format.tar import BLOCK_BYTES, END_OF_ARCHIVE
from shards.payload import StoredValue
from shards.writer import Value

HISTORY = "history"


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a field of the new set comes from one of the old.

    Attributes:
        source: name of the field that is read.
        field: what is written.
        apply: makes the one of the other; called from several threads, with what `ShardDataset.read` gives.
        said: what the provenance says of it; nothing where values stay as they are.
    """

    source: str
    field: Field
    apply: Callable[[StoredValue], Value] = as_value
    said: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How samples are cut into shards: by number or by size, or as those that are there.

    Attributes:
        samples_per_shard: the last shard may have fewer.
        shard_bytes: most bytes of a tar of the main series.
    """

    samples_per_shard: int | None = None
    shard_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.samples_per_shard is not None and self.shard_bytes is not None:
            raise ValueError("shards are cut by their number of samples or by their size: give one of them")

    def samples(self, parts: Sequence[tuple[ShardDataset, Sequence[int], Sequence[str]]]) -> tuple[int, ...]:
        """Samples of each shard; `parts` are sets, the numbers taken of each, and the fields of their main series."""
        total = sum(len(numbers) for _, numbers, _ in parts)
        if self.shard_bytes is not None:
            return cut_by_size(_sizes(parts), self.shard_bytes - len(END_OF_ARCHIVE))
        largest = max(info.num_samples for dataset, _, _ in parts for info in dataset.manifest.shards)
        return cut_evenly(total, largest if self.samples_per_shard is None else self.samples_per_shard)


def _sizes(parts: Sequence[tuple[ShardDataset, Sequence[int], Sequence[str]]]) -> Iterator[int]:
    """Bytes of each sample in a tar of the main series, rather more than fewer."""
    for dataset, numbers, names in parts:
        total = np.zeros(len(dataset), np.int64)
        for name in names:
            blocks: NDArray[np.int64] = -(-dataset.sizes(name) // BLOCK_BYTES) * BLOCK_BYTES
            total += blocks + BLOCK_BYTES
            if dataset.schema[name].is_npy:  # its header, and a comment that fills up a page
                total += 2 * PAGE_BYTES + BLOCK_BYTES
        yield from total[list(numbers)].tolist()


@dataclass(frozen=True)
class Chosen:
    """Samples of one data set, some of its fields, perhaps under other names."""

    dataset: ShardDataset
    keys: Sequence[str]
    numbers: Sequence[int]
    changes: Mapping[str, Change]

    def value(self, place: int, field: str) -> Value:
        """One field of one sample, as it is to be written.

        Raises:
            ShardError: what was read cannot become that.
        """
        change = self.changes[field]
        number = self.numbers[place]
        is_copied = change.apply is as_value and change.field.codec == self.dataset.schema[change.source].codec
        read = self.dataset.read_stored if is_copied else self.dataset.read  # what is stored loses nothing by a copy
        try:
            return change.apply(read(number, change.source))
        except ValueError as error:
            raise ShardError(f"sample {self.dataset.key(number)}, field {change.source}: {error}") from None


def unchanged(dataset: ShardDataset) -> list[Change]:
    """Every field as it is."""
    return [Change(source=one.name, field=one) for one in dataset.schema]


def drop_fields(changes: Sequence[Change], names: Sequence[str]) -> list[Change]:
    """Leave fields out.

    Raises:
        ValueError: there is no such field.
    """
    _refuse_unknown(changes, names)
    return [change for change in changes if change.field.name not in names]


def rename_fields(changes: Sequence[Change], names: Mapping[str, str]) -> list[Change]:
    """Give fields other names.

    Raises:
        ValueError: there is no such field, or the name is not allowed.
    """
    _refuse_unknown(changes, names)
    renamed = []
    for change in changes:
        name = names.get(change.field.name, change.field.name)
        renamed.append(replace(change, field=replace(change.field, name=name)))
    return renamed


def encode_fields(changes: Sequence[Change], codecs: Mapping[str, str | None]) -> list[Change]:
    """Store fields by other codecs, or with None as they are.

    Raises:
        ValueError: there is no such field or codec, or the one does not store the other.
    """
    _refuse_unknown(changes, list(codecs))
    encoded = []
    for change in changes:
        codec = codecs.get(change.field.name, change.field.codec)
        if codec != change.field.codec:
            said = {**change.said, "codec": codec, "was": change.field.codec}
            change = replace(change, field=replace(change.field, codec=codec), said=said)  # noqa: PLW2901
        encoded.append(change)
    return encoded


def _refuse_unknown(changes: Sequence[Change], names: Sequence[str] | Mapping[str, str]) -> None:
    known = [change.field.name for change in changes]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no field {name!r}; there are {', '.join(known)}")


def plan_reshard(
    dataset: ShardDataset, selection: Selection, cut: Cut, changes: Sequence[Change] | None = None
) -> Rewrite:
    """A copy of some samples of a data set, in their order; `Rewrite.run` writes it.

    Args:
        dataset: the samples.
        selection: which of them.
        cut: into which shards.
        changes: the fields of the copy; None for all as they are.

    Raises:
        ValueError: no field of the main series is left, two have one name, or the selection is of no sample.
        ShardError: a sidecar or a projection is missing or damaged, or as of `Selection.numbers`.
    """
    changes = unchanged(dataset) if changes is None else changes
    if not any(change.field.group == "" for change in changes):
        raise ValueError("no field of the main series is left, and field groups do not stand alone: keep one of it")
    schema = Schema(tuple(change.field for change in changes))
    numbers = selection.numbers(dataset)
    every = [key for shard in range(dataset.num_shards) for key in dataset.index(shard).keys]
    keys = [every[number] for number in numbers]
    main = [change.source for change in changes if change.field.group == ""]
    manifest = dataset.manifest
    done = {"command": "reshard", "of": about_source(manifest), **selection.to_json(), **_changed(dataset, changes)}
    origin = Origin(
        split=manifest.split,
        schema=schema,
        label_names=manifest.label_names,
        provenance=extended(kept_provenance(manifest, schema.groups), manifest, done),
        samples=cut.samples([(dataset, numbers, main)]),
        keys=digest_of_keys(keys),
    )
    samples = Chosen(dataset, keys, numbers, {change.field.name: change for change in changes})
    return Rewrite(origin=origin, samples=samples, files=projections(dataset, schema.groups))


def about_source(manifest: Manifest) -> dict[str, Any]:
    """What a history says of a data set that samples were taken of."""
    about: dict[str, Any] = {"digest": manifest.digest, "split": manifest.split, "samples": manifest.num_samples}
    return about | ({"failures": dict(manifest.failures)} if manifest.failures else {})


def _changed(dataset: ShardDataset, changes: Sequence[Change]) -> dict[str, Any]:
    sources = {change.source for change in changes}
    said = {
        "dropped": [name for name in dataset.schema.names if name not in sources],
        "renamed": {one.source: one.field.name for one in changes if one.source != one.field.name},
        "changed": {change.field.name: dict(change.said) for change in changes if change.said},
    }
    return {name: value for name, value in said.items() if value}


def kept_provenance(manifest: Manifest, groups: Sequence[str]) -> dict[str, Any]:
    """A provenance without the series that are left out."""
    about = {group: dict(manifest.about(group)) for group in groups if group and manifest.about(group)}
    kept = {name: value for name, value in manifest.provenance.items() if name != "groups"}
    return kept | ({"groups": about} if about else {})


def extended(provenance: Mapping[str, Any], manifest: Manifest, done: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance whose history ends with what is done now."""
    history = manifest.provenance.get(HISTORY, [])
    return {**provenance, HISTORY: [*(history if isinstance(history, list) else []), dict(done)]}


def projections(dataset: ShardDataset, groups: Sequence[str]) -> dict[str, bytes]:
    """The projections of teachers that the manifest speaks of.

    Raises:
        ShardError: one of them is not there.
    """
    names = []
    for group in groups:
        teacher = teacher_of(dataset.manifest, group)
        if teacher is not None and isinstance(teacher.get("projection"), dict):
            names.append(projection_name(group))
    if dataset.mirror is not None:
        dataset.mirror.fetch_beside()
    found = read_beside(dataset.directory, names)
    if missing := [name for name in names if name not in found]:
        raise ShardError(f"{dataset.directory / missing[0]} is missing, which made the targets; restore it")
    return found

"""The plan of a field group: a further tar series for the samples that a data set has."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

from shards.builder.config import BuildConfig, TeacherFacts
from shards.builder.item import Item, items_digest
from shards.builder.plan import Plan, fingerprint_of
from shards.builder.samples.base import GroupKind
from shards.format.parse import check_name


def make_group_plan(
    root: Path,
    shards: Sequence[Sequence[Item]],
    kind: GroupKind,
    config: BuildConfig,
    *,
    split: str,
    group: str,
    teacher: TeacherFacts | None = None,
    files: Collection[str] = (),
) -> Plan:
    """Plan a further field group: the samples of a data set, in its order and cut into shards as it is.

    Args:
        root: the data set's folder; `kind` gets it with each item.
        shards: for each shard of the main series an item for each sample, with its key as `exact_key`.
        kind: what an item becomes; its fields are of this group.
        config: how shards are made; how they are cut is given.
        split: that of the data set.
        group: the group's name.
        teacher: what is known of the teacher; None for a group that needs none.
        files: names of what is to lie beside the shards besides the teacher's files.

    Raises:
        ValueError: the group's name is not allowed, a field is of another group, or kind and teacher do not fit.
    """
    check_name(group, "the group's name")
    items = tuple(itertools.chain.from_iterable(shards))
    sizes = tuple(map(len, shards))
    schema = kind.schema(teacher)
    if others := [field.name for field in schema if field.group != group]:
        raise ValueError(f"the field {others[0]!r} is not of the group {group!r}")
    fingerprint = {
        **fingerprint_of(split, kind, schema, teacher, config),
        "group": group,
        "files": sorted({*files, *(teacher.files if teacher is not None else ())}),
        "source": {"kind": "samples", "items": len(items), "shards": list(sizes), "digest": items_digest(items)},
    }
    return Plan(
        split=split,
        root=root,
        items=items,
        shard_sizes=sizes,
        schema=schema,
        kind=kind,
        config=config,
        fingerprint=fingerprint,
        group=group,
    )

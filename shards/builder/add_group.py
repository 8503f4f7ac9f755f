"""Add a field group to a data set: further fields for every sample, in tars of their own, made from what is stored.

It is built as a data set is: resumable, by the same engines, under the same lock. The manifest hears of the group when
all of it is there, and the main series is never touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from shards.builder.build import BuildSummary, run_plan
from shards.builder.config import BuildConfig, TeacherFacts
from shards.builder.engines.base import Engine
from shards.builder.engines.in_process import InProcess
from shards.builder.finish import publish_all_failures
from shards.builder.group_plan import make_group_plan
from shards.builder.item import Item
from shards.builder.journal import ShardReport, clear_work
from shards.builder.plan import Plan, differences, publish_plan
from shards.builder.samples.base import GroupKind
from shards.builder.samples.stored import CaptionKind, StoredClipKind, samples_of
from shards.builder.samples.table import join_table
from shards.dataset import ShardDataset
from shards.exchange.names import some
from shards.exchange.table import read_table
from shards.format.beside_group import group_provenance, read_group_plan
from shards.format.errors import MissingDataError, ShardError
from shards.format.manifest import Manifest
from shards.format.parse import check_name
from shards.format.publish import canonical_json, publish_bytes, publish_json
from shards.format.schema import Field
from shards.groups import Group, with_groups, without_group
from shards.progress import Progress, untold

Say = Callable[[str], None]
AT_ONCE = BuildConfig(workers=1, time_limit_seconds=None)  # what is only copied needs no decoders


def add_teacher_group(
    dataset: ShardDataset,
    group: str,
    engine: Engine,
    config: BuildConfig,
    *,
    missing: float | None = None,
    progress: Progress = untold,
) -> BuildSummary:
    """Have a further teacher look at the stored clips, or at the captions if it takes text.

    The field is called as the group is. A killed build is resumed by the same call, with the same bytes.

    Args:
        dataset: the samples.
        group: name of the group.
        engine: runs workers with the teacher.
        config: its `teacher_batch` shapes the bits.
        missing: what stands for a sample that the teacher fails on; None stops there.
        progress: called with (samples done, of which failed) since its last call.

    Raises:
        ValueError: the name is not allowed, or samples and teacher do not fit together.
        ShardError: the name is taken, another plan was begun under it, another build is running, the disk is full, or
            the teacher fails on a sample and nothing may stand for it.
        KeyboardInterrupt: as it came, with what remains in its message.
    """
    refuse_taken(dataset, group, [group])
    facts = engine.facts()
    assert facts is not None
    make = CaptionKind.of if facts.input_shape is None else StoredClipKind.of
    kind = make(dataset, group, facts, missing)
    return add_group(dataset, group, kind, samples_of(dataset), config, engine=engine, progress=progress)


def add_table(
    dataset: ShardDataset,
    group: str,
    path: Path,
    *,
    missing: str | None = None,
    progress: Progress = untold,
    say: Say = lambda line: None,
) -> BuildSummary:
    """Add the columns of a table (CSV, TSV) as fields: see `shards.exchange.table` and `shards.exchange.names`.

    Args:
        dataset: the samples.
        group: name of the group; the fields are called as the columns are.
        path: the table.
        missing: what stands for a sample without a row, and for an empty cell of a column of numbers.
        progress: called with (samples done, 0) since its last call.
        say: takes a line for the user: which rows were left out.

    Raises:
        ValueError: a name is not allowed, or `missing` is no value of a column.
        MissingDataError: the table, or a row, is not there.
        ShardError: the table is none, or as of `add_teacher_group`.
    """
    check_name(group, "the group's name")
    table = read_table(path)
    refuse_taken(dataset, group, [column.name for column in table.columns])
    kind, shards, unused = join_table(dataset, table, group, missing)
    if unused:
        say(f"{some(unused, 'row')} of {table.name} of no sample here, left out")
    return add_group(dataset, group, kind, shards, AT_ONCE, progress=progress)


def add_group(
    dataset: ShardDataset,
    group: str,
    kind: GroupKind,
    shards: Sequence[Sequence[Item]],
    config: BuildConfig,
    *,
    engine: Engine | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
    progress: Progress = untold,
) -> BuildSummary:
    """Build a field group of any kind and add it to the manifest.

    Args:
        dataset: the samples.
        group: name of the group.
        kind: what becomes of a sample; its fields are of this group.
        shards: an item for each sample, cut as the main series is.
        config: how shards are made.
        engine: runs workers; None for one in this process, without a teacher.
        files: what is to lie beside the shards, by its name beside those of a main series.
        progress: called with (samples done, of which failed) since its last call.

    Raises:
        ValueError: as of `add_teacher_group`.
        ShardError: as of `add_teacher_group`.
    """
    dataset.refuse_elsewhere()
    engine = engine or InProcess(None)
    facts: TeacherFacts | None = engine.facts()
    plan = make_group_plan(
        dataset.directory.absolute(),  # workers on other nodes read it
        shards,
        kind,
        config,
        split=dataset.manifest.split,
        group=group,
        teacher=facts,
        files=files.keys(),
    )
    refuse_taken(dataset, group, plan.schema.names)
    _compare_with_begun(plan, dataset.directory)
    return run_plan(plan, dataset.directory, engine, partial(_publish, dataset.manifest, files), progress=progress)


def refuse_taken(dataset: ShardDataset, group: str, fields: Sequence[str]) -> None:
    """Refuse names that are in use, before anything is made.

    Raises:
        ValueError: the group's name, or a field's, is not one.
        ShardError: a field is in another series, or the group was not made by a plan that could go on.
    """
    check_name(group, "the group's name")
    for name in fields:
        Field(name=name)
        if name in dataset.schema and dataset.schema[name].group != group:
            other = dataset.schema[name].group
            where = f"the field group {other!r}" if other else "the samples themselves"
            raise ShardError(f"{dataset.directory} has a field {name!r} in {where}; choose another name")
    if group in dataset.manifest.groups and group_provenance(dataset.directory, group) is None:
        raise ShardError(
            f"{dataset.directory} has a field group {group!r} already, which was made in another way; choose another "
            "name, or take it out with `reelshard drop-field`"
        )


def _compare_with_begun(plan: Plan, out: Path) -> None:
    """Refuse to go on with another plan than was begun, before a lock is taken.

    What was begun without `missing` may go on with it: what is finished would come out the same.

    Raises:
        ShardError: the plans differ.
    """
    try:
        found = read_group_plan(out / plan.name)
    except MissingDataError:
        return
    sample = plan.fingerprint["sample"]
    if found["sample"].get("missing") is None and sample.get("missing") is not None:
        found["sample"]["missing"] = sample["missing"]
        if plan.group not in Manifest.read(out).groups and not differences(
            found, json.loads(canonical_json(plan.fingerprint))
        ):
            publish_json(out / plan.name, found)
    publish_plan(plan, out)


def _publish(
    begun: Manifest, files: Mapping[str, bytes], plan: Plan, out: Path, reports: Sequence[ShardReport]
) -> Manifest:
    """Add a group whose shards are all there to the manifest."""
    publish_all_failures(plan, out, reports)
    for name, data in files.items():
        publish_bytes(out / plan.beside(name), data)
    manifest = Manifest.read(out)  # under the lock: as whoever was here last has left it
    if manifest.shards != begun.shards:
        raise ShardError(
            f"{out} has changed since the field group {plan.group!r} was begun; run the same command again"
        )
    infos = tuple(report.info for report in reports)
    if manifest.groups.get(plan.group) != infos:
        manifest = without_group(manifest, plan.group) if plan.group in manifest.groups else manifest
        about = group_provenance(out, plan.group) or {}
        manifest = with_groups(manifest, [Group(plan.group, plan.schema.fields, infos, about)])
        manifest.write(out)
    clear_work(out, manifest)
    return manifest

"""What lies beside the shards of a field group: its plan, its failures, its teacher's projection.

The plan says where the group came from, also where the manifest was lost or has not heard of the group yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.format.beside import FAILURES_NAME, PLAN_NAME, projection_name, read_failures
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.manifest import Manifest
from shards.format.parse import check_name, entry, mapping, parse_json, sequence, text
from shards.format.schema import Field, Schema


def beside_group(name: str, group: str) -> str:
    """Name of a file beside the shards of a group: `plan.json` is `plan.GROUP.json`."""
    path = Path(name)
    return f"{path.stem}.{group}{path.suffix}" if group else name


def files_of_group(directory: Path, group: str) -> list[Path]:
    """All files beside the shards of a group, the plan last: it says which others there are."""
    plan = directory / beside_group(PLAN_NAME, group)
    names = {projection_name(), FAILURES_NAME}
    with contextlib.suppress(ShardError):  # there is none, or it is damaged
        names |= set(read_group_plan(plan)["files"])
    files = (directory / beside_group(name, group) for name in sorted(names))
    return [path for path in (*files, plan) if path.exists()]


def read_group_plan(path: Path) -> dict[str, Any]:
    """The fingerprint of a field group, with the values that are used of it in their types.

    Raises:
        MissingDataError: there is none.
        ShardError: it is damaged.
    """
    try:
        plan = mapping(parse_json(read_small(path)), "a plan")
        text(entry(plan, "split", "a plan"), "the split")
        text(entry(plan, "group", "a plan"), "the group")
        mapping(entry(plan, "sample", "a plan"), "the sample")
        for name in sequence(entry(plan, "files", "a plan"), "the files"):
            check_name(name, "a file's name")
        if entry(plan, "teacher", "a plan") is not None:
            mapping(plan["teacher"], "the teacher")
        Schema(tuple(Field.from_json(field) for field in sequence(entry(plan, "schema", "a plan"), "the schema")))
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}: no field group was begun there") from None
    except ValueError as error:
        raise ShardError(f"{path} is damaged ({error}); restore it, or drop the field group") from None
    return plan


def group_provenance(directory: Path, group: str) -> dict[str, Any] | None:
    """What a manifest says of where a group came from, by its plan; None where there is no plan.

    Raises:
        ShardError: the plan is damaged.
    """
    try:
        plan = read_group_plan(directory / beside_group(PLAN_NAME, group))
    except MissingDataError:
        return None
    return dict(plan["sample"]) | ({} if plan["teacher"] is None else {"teacher": plan["teacher"]})


def problems_of_groups(manifest: Manifest, directory: Path) -> Iterator[str]:
    """Yield what is wrong with the files beside the shards of field groups, one line each."""
    for group in manifest.groups:
        try:
            yield from _problems(manifest, directory, group)
        except (ShardError, OSError) as error:
            yield str(error)


def _problems(manifest: Manifest, directory: Path, group: str) -> Iterator[str]:
    path = directory / beside_group(PLAN_NAME, group)
    if not path.exists():
        return
    plan = read_group_plan(path)
    compared = {
        "split": (plan["split"], manifest.split),
        "group": (plan["group"], group),
        "schema": (plan["schema"], [field.to_json() for field in manifest.schema.of_group(group)]),
        "where it came from": (group_provenance(directory, group), dict(manifest.about(group))),
    }
    for name, (planned, found) in compared.items():
        if planned != found:
            yield f"{path}: it is not the plan of the field group {group!r}: {name} differs from the manifest"
    failures, count = directory / beside_group(FAILURES_NAME, group), len(manifest.shards)
    for failure in read_failures(failures):
        if failure["shard"] >= count:
            yield f"{failures}: {failure['id']} is said to be of shard {failure['shard']}, there are {count}"

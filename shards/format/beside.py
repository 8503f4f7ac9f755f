"""What lies beside the shards of a data set: the plan, the failures, the teacher's projections.

None of it is needed to read samples. A set that was copied without its plan is whole; failures and projections that the
manifest speaks of have to be there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.manifest import Manifest
from shards.format.npy import decode_array
from shards.format.parse import count, entry, mapping, parse_json, sequence, text
from shards.format.schema import Field, Schema
from shards.words import spell_counts

PLAN_NAME = "plan.json"
FAILURES_NAME = "failures.jsonl"
ORIGIN_NAME = "lineage.json"
FROM_PLAN = ("source", "sample", "view", "decoder", "teacher", "seed")  # what a manifest's provenance takes from a plan


def read_plan(path: Path) -> dict[str, Any]:
    """The fingerprint of a build as it stands in plan.json, with the values that are used of it in their types.

    Raises:
        MissingDataError: there is none.
        ShardError: it is damaged.
    """
    try:
        plan = mapping(parse_json(read_small(path)), "a plan")
        text(entry(plan, "split", "a plan"), "the split")
        text(entry(plan, "label_names", "a plan"), "the digest of the label names")
        for name in ("seed", "samples_per_shard"):
            count(entry(plan, name, "a plan"), name)
        if samples_of_item(plan) < 1:
            raise ValueError("an item has to become a sample at least")
        count(entry(mapping(entry(plan, "source", "a plan"), "the source"), "items", "the source"), "the items")
        for name in ("sample", "view", "decoder"):  # plans of clips have view and decoder; others name their kind
            if name in plan or ("sample" not in plan and name != "sample"):
                mapping(entry(plan, name, "a plan"), f"the {name}")
        if entry(plan, "teacher", "a plan") is not None:
            mapping(plan["teacher"], "the teacher")
        sequence(entry(plan, "schema", "a plan"), "the schema")
        planned_schema(plan)
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}: no build was begun there") from None
    except ValueError as error:
        raise ShardError(f"{path} is damaged ({error}); restore it, or build into an empty folder") from None
    return plan


def provenance_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest's provenance takes from a plan."""
    return {name: plan[name] for name in FROM_PLAN if name in plan}


def planned_shards(plan: Mapping[str, Any]) -> int:
    """How many shards a plan cuts its items into; all samples of an item are in one."""
    return int(-(-plan["source"]["items"] // max(1, plan["samples_per_shard"] // samples_of_item(plan))))


def samples_of_item(plan: Mapping[str, Any]) -> int:
    """How many samples each item of a plan becomes: said where it is not one.

    Raises:
        ValueError: it is no number.
    """
    return count(plan.get("samples_per_item", 1), "samples_per_item")


def planned_schema(plan: Mapping[str, Any]) -> Schema:
    """The fields that a plan makes.

    Raises:
        ValueError: they are none.
    """
    return Schema(tuple(Field.from_json(field) for field in plan["schema"]))


def read_failures(path: Path) -> list[dict[str, Any]]:
    """The lines of failures.jsonl, with their values in their types.

    Raises:
        MissingDataError: there is none.
        ShardError: a line is damaged.
    """
    try:
        lines = read_small(path).splitlines()
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_failure(mapping(parse_json(line), "a failure")))
        except ValueError as error:
            raise ShardError(f"{path}, line {number}, is damaged: {error}") from None
    return records


def _failure(record: dict[str, Any]) -> dict[str, Any]:
    wanted = ("id", "key", "path", "shard", "reason", "message", "source_bytes", "source_xxh3_128")
    if set(record) != set(wanted):
        raise ValueError(f"a failure needs {', '.join(wanted)}, and nothing else")
    for name in wanted:
        if name in ("shard", "source_bytes"):
            if not (name == "source_bytes" and record[name] is None):
                count(record[name], name)
        elif not (name == "source_xxh3_128" and record[name] is None):
            text(record[name], name)
    return record


def problems_beside(manifest: Manifest, directory: Path) -> Iterator[str]:
    """Yield what is wrong with the files beside the shards, one line each."""
    checks: tuple[Callable[[Manifest, Path], Iterator[str]], ...] = (_plan, _failures, _projections)
    for check in checks:
        try:
            yield from check(manifest, directory)
        except (ShardError, OSError) as error:
            yield str(error)


def _plan(manifest: Manifest, directory: Path) -> Iterator[str]:
    path = directory / PLAN_NAME
    if not path.exists():
        return
    plan = read_plan(path)
    main = manifest.schema.of_group("")
    names = xxhash.xxh3_128_hexdigest("\n".join(manifest.label_names).encode())
    compared = {
        "split": (plan["split"], manifest.split),
        "schema": (plan["schema"], [field.to_json() for field in main]),
        "label_names": (plan["label_names"], names),
        "the number of shards": (planned_shards(plan), len(manifest.shards)),
        "the number of items": (
            (plan["source"]["items"] - sum(manifest.failures.values())) * samples_of_item(plan),
            manifest.num_samples,
        ),
        **{name: (plan.get(name), manifest.provenance.get(name)) for name in FROM_PLAN},
    }
    for name, (planned, found) in compared.items():
        if planned != found:
            yield f"{path}: it is not the plan of this data set: {name} differs from the manifest"


def _failures(manifest: Manifest, directory: Path) -> Iterator[str]:
    path = directory / FAILURES_NAME
    if not path.exists() and not any(manifest.failures.values()):
        return
    failures = read_failures(path)
    counts = Counter(failure["reason"] for failure in failures)
    if counts != Counter(manifest.failures):
        listed, counted = (spell_counts(dict(sorted(found.items()))) or "none" for found in (counts, manifest.failures))
        yield f"{path}: it lists {listed}, the manifest counts {counted}; restore it, or run the same build again"
    for failure in failures:
        if failure["shard"] >= len(manifest.shards):
            yield f"{path}: {failure['id']} is said to be of shard {failure['shard']}, there are {len(manifest.shards)}"


def projection_name(group: str = "") -> str:
    """File name of the projection that made the targets of a tar series."""
    return f"projection.{group}.npy" if group else "projection.npy"


def teacher_of(manifest: Manifest, group: str = "") -> dict[str, Any] | None:
    """What the manifest knows of the teacher that made the targets of a tar series; None where it knows of none."""
    teacher = manifest.about(group).get("teacher")
    return teacher if isinstance(teacher, dict) else None


def _projections(manifest: Manifest, directory: Path) -> Iterator[str]:
    for group in manifest.schema.groups:
        teacher = teacher_of(manifest, group)
        about = teacher.get("projection") if teacher else None
        if not isinstance(about, dict):
            continue
        path = directory / projection_name(group)
        try:
            found = projection_sha256(read_small(path))
        except FileNotFoundError:
            yield f"{path} is missing: the targets cannot be made again without it; restore it"
            continue
        except ValueError as error:
            yield f"{path} is damaged: {error}; restore it"
            continue
        if found != about.get("sha256"):
            yield f"{path} is not the projection of the manifest: sha256 {found}, expected {about.get('sha256')}"


def projection_sha256(data: bytes) -> str:
    """sha256 (hex) of the numbers in an npy file.

    Raises:
        ValueError: it is not one, or not whole.
    """
    return hashlib.sha256(decode_array(data).tobytes()).hexdigest()

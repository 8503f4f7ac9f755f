"""The plan: which item goes into which shard, and a fingerprint of everything that shapes the bytes.

It is a pure function of the items, the seed and the shard size, so every engine and every resumed run computes the
same one. `plan.json` is written before the first shard; a run that would give other bytes is refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from shards.builder.config import BuildConfig, TeacherDescription, TeacherFacts
from shards.builder.decode.view import ViewSpec
from shards.builder.item import Item, Source, items_digest
from shards.builder.samples.base import SampleKind, items_per_shard, samples_per_item
from shards.builder.samples.clip import ClipKind
from shards.format.beside import FAILURES_NAME, PLAN_NAME, read_plan
from shards.format.beside_group import beside_group, read_group_plan
from shards.format.errors import ShardError
from shards.format.manifest import shard_name
from shards.format.parse import check_name
from shards.format.publish import publish_json
from shards.format.schema import Field, Schema

LimitOrder = Literal["random", "source"]

MAX_SPELLED = 80
BUILD_VERSION = 2  # raise it when the same plan would give other bytes; 1 named frames by counting them


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be built: the main series of a data set, or one field group of it.

    Attributes:
        split: such as "train".
        root: folder that the items' paths are relative to.
        items: all items in shard order.
        shard_sizes: planned items of each shard.
        schema: the fields of every sample.
        kind: what an item becomes.
        config: how shards are made.
        fingerprint: everything that shapes the bytes, as it stands in plan.json.
        group: the field group; "" for the main series. In a group every planned item is a sample, also one that failed.
    """

    split: str
    root: Path
    items: tuple[Item, ...]
    shard_sizes: tuple[int, ...]
    schema: Schema
    kind: SampleKind
    config: BuildConfig
    fingerprint: Mapping[str, Any]
    group: str = ""

    @property
    def samples_per_item(self) -> int:
        """Samples that each item becomes."""
        return samples_per_item(self.kind)

    @property
    def num_shards(self) -> int:
        """Shards of the data set."""
        return len(self.shard_sizes)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(itertools.accumulate(self.shard_sizes))

    def shard_items(self, shard: int) -> tuple[Item, ...]:
        """Return the planned items of a shard."""
        end = self._ends[shard]
        return self.items[end - self.shard_sizes[shard] : end]

    def shard_name(self, shard: int) -> str:
        """Return the file name of a shard's tar."""
        return shard_name(self.split, shard, self.num_shards, self.group)

    def beside(self, name: str) -> str:
        """Return the name of a file beside the shards, such as plan.json; of a group it is plan.GROUP.json."""
        return beside_group(name, self.group)

    @property
    def name(self) -> str:
        """Return the file name of the plan."""
        return self.beside(PLAN_NAME)

    @property
    def failures_name(self) -> str:
        """Return the file name of the list of failures."""
        return self.beside(FAILURES_NAME)


def make_plan(
    source: Source,
    kind: SampleKind | ViewSpec,
    config: BuildConfig,
    *,
    split: str,
    teacher: TeacherFacts | None = None,
    limit: int | None = None,
    limit_order: LimitOrder = "random",
) -> Plan:
    """Cut the items of a source into shards, ordered by a hash of seed and id.

    Args:
        source: the items.
        kind: what an item becomes; a view stands for clips of it.
        config: how shards are made.
        split: such as "train".
        teacher: what is known of the teacher; None for samples without targets.
        limit: take only so many items.
        limit_order: take the first of the hashed order, a random, repeatable sample, or of the source's own order.

    Raises:
        ValueError: there are no items, the split's name is not allowed, kind and teacher do not fit together, or this
            machine cannot make such samples.
    """
    check_name(split, "the split's name")
    if not source.items:
        raise ValueError(f"the source has no items for split {split!r}; there is nothing to build")
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is {limit}; it must be at least 1")
    if limit_order not in get_args(LimitOrder):
        raise ValueError(f"the limit's order is {limit_order!r}; choose {' or '.join(get_args(LimitOrder))}")
    takes_first = limit_order == "source" and limit is not None and limit < len(source.items)
    items = source.items[:limit] if takes_first else source.items
    items = _mark_duplicates(_ordered(items, config.seed)[:limit])
    origin = {"kind": source.kind, **source.provenance, "items": len(items), "digest": items_digest(items)}
    kind = ClipKind.of(kind, config) if isinstance(kind, ViewSpec) else kind
    schema, size = kind.schema(teacher).with_codecs(config.codec or {}), config.samples_per_shard
    num_views, num_items = samples_per_item(kind), items_per_shard(kind, size)
    fingerprint = {
        **fingerprint_of(split, kind, schema, teacher, config),
        "source": origin | ({"limit_order": limit_order} if takes_first else {}),
        "label_names": xxhash.xxh3_128_hexdigest("\n".join(source.label_names).encode()),
        "seed": config.seed,
        "samples_per_shard": size,
        **({"samples_per_item": num_views} if num_views > 1 else {}),
    }
    return Plan(
        split=split,
        root=source.root,
        items=items,
        shard_sizes=tuple(min(num_items, len(items) - start) for start in range(0, len(items), num_items)),
        schema=schema,
        kind=kind,
        config=config,
        fingerprint=fingerprint,
    )


def fingerprint_of(
    split: str, kind: SampleKind, schema: Schema, teacher: TeacherFacts | None, config: BuildConfig
) -> dict[str, Any]:
    """Return what plan.json says whatever is built: all that shapes the bytes but the items and how they are cut."""
    about = kind.fingerprint()
    if teacher is None:
        made_by = None
    else:
        shapes = {"output_shape": list(teacher.output_shape), "output_dtype": teacher.output_dtype}
        made_by = {**teacher.provenance, "batch": config.teacher_batch, **(shapes if "sample" in about else {})}
    return {
        "format": schema.format,
        "build_version": BUILD_VERSION,
        "split": split,
        **about,
        "schema": [field.to_json() for field in schema],
        "teacher": made_by,
    }


def _ordered(items: tuple[Item, ...], seed: int) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: xxhash.xxh3_64_intdigest(f"{seed}:{item.id}".encode())))


def _mark_duplicates(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Keep the first item of each key; the others stay in the plan as failures, so that every item is accounted for."""
    first: dict[str, Item] = {}
    marked = []
    for item in items:
        if item.problem is not None or first.setdefault(item.key, item) is item:
            marked.append(item)
        else:
            message = f"the key {item.key!r} is taken by {first[item.key].path}"
            marked.append(replace(item, problem=("duplicate_id", message)))
    return tuple(marked)


def recorded_teacher(out: Path) -> TeacherDescription | None:
    """Return the teacher that plan.json names, so that a machine without it can finish the data set.

    Raises:
        MissingDataError: nothing was begun in `out`.
        ShardError: the plan is damaged.
    """
    found = read_plan(out / PLAN_NAME)
    if found["teacher"] is None:
        return None
    about = dict(found["teacher"])
    about.pop("batch", None)
    if "sample" not in found:
        return TeacherDescription(output_shape=_shape_of_targets(found, out), provenance=about)
    shape, dtype = about.pop("output_shape", None), about.pop("output_dtype", None)
    if not isinstance(shape, list) or not all(isinstance(n, int) for n in shape) or not isinstance(dtype, str):
        raise ShardError(f"{out / PLAN_NAME} is damaged: it does not say what its teacher gives")
    return TeacherDescription(output_shape=tuple(shape), output_dtype=dtype, provenance=about)


def _shape_of_targets(found: Mapping[str, Any], out: Path) -> tuple[int, int]:
    """What a teacher gave for clips, (N, D): plans of clips say it by their schema."""
    schema = Schema(tuple(Field.from_json(field) for field in found["schema"]))
    shapes = {field.name: field.fixed_shape for field in schema if field.is_array}
    shape = shapes.get("target", ())
    if len(shape) not in (2, 3):
        raise ShardError(f"{out / PLAN_NAME} is damaged: it has a teacher, and targets of shape {shape or None}")
    tokens = shape[0] * shape[1] if len(shape) == 3 else shape[0]  # [S, T', D] in the tubes layout, else [N, D]
    return tokens, shape[-1]


def publish_plan(plan: Plan, out: Path) -> None:
    """Write plan.json (of a group plan.GROUP.json), or check that the one that is there is the same plan.

    Raises:
        ShardError: `out` holds another plan; the message names what differs.
    """
    path = out / plan.name
    wanted = json.loads(json.dumps(plan.fingerprint))
    if not path.exists():
        publish_json(path, wanted)
        return
    found = read_group_plan(path) if plan.group else read_plan(path)
    if others := differences(found, wanted):
        what, cure = f"{out}", "or into an empty folder"
        if plan.group:
            what, cure = f"the field group {plan.group!r} of {out}", "or choose another name, or drop it first"
        raise ShardError(
            f"{what} was begun with another plan: {'; '.join(others)}. Build with the same settings to go on, {cure}"
        )


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Return in words where two JSON values differ, by the path of each value; long values are cut short."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(found.keys() | wanted.keys())
            for line in differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [line for number, pair in pairs for line in differences(*pair, f"{name}.{number}")]
    return [] if found == wanted else [f"{name} was {_spell_json(found)}, is now {_spell_json(wanted)}"]


def _spell_json(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    spelled = json.dumps(value)
    return spelled if len(spelled) <= MAX_SPELLED else f"{spelled[:MAX_SPELLED]}..."

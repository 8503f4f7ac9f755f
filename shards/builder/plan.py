"""The plan: which item goes into which shard, and a fingerprint of everything that shapes the bytes.

It is a pure function of the items, the seed and the shard size, so every engine and every resumed run computes the
same one. `plan.json` is written before the first shard; a run that would give other bytes is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import PIL
import xxhash

from shards.builder.config import BuildConfig, TeacherDescription, TeacherFacts
from shards.builder.decode.decoders import VideoDecoder, decoder_versions
from shards.builder.decode.view import ViewSpec
from shards.builder.item import Item, Source, items_digest
from shards.format.beside import PLAN_NAME, read_plan
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
    """What is to be built.

    Attributes:
        split: such as "train".
        root: folder that the items' paths are relative to.
        items: all items in shard order.
        schema: the fields of every sample.
        view: how a clip is cut out of a video.
        config: how shards are made.
        fingerprint: everything that shapes the bytes, as it stands in plan.json.
    """

    split: str
    root: Path
    items: tuple[Item, ...]
    schema: Schema
    view: ViewSpec
    config: BuildConfig
    fingerprint: Mapping[str, Any]

    @cached_property
    def num_shards(self) -> int:
        """Shards of the data set; only the last may be shorter."""
        return -(-len(self.items) // self.config.samples_per_shard)

    def shard_items(self, shard: int) -> tuple[Item, ...]:
        """Return the planned items of a shard."""
        size = self.config.samples_per_shard
        return self.items[shard * size : (shard + 1) * size]

    def shard_name(self, shard: int) -> str:
        """Return the file name of a shard's tar."""
        return shard_name(self.split, shard, self.num_shards)


def make_plan(
    source: Source,
    view: ViewSpec,
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
        view: how a clip is cut out of a video.
        config: how shards are made.
        split: such as "train".
        teacher: what is known of the teacher; None for clips only.
        limit: take only so many items.
        limit_order: take the first of the hashed order, a random, repeatable sample, or of the source's own order.

    Raises:
        ValueError: there are no items, the split's name is not allowed, view, layout and teacher do not fit together,
            or the decoder is not installed.
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
    schema = config.schema(view, None if teacher is None else teacher.output_shape)
    fingerprint = {
        "format": schema.format,
        "build_version": BUILD_VERSION,
        "split": split,
        "source": origin | ({"limit_order": limit_order} if takes_first else {}),
        "label_names": xxhash.xxh3_128_hexdigest("\n".join(source.label_names).encode()),
        "view": view.to_json() | {"hash": view.hash},
        "schema": [field.to_json() for field in schema],
        "seed": config.seed,
        "samples_per_shard": config.samples_per_shard,
        "decoder": _decoder_facts(config.decoder),
        "teacher": None if teacher is None else {**teacher.provenance, "batch": config.teacher_batch},
    }
    return Plan(
        split=split, root=source.root, items=items, schema=schema, view=view, config=config, fingerprint=fingerprint
    )


def _decoder_facts(decoder: VideoDecoder) -> dict[str, str]:
    """Name what decides a clip's pixels, and not what else is installed: "auto" is PyAV."""
    versions = decoder_versions()
    names = ("pyav", "decord") if decoder == "decord" else ("pyav",)
    if absent := [name for name in names if versions[name] is None]:
        raise ValueError(f"build.decoder is {decoder!r}, but {absent[0]} is not installed here; choose pyav")
    used = {name: str(versions[name]) for name in names}
    return {"choice": names[-1], **used, "pillow": PIL.__version__, "frames_by": "presentation time"}


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
    provenance = {name: value for name, value in found["teacher"].items() if name != "batch"}
    schema = Schema(tuple(Field.from_json(field) for field in found["schema"]))
    shapes = {field.name: field.fixed_shape for field in schema if field.is_array}
    shape = shapes.get("target", ())
    if len(shape) not in (2, 3):
        raise ShardError(f"{out / PLAN_NAME} is damaged: it has a teacher, and targets of shape {shape or None}")
    tokens = shape[0] * shape[1] if len(shape) == 3 else shape[0]  # [S, T', D] in the tubes layout, else [N, D]
    return TeacherDescription(output_shape=(tokens, shape[-1]), provenance=provenance)


def publish_plan(plan: Plan, out: Path) -> None:
    """Write plan.json, or check that the one that is there is the same plan.

    Raises:
        ShardError: `out` holds another plan; the message names what differs.
    """
    path = out / PLAN_NAME
    wanted = json.loads(json.dumps(plan.fingerprint))
    if not path.exists():
        publish_json(path, wanted)
        return
    found = read_plan(path)
    if others := differences(found, wanted):
        raise ShardError(
            f"{out} was begun with another plan: {'; '.join(others)}. Build with the same settings to go on, "
            "or into an empty folder"
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
    return [] if found == wanted else [f"{name} was {_spell(found)}, is now {_spell(wanted)}"]


def _spell(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    spelled = json.dumps(value)
    return spelled if len(spelled) <= MAX_SPELLED else f"{spelled[:MAX_SPELLED]}..."

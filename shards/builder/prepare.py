"""From a planned item to what its sample is made of, one item at a time: the work of a decoder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from shards.builder.failure import BuildFailure, FailureRecord
from shards.builder.item import Item
from shards.builder.samples.base import Prepared, SampleKind, unforeseen


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What preparing an item gave: what its sample is made of, or the failure to record."""

    item: Item
    shard: int
    prepared: Prepared | None
    failure: FailureRecord | None
    seconds: float


def prepare_item(kind: SampleKind, root: Path, shard: int, item: Item) -> Outcome:
    """Prepare one item; whatever is wrong with it ends up in the outcome."""
    start, prepared, failure = time.perf_counter(), None, None
    try:
        if item.problem is not None:
            raise BuildFailure(*item.problem)
        prepared = kind.prepare(root, item)
    except BuildFailure as error:
        failure = failure_record(item, shard, error)
    except (ValueError, RuntimeError, OSError) as error:  # a way to fail that nobody has met yet
        failure = failure_record(item, shard, unforeseen(error))
    return Outcome(item=item, shard=shard, prepared=prepared, failure=failure, seconds=time.perf_counter() - start)


def failure_record(item: Item, shard: int, error: BuildFailure) -> FailureRecord:
    """Return the line of failures.jsonl for an item."""
    return FailureRecord(
        id=item.id,
        key=item.key,
        path=item.path,
        shard=shard,
        reason=error.reason,
        message=error.message,
        source_bytes=error.source.num_bytes if error.source else None,
        source_xxh3_128=error.source.xxh3_128 if error.source else None,
    )

"""From a planned item to what the tar stores, one clip at a time: the work of a decoder."""

from __future__ import annotations

import time
from dataclasses import dataclass

from shards.builder.decode.decoders import DecodedClip, decode_source
from shards.builder.decode.stream_facts import SourceFile, read_source_file
from shards.builder.failure import BuildFailure, FailureRecord
from shards.builder.item import Item
from shards.builder.plan import Plan
from shards.format.publish import canonical_json


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What decoding an item gave: a clip, or the failure to record."""

    item: Item
    shard: int
    clip: DecodedClip | None
    failure: FailureRecord | None
    seconds: float


def build_clip(plan: Plan, shard: int, item: Item) -> Outcome:
    """Decode one item; whatever is wrong with the video ends up in the outcome."""
    start, source, clip, failure = time.perf_counter(), None, None, None
    try:
        if item.problem is not None:
            raise BuildFailure(*item.problem)
        path = plan.root / item.path
        source = read_source_file(path)
        clip = decode_source(path, source, plan.view, plan.config.decoder)
    except BuildFailure as error:
        failure = failure_record(item, shard, error, source)
    except (ValueError, RuntimeError, OSError) as error:  # a decoder's way to fail that nobody has met yet
        unforeseen = BuildFailure("decode_error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        failure = failure_record(item, shard, unforeseen, source)
    return Outcome(item=item, shard=shard, clip=clip, failure=failure, seconds=time.perf_counter() - start)


def failure_record(item: Item, shard: int, error: BuildFailure, source: SourceFile | None) -> FailureRecord:
    """Return the line of failures.jsonl for an item."""
    return FailureRecord(
        id=item.id,
        key=item.key,
        path=item.path,
        shard=shard,
        reason=error.reason,
        message=error.message,
        source_bytes=source.num_bytes if source else None,
        source_xxh3_128=source.xxh3_128 if source else None,
    )


def sample_json(plan: Plan, item: Item, clip: DecodedClip) -> bytes:
    """Return the sample's `json` field: what it shows and exactly where it came from."""
    return canonical_json(
        {
            "video_id": item.id,
            "path": item.path,
            "label": item.label,
            "label_name": item.label_name,
            "text": item.text,
            "frame_indices": clip.frame_indices,
            "timestamps": clip.timestamps_seconds,
            "num_source_frames": clip.num_source_frames,
            "view_hash": plan.view.hash,
            "decoder": clip.decoder,
            "source_bytes": clip.source.num_bytes,
            "source_xxh3_128": clip.source.xxh3_128,
        }
    )

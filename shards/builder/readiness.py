"""Look before a long build: are the videos there, does a sample of them decode, is there room for the shards?"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from shards.builder.decode.isolate import DecodePool
from shards.builder.decode.zipped import has_content
from shards.builder.plan import Plan
from shards.format.errors import ShardError
from shards.format.schema import Schema
from shards.words import spell_bytes, spell_counts

NUM_SAMPLED = 64
_OVERHEAD_BYTES = 3 * 4096  # tar headers, page alignment and metadata of a sample
_STAT_THREADS = 16  # they wait for the file system


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What was found.

    Attributes:
        num_items: planned items.
        absent: items that fail without being opened, by reason: no file, an empty one, or a wrong annotation.
        num_sampled: files that were decoded.
        broken: of these, those that failed, by reason.
        bytes_needed: all shards, estimated from above; where samples differ in size, by those that were decoded.
        is_measured: whether they do.
        bytes_free: on the disk of the output folder.
    """

    num_items: int
    absent: dict[str, int]
    num_sampled: int
    broken: dict[str, int]
    bytes_needed: int
    bytes_free: int
    is_measured: bool = False

    def describe(self) -> str:
        """Return the findings as one line."""
        absent = spell_counts(self.absent) or "none missing"
        broken = spell_counts(self.broken) or "all decode"
        return (
            f"{self.num_items} videos: {absent}; of {self.num_sampled} taken at random: {broken}; "
            f"{'about' if self.is_measured else 'up to'} {spell_bytes(self.bytes_needed)} needed, "
            f"{spell_bytes(self.bytes_free)} free"
        )


def look_ahead(plan: Plan, out: Path, bytes_per_sample: int | None = None) -> Readiness:
    """Count files, decode a sample, and compare sizes; nothing is written.

    Args:
        plan: what is to be built.
        out: the data set's folder; it need not exist yet.
        bytes_per_sample: where the plan's schema does not know of the targets yet.
    """
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        problems = list(
            pool.map(
                lambda item: item.problem[0] if item.problem else _absent(plan.root, item.path),
                plan.items,
                chunksize=256,
            )
        )
    decoders = DecodePool(plan, plan.config.num_workers)
    try:
        there = (item for item, problem in zip(plan.items, problems, strict=True) if problem is None)
        tries = [decoders.submit(0, item) for item in islice(there, NUM_SAMPLED)]  # the plan's order is random
        outcomes = [future.result() for future in tries]
    finally:
        decoders.shutdown()
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    measured = [outcome.prepared.num_bytes for outcome in outcomes if outcome.prepared is not None]
    each = bytes_per_sample or sample_bytes(plan.schema)
    if is_measured := has_lengths(plan.schema):
        each += sum(measured) // max(1, len(measured))
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return Readiness(
        num_items=len(plan.items),
        absent=dict(sorted(Counter(problem for problem in problems if problem).items())),
        num_sampled=len(tries),
        broken=dict(sorted(Counter(failure.reason for failure in failures).items())),
        bytes_needed=len(plan.items) * plan.samples_per_item * each,
        bytes_free=shutil.disk_usage(folder).free,
        is_measured=is_measured,
    )


def check_readiness(found: Readiness, plan: Plan) -> None:
    """Stop a build that would fail later.

    Raises:
        ShardError: more items are absent than may fail, or so many of the sample are broken that more would.
    """
    allowed = plan.config.allowed_failures(found.num_items)
    share = allowed / found.num_items
    expected = found.num_sampled * share
    surprising = (
        expected + 4 * math.sqrt(expected * (1 - share)) + 1
    )  # a share at the limit would hardly ever give more
    if sum(found.absent.values()) > allowed or sum(found.broken.values()) > surprising:
        raise ShardError(
            f"the videos are not fit to build: {found.describe()}. {allowed} may fail: unpack or copy the videos "
            "again, or raise build.max_failures"
        )


def sample_bytes(schema: Schema) -> int:
    """Return about how many bytes a sample takes in a tar without rows and packed pieces, rather more than fewer."""
    return _OVERHEAD_BYTES + sum(field.num_bytes for field in schema if field.is_array)


def has_lengths(schema: Schema) -> bool:
    """Tell whether samples differ in size: in rows, or in pieces."""
    return any(field.has_lengths for field in schema)


def _absent(root: Path, path: str) -> str | None:
    try:
        return None if not path or has_content(root, path) else "empty_file"
    except OSError:
        return "missing_file"

"""Build a data set: plan, have an engine build what is missing, publish the manifest. Run it again to resume."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from shards.builder.config import BuildConfig, Teacher
from shards.builder.decode.view import ViewSpec
from shards.builder.engines.base import Engine
from shards.builder.engines.in_process import InProcess
from shards.builder.finish import finalize, finish_shards
from shards.builder.item import Source
from shards.builder.journal import ShardReport, StageSeconds, count_failures, finished_shards
from shards.builder.lock import build_lock
from shards.builder.partition import Partition
from shards.builder.plan import LimitOrder, Plan, make_plan, publish_plan, recorded_teacher
from shards.builder.worker import Progress
from shards.format.beside import PLAN_NAME
from shards.format.errors import ShardError
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.publish import publish_bytes, remove_temporaries


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did; num_samples + num_failed == num_planned, always. Of a partition: its share only.

    Attributes:
        num_resumed: planned items in shards that an earlier run had finished.
        failures: number of failed items by reason.
        num_bytes: of all tars.
        seconds: of this run.
        clips_per_second: items that this run worked on, failed ones included, per second.
        stages: where this run's time went, summed over workers.
        digest: the data set's name; None while partitions wait to be finalized.
    """

    num_planned: int
    num_samples: int
    num_failed: int
    num_resumed: int
    num_shards: int
    num_bytes: int
    failures: dict[str, int]
    seconds: float
    clips_per_second: float
    stages: StageSeconds
    digest: str | None


def build_dataset(
    source: Source,
    out: Path,
    view: ViewSpec,
    config: BuildConfig,
    *,
    teacher: Teacher | None = None,
    engine: Engine | None = None,
    split: str = "train",
    limit: int | None = None,
    limit_order: LimitOrder = "random",
    partition: Partition | None = None,
    retry_failures: bool = False,
    progress: Progress | None = None,
) -> BuildSummary:
    """Build one split into the folder `out`.

    A killed build is resumed by the same call: finished shards are kept, and the result has the same bytes as that of a
    build that was never stopped, whatever the engine.

    Args:
        source: the items.
        out: the data set's folder; made when it is not there.
        view: how a clip is cut out of a video.
        config: how shards are made.
        teacher: makes the targets in this process; None for a data set of clips only, or with an `engine`.
        engine: runs the workers; None for one worker in this process.
        split: such as "train"; the shards' names begin with it.
        limit: build only that many items.
        limit_order: which these are: "random", a sample that depends on `config.seed`, or "source", the first ones.
        partition: build only this share of the shards and no manifest; `finalize_dataset` completes them.
        retry_failures: decode failed videos again, and build the shards anew in which one has changed.
        progress: called with (items done, of which failed) since its last call.

    Raises:
        ValueError: view, layout and teacher do not fit together, or there is nothing to build.
        ShardError: `out` holds another plan, another build is running, the disk is full, or more items failed than may.
        KeyboardInterrupt: as it came, with what remains in its message.
    """
    engine = engine or InProcess(teacher)
    facts = engine.facts()
    plan = make_plan(source, view, config, split=split, teacher=facts, limit=limit, limit_order=limit_order)
    _check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with build_lock(out, partition) as alone:
        start = time.perf_counter()
        publish_plan(plan, out)
        if alone:
            remove_temporaries(out)
        for name, data in (facts.files if facts is not None else {}).items():
            publish_bytes(out / name, data)
        shards = (partition or Partition()).shards(plan.num_shards)
        reports, num_resumed = finish_shards(
            plan, out, engine, shards, retry_failures=retry_failures, progress=progress
        )
        manifest = finalize(plan, out, reports, source.label_names) if partition is None else None
        return _summarise(plan, reports, num_resumed, time.perf_counter() - start, manifest)


def finalize_dataset(
    source: Source,
    out: Path,
    view: ViewSpec,
    config: BuildConfig,
    *,
    split: str = "train",
    limit: int | None = None,
    limit_order: LimitOrder = "random",
) -> BuildSummary:
    """Complete what partitions have built: check that every shard is there and write the manifest.

    The arguments are those of `build_dataset`; the teacher is the one that plan.json names, and is not needed here.

    Raises:
        ShardError: shards are missing, nothing was begun in `out`, or it holds another plan.
    """
    teacher = recorded_teacher(out)
    plan = make_plan(source, view, config, split=split, teacher=teacher, limit=limit, limit_order=limit_order)
    with build_lock(out):
        start = time.perf_counter()
        publish_plan(plan, out)
        remove_temporaries(out)
        reports = finished_shards(plan, out)
        if missing := [plan.shard_name(shard) for shard in range(plan.num_shards) if shard not in reports]:
            raise ShardError(
                f"{len(missing)} of {plan.num_shards} shards of {out} are not finished, the first is {missing[0]}; "
                "run the partitions again that were to build them, then --finalize"
            )
        ordered = [reports[shard] for shard in range(plan.num_shards)]
        manifest = finalize(plan, out, ordered, source.label_names)
        return _summarise(plan, ordered, len(plan.items), time.perf_counter() - start, manifest)


def _summarise(
    plan: Plan, reports: list[ShardReport], num_resumed: int, seconds: float, manifest: Manifest | None
) -> BuildSummary:
    failures = count_failures(reports)
    num_planned = sum(len(plan.shard_items(report.shard)) for report in reports)
    return BuildSummary(
        num_planned=num_planned,
        num_samples=sum(report.num_samples for report in reports),
        num_failed=sum(failures.values()),
        num_resumed=num_resumed,
        num_shards=len(reports),
        num_bytes=sum(report.info.num_bytes for report in reports),
        failures=failures,
        seconds=seconds,
        clips_per_second=(num_planned - num_resumed) / seconds,
        stages=sum((report.seconds for report in reports), StageSeconds()),
        digest=None if manifest is None else manifest.digest,
    )


def _check_folder(out: Path) -> None:
    if not (out / PLAN_NAME).exists() and (any(out.glob("*.tar")) or (out / MANIFEST_NAME).exists()):
        raise ShardError(f"{out} holds shards but no {PLAN_NAME}: it is not a build; choose an empty folder")

"""Build a data set: plan, have an engine build what is missing, publish the manifest. Run it again to resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.builder.config import BuildConfig, Teacher, TeacherFacts
from shards.builder.decode.view import ViewSpec
from shards.builder.engines.base import Engine
from shards.builder.engines.in_process import InProcess
from shards.builder.finish import finalize, finish_shards
from shards.builder.item import Source
from shards.builder.journal import ShardReport, StageSeconds, count_failures, finished_shards
from shards.builder.lock import build_lock
from shards.builder.partition import Partition
from shards.builder.plan import LimitOrder, Plan, make_plan, publish_plan, recorded_teacher
from shards.builder.samples.base import SampleKind
from shards.codecs.base import Fidelity, add_up
from shards.format.beside import PLAN_NAME
from shards.format.errors import ShardError
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.publish import publish_bytes, remove_temporaries
from shards.progress import Progress, untold

Publish = Callable[[Plan, Path, Sequence[ShardReport]], Manifest]  # of all shards, in order


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did, of a partition its share only; (num_planned - num_failed) * samples_per_item == num_samples.

    Attributes:
        num_planned: items.
        num_samples: made of those that did not fail; in a field group something stands in for those that did.
        num_failed: items.
        num_resumed: planned items in shards that an earlier run had finished.
        failures: number of failed items by reason.
        num_bytes: of all tars.
        seconds: of this run.
        clips_per_second: items that this run worked on, failed ones included, per second.
        stages: where this run's time went, summed over workers.
        digest: the data set's name; None while partitions wait to be finalized.
        samples_per_item: more than 1 where several views are taken of each video.
        fidelity: field with a codec -> how near it comes to what it stores, of some samples of this run.
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
    samples_per_item: int = 1
    fidelity: dict[str, Fidelity] = field(default_factory=dict)


def build_dataset(
    source: Source,
    out: Path,
    view: ViewSpec | None = None,
    config: BuildConfig | None = None,
    *,
    kind: SampleKind | None = None,
    teacher: Teacher | None = None,
    engine: Engine | None = None,
    split: str = "train",
    limit: int | None = None,
    limit_order: LimitOrder = "random",
    partition: Partition | None = None,
    retry_failures: bool = False,
    progress: Progress = untold,
) -> BuildSummary:
    """Build one split into the folder `out`.

    A killed build is resumed by the same call: finished shards are kept, and the result has the same bytes as that of a
    build that was never stopped, whatever the engine.

    Args:
        source: the items.
        out: the data set's folder; made when it is not there.
        view: how a clip is cut out of a video, for samples that are clips.
        config: how shards are made; None takes the defaults.
        kind: what an item becomes, in place of `view`.
        teacher: makes the targets in this process; None for a data set without targets, or with an `engine`.
        engine: runs the workers; None for one worker in this process.
        split: such as "train"; the shards' names begin with it.
        limit: build only that many items.
        limit_order: which these are: "random", a sample that depends on `config.seed`, or "source", the first ones.
        partition: build only this share of the shards and no manifest; `finalize_dataset` completes them.
        retry_failures: decode failed videos again, and build the shards anew in which one has changed.
        progress: called with (items done, of which failed) since its last call.

    Raises:
        ValueError: kind and teacher do not fit together, neither or both of `view` and `kind` are given, or there is
            nothing to build.
        ShardError: `out` holds another plan, another build is running, the disk is full, or more items failed than may.
        KeyboardInterrupt: as it came, with what remains in its message.
    """
    engine, config = engine or InProcess(teacher), config or BuildConfig()
    facts = engine.facts()
    sample = _one_of(view, kind)
    plan = make_plan(source, sample, config, split=split, teacher=facts, limit=limit, limit_order=limit_order)
    _check_folder(out)
    return run_plan(
        plan,
        out,
        engine,
        lambda plan, out, reports: finalize(plan, out, reports, source.label_names),
        partition=partition,
        retry_failures=retry_failures,
        progress=progress,
    )


def finalize_dataset(
    source: Source,
    out: Path,
    view: ViewSpec | None = None,
    config: BuildConfig | None = None,
    *,
    kind: SampleKind | None = None,
    split: str = "train",
    limit: int | None = None,
    limit_order: LimitOrder = "random",
) -> BuildSummary:
    """Complete what partitions have built: check that every shard is there and write the manifest.

    The arguments are those of `build_dataset`; the teacher is the one that plan.json names, and is not needed here.

    Raises:
        ShardError: shards are missing, nothing was begun in `out`, or it holds another plan.
    """
    teacher, sample = recorded_teacher(out), _one_of(view, kind)
    config = config or BuildConfig()
    plan = make_plan(source, sample, config, split=split, teacher=teacher, limit=limit, limit_order=limit_order)
    return finish_plan(plan, out, lambda plan, out, reports: finalize(plan, out, reports, source.label_names))


def run_plan(
    plan: Plan,
    out: Path,
    engine: Engine,
    publish: Publish,
    *,
    partition: Partition | None = None,
    retry_failures: bool = False,
    progress: Progress = untold,
) -> BuildSummary:
    """Build what is missing of a plan, of a main series or of a field group, then publish it.

    Args:
        plan: what is to be built.
        out: the data set's folder; made when it is not there.
        engine: runs the workers; the plan was made with its teacher.
        publish: writes what makes a data set of the shards, and returns the manifest. Called once all shards are there,
            under the lock of the folder.
        partition: build only this share of the shards, and publish nothing.
        retry_failures: decode failed items again, and build the shards anew in which one has changed.
        progress: called with (items done, of which failed) since its last call.

    Raises:
        ShardError: as of `build_dataset`.
        KeyboardInterrupt: as it came, with what remains in its message.
    """
    out.mkdir(parents=True, exist_ok=True)
    with build_lock(out, partition) as alone:
        start = time.perf_counter()
        publish_plan(plan, out)
        if alone:
            remove_temporaries(out)
        _publish_files(plan, out, engine.facts())
        shards = (partition or Partition()).shards(plan.num_shards)
        reports, num_resumed = finish_shards(
            plan, out, engine, shards, retry_failures=retry_failures, progress=progress
        )
        manifest = publish(plan, out, reports) if partition is None else None
        return _summarise(plan, reports, num_resumed, time.perf_counter() - start, manifest)


def finish_plan(plan: Plan, out: Path, publish: Publish) -> BuildSummary:
    """Publish what partitions have built of a plan.

    Raises:
        ShardError: shards are missing, or `out` holds another plan.
    """
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
        manifest = publish(plan, out, ordered)
        return _summarise(plan, ordered, len(plan.items), time.perf_counter() - start, manifest)


def _one_of(view: ViewSpec | None, kind: SampleKind | None) -> SampleKind | ViewSpec:
    if view is not None and kind is None:
        return view
    if kind is not None and view is None:
        return kind
    raise ValueError("give a view, for samples that are clips, or a kind of sample: one of both")


def _publish_files(plan: Plan, out: Path, teacher: TeacherFacts | None) -> None:
    for name, data in ({} if teacher is None else teacher.files).items():
        publish_bytes(out / plan.beside(name), data)


def _summarise(
    plan: Plan, reports: list[ShardReport], num_resumed: int, seconds: float, manifest: Manifest | None
) -> BuildSummary:
    failures = count_failures(reports)
    num_planned = sum(len(plan.shard_items(report.shard)) for report in reports)
    return BuildSummary(
        num_planned=num_planned,
        num_samples=(num_planned - sum(failures.values())) * plan.samples_per_item,
        num_failed=sum(failures.values()),
        num_resumed=num_resumed,
        num_shards=len(reports),
        num_bytes=sum(report.info.num_bytes for report in reports),
        failures=failures,
        seconds=seconds,
        clips_per_second=(num_planned - num_resumed) / seconds,
        stages=sum((report.seconds for report in reports), StageSeconds()),
        digest=None if manifest is None else manifest.digest,
        samples_per_item=plan.samples_per_item,
        fidelity=add_up(report.fidelity for report in reports),
    )


def _check_folder(out: Path) -> None:
    if not (out / PLAN_NAME).exists() and (any(out.glob("*.tar")) or (out / MANIFEST_NAME).exists()):
        raise ShardError(f"{out} holds shards but no {PLAN_NAME}: it is not a build; choose an empty folder")

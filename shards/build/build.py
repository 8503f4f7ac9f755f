"""Build a data set on this machine: plan, build what is missing, publish the manifest. Run it again to resume."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.build.config import BuildConfig, Teacher
from shards.build.item import Source
from shards.build.plan import PLAN_NAME, Plan, make_plan, publish_plan
from shards.build.report import FAILURES_NAME, WORK_FOLDER, ShardReport, StageSeconds, encode_failures, finished_shards
from shards.build.view import ViewSpec
from shards.build.worker import Progress, ShardWorker
from shards.errors import ShardError
from shards.manifest import MANIFEST_NAME, Manifest
from shards.publish import publish_bytes, remove_temporaries


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did; num_samples + num_failed == num_planned, always.

    Attributes:
        num_resumed: planned items in shards that an earlier run had finished.
        failures: number of failed items by reason.
        num_bytes: of all tars.
        seconds: of this run.
        clips_per_second: items that this run worked on, failed ones included, per second.
        stages: where this run's time went.
        digest: the data set's name.
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
    digest: str


def build_dataset(
    source: Source,
    out: Path,
    view: ViewSpec,
    config: BuildConfig,
    *,
    teacher: Teacher | None = None,
    split: str = "train",
    limit: int | None = None,
    progress: Progress | None = None,
) -> BuildSummary:
    """Build one split into the folder `out`.

    A killed build is resumed by the same call: finished shards are kept, and the result has the same bytes as that of a
    build that was never stopped.

    Args:
        source: the items.
        out: the data set's folder; made when it is not there.
        view: how a clip is cut out of a video.
        config: how shards are made.
        teacher: makes the targets; None for a data set of clips only.
        split: such as "train"; the shards' names begin with it.
        limit: build only that many items, a random sample that depends on `config.seed`.
        progress: called with (items done, of which failed) since its last call.

    Raises:
        ValueError: view, layout and teacher do not fit together, or there is nothing to build.
        ShardError: `out` holds another plan, another build is running, or more items failed than allowed.
    """
    plan = make_plan(source, view, config, split=split, teacher=teacher, limit=limit)
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        start = time.perf_counter()
        _check_folder(out)
        publish_plan(plan, out)
        remove_temporaries(out)
        for name, data in (teacher.files if teacher is not None else {}).items():
            publish_bytes(out / name, data)
        (out / WORK_FOLDER).mkdir(exist_ok=True)
        reports, num_resumed = _build_shards(plan, out, teacher, progress)
        manifest = finalize(plan, out, reports, source.label_names)
        seconds = time.perf_counter() - start
    num_failed = sum(manifest.failures.values())
    return BuildSummary(
        num_planned=len(plan.items),
        num_samples=manifest.num_samples,
        num_failed=num_failed,
        num_resumed=num_resumed,
        num_shards=len(manifest.shards),
        num_bytes=manifest.num_bytes,
        failures=dict(manifest.failures),
        seconds=seconds,
        clips_per_second=(len(plan.items) - num_resumed) / seconds,
        stages=sum((report.seconds for report in reports), StageSeconds()),
        digest=manifest.digest,
    )


def finalize(plan: Plan, out: Path, reports: Sequence[ShardReport], label_names: tuple[str, ...]) -> Manifest:
    """Publish failures.jsonl and the manifest, and clear the working files.

    Args:
        plan: the plan.
        out: the data set's folder.
        reports: of all shards, in order.
        label_names: name of each class, by number.

    Raises:
        ShardError: no item could be built.
    """
    failures = [failure for report in reports for failure in report.failures]
    counts: dict[str, int] = dict(sorted(Counter(failure.reason for failure in failures).items()))
    publish_bytes(out / FAILURES_NAME, encode_failures(failures))
    num_samples = sum(report.num_samples for report in reports)
    if num_samples + len(failures) != len(plan.items):
        raise ShardError(f"{num_samples} samples and {len(failures)} failures do not add up to {len(plan.items)} items")
    if num_samples == 0:
        raise ShardError(
            f"none of the {len(plan.items)} items could be built: {_spell(counts)}; see {FAILURES_NAME} there"
        )
    manifest = Manifest(
        split=plan.split,
        schema=plan.schema,
        shards=tuple(report.info for report in reports),
        label_names=label_names,
        provenance={name: plan.fingerprint[name] for name in ("source", "view", "decoder", "teacher", "seed")},
        failures=counts,
    )
    manifest.write(out)
    shutil.rmtree(out / WORK_FOLDER)
    return manifest


def _build_shards(
    plan: Plan, out: Path, teacher: Teacher | None, progress: Progress | None
) -> tuple[list[ShardReport], int]:
    """Return the reports of all shards in order, and how many items earlier runs had finished."""
    reports = finished_shards(plan, out)
    num_resumed = sum(len(plan.shard_items(shard)) for shard in reports)
    num_failed = sum(len(report.failures) for report in reports.values())
    if progress is not None and num_resumed:
        progress(num_resumed, num_failed)
    missing = [shard for shard in range(plan.num_shards) if shard not in reports]
    worker = ShardWorker(plan, out, teacher, plan.config.num_workers, progress)
    with closing(worker.build_all(missing)) as built:
        for report in built:
            reports[report.shard] = report
            num_failed += len(report.failures)
            _check_failures(plan, num_failed, reports.values())
    return [reports[shard] for shard in range(plan.num_shards)], num_resumed


def _check_failures(plan: Plan, num_failed: int, reports: Iterable[ShardReport]) -> None:
    allowed = plan.config.allowed_failures(len(plan.items))
    if num_failed > allowed:
        counts = Counter(failure.reason for report in reports for failure in report.failures)
        raise ShardError(
            f"stopped: {num_failed} of {len(plan.items)} items have failed, {allowed} may: {_spell(counts)}. Finished "
            "shards are kept: mend the videos or raise build.max_failures, and run the same build again"
        )


def _spell(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))


def _check_folder(out: Path) -> None:
    if not (out / PLAN_NAME).exists() and (any(out.glob("*.tar")) or (out / MANIFEST_NAME).exists()):
        raise ShardError(f"{out} holds shards but no {PLAN_NAME}: it is not a build; choose an empty folder")


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second build out of the folder. The kernel drops the lock with its process, so none is ever stale.

    Raises:
        ShardError: another process is building here.
    """
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(f"another process is building into {out}; wait for it or stop it") from None
        yield
    finally:
        os.close(folder)

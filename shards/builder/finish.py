"""From a plan to finished shards, whatever happens to workers, disks and users on the way; then the manifest."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from shards.builder.engines.base import Engine
from shards.builder.failure import FailureRecord
from shards.builder.journal import (
    WORK_FOLDER,
    ShardReport,
    clear_work,
    count_failures,
    encode_failures,
    finished_shards,
    stored_bytes,
)
from shards.builder.plan import Plan
from shards.builder.readiness import has_lengths, sample_bytes
from shards.builder.retry import shards_to_retry
from shards.format.beside import FAILURES_NAME, FROM_PLAN, provenance_of
from shards.format.errors import ManifestError, MissingDataError, ShardError
from shards.format.index import index_path, load_index
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.publish import publish_bytes, remove_temporaries
from shards.groups import how_to_drop, kept_groups, names_of_groups, with_groups
from shards.progress import Progress
from shards.words import spell_bytes, spell_counts

MAX_ROUNDS = 4  # a shard whose workers die so often kills them


def finish_shards(
    plan: Plan, out: Path, engine: Engine, shards: Sequence[int], *, retry_failures: bool, progress: Progress
) -> tuple[list[ShardReport], int]:
    """Build those of `shards` that earlier runs have not finished.

    Returns:
        The reports of all `shards` in order, and how many items earlier runs had finished.

    Raises:
        ShardError: more items failed than may, the disk is full, or workers die again and again.
        KeyboardInterrupt: as it came, with what remains in its message.
    """
    reports = finished_shards(plan, out, shards)
    if retry_failures:
        changed = shards_to_retry(plan, reports.values())
        _refuse_to_strand_groups(plan, out, len(changed))
        for shard in changed:
            del reports[shard]
    num_resumed = sum(len(plan.shard_items(shard)) for shard in reports)
    if num_resumed:
        progress(num_resumed, sum(len(report.failures) for report in reports.values()))
    _withdraw(plan, out, [shard for shard in shards if shard not in reports])
    try:
        _run_rounds(plan, out, engine, shards, reports=reports, progress=progress)
    except KeyboardInterrupt as stop:
        raise type(stop)(f"stopped: {_remaining(plan, out, shards)}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ShardError(f"{out}: no room is left on the disk: {_remaining(plan, out, shards)}") from error
    return [reports[shard] for shard in shards], num_resumed


def _withdraw(plan: Plan, out: Path, shards: Sequence[int]) -> None:
    """Take the marks away from what is going to change: no manifest and no sidecar may describe other bytes.

    The manifest is put aside, as it knows of field groups that were added to the data set. It does not know of a group
    that is being built.
    """
    if shards and not plan.group:
        with contextlib.suppress(FileNotFoundError):
            (out / MANIFEST_NAME).replace(out / WORK_FOLDER / MANIFEST_NAME)
    for shard in shards:
        index_path(out / plan.shard_name(shard)).unlink(missing_ok=True)


def _earlier_manifest(out: Path) -> Manifest | None:
    """The manifest that an earlier build left, also where a later one has put it aside; None if it is not readable."""
    for folder in (out, out / WORK_FOLDER):
        with contextlib.suppress(MissingDataError, ManifestError):
            return Manifest.read(folder)
    return None


def _with_kept_groups(manifest: Manifest, out: Path) -> Manifest:
    earlier = _earlier_manifest(out)
    if not names_of_groups(out, [info.name for info in manifest.shards], earlier):
        return manifest
    added = {} if earlier is None else {k: v for k, v in earlier.provenance.items() if k not in FROM_PLAN}
    main = [load_index(index_path(out / info.name)) for info in manifest.shards]
    manifest = replace(manifest, provenance={**added, **manifest.provenance})
    return with_groups(manifest, kept_groups(out, main, earlier, stored_bytes))


def _refuse_to_strand_groups(plan: Plan, out: Path, num_changed: int) -> None:
    """Refuse to change samples that a field group was made for.

    Raises:
        ShardError: there is a group, and shards would change.
    """
    names = [] if plan.group else [plan.shard_name(shard) for shard in range(plan.num_shards)]
    if num_changed and names and (groups := names_of_groups(out, names, _earlier_manifest(out))):
        raise ShardError(
            f"{num_changed} shards of {out} would get other samples, and the field group {groups[0]!r} was made for "
            f"those they have: run without --retry-failures; or, {how_to_drop(out, groups[0])}"
        )


def _run_rounds(
    plan: Plan, out: Path, engine: Engine, shards: Sequence[int], *, reports: dict[int, ShardReport], progress: Progress
) -> None:
    """Hand the engine what is missing, again where workers were lost; `reports` grows as shards are finished."""
    num_failed = sum(len(report.failures) for report in reports.values())
    for _ in range(MAX_ROUNDS):
        missing = [shard for shard in shards if shard not in reports]
        if not missing:
            return
        with closing(engine.run(plan, out, missing, progress)) as built:
            for report in built:
                reports[report.shard] = report
                num_failed += len(report.failures)
                _check_failures(plan, num_failed, reports.values())
    if missing := [shard for shard in shards if shard not in reports]:
        raise ShardError(
            f"the workers that were to build {len(missing)} shards died {MAX_ROUNDS} times, the first is "
            f"{plan.shard_name(missing[0])}; finished shards are kept. If memory ran out, "
            "try fewer build.workers"
        )


def _check_failures(plan: Plan, num_failed: int, reports: Iterable[ShardReport]) -> None:
    allowed = plan.config.allowed_failures(len(plan.items))
    if num_failed > allowed:
        raise ShardError(
            f"stopped: {num_failed} of {len(plan.items)} items have failed, {allowed} may: "
            f"{spell_counts(count_failures(reports))}. Finished shards are kept: mend the videos and run the same "
            "build again with --retry-failures, or raise build.max_failures"
        )


def _remaining(plan: Plan, out: Path, shards: Sequence[int]) -> str:
    left = [shard for shard in shards if not index_path(out / plan.shard_name(shard)).exists()]
    done = f"{len(shards) - len(left)} of {len(shards)} shards are finished and kept, {len(left)} remain"
    return f"{done}{_spell_room(plan, out, shards, left)}. Run the same command again to go on"


def _spell_room(plan: Plan, out: Path, shards: Sequence[int], left: Sequence[int]) -> str:
    """How much is still to come, in brackets; by the shards that are finished where samples differ in size."""
    num_left = sum(len(plan.shard_items(shard)) for shard in left)
    if not has_lengths(plan.schema):
        return f" (up to {spell_bytes(num_left * plan.samples_per_item * sample_bytes(plan.schema))})"
    finished = [shard for shard in shards if shard not in set(left)]
    num_items = sum(len(plan.shard_items(shard)) for shard in finished)
    num_bytes = sum(load_index(index_path(out / plan.shard_name(shard))).info.num_bytes for shard in finished)
    return f" (about {spell_bytes(num_left * num_bytes // num_items)})" if num_items else ""


def publish_all_failures(plan: Plan, out: Path, reports: Sequence[ShardReport]) -> list[FailureRecord]:
    """Write the failures of all shards into one file beside them, and return them."""
    failures = [failure for report in reports for failure in report.failures]
    publish_bytes(out / plan.failures_name, encode_failures(failures))
    return failures


def finalize(plan: Plan, out: Path, reports: Sequence[ShardReport], label_names: tuple[str, ...]) -> Manifest:
    """Publish failures.jsonl and the manifest, and clear the working files.

    Args:
        plan: of a main series.
        out: the data set's folder.
        reports: of all shards, in order.
        label_names: name of each class, by number.

    Returns:
        The manifest, with the field groups that were added to the data set since it was first built.

    Raises:
        ShardError: no item could be built, or a field group does not fit the samples any more.
    """
    failures, counts = publish_all_failures(plan, out, reports), count_failures(reports)
    num_samples = sum(report.num_samples for report in reports)
    if num_samples != (len(plan.items) - len(failures)) * plan.samples_per_item:
        raise ShardError(f"{num_samples} samples and {len(failures)} failures do not add up to {len(plan.items)} items")
    if num_samples == 0:
        raise ShardError(
            f"none of the {len(plan.items)} items could be built: {spell_counts(counts)}; see {FAILURES_NAME} there"
        )
    manifest = Manifest(
        split=plan.split,
        schema=plan.schema,
        shards=tuple(report.info for report in reports),
        label_names=label_names,
        provenance=provenance_of(plan.fingerprint),
        failures=counts,
    )
    manifest = _with_kept_groups(manifest, out)
    remove_temporaries(out)  # of workers that died on the way
    manifest.write(out)
    clear_work(out, manifest)
    return manifest

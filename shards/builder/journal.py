"""What became of a shard: written beside the shards while a build runs, and why a finished shard can be skipped."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.builder.failure import BuildFailure, FailureRecord
from shards.builder.plan import Plan
from shards.builder.prepare import failure_record
from shards.builder.samples.base import sample_keys
from shards.codecs import Fidelity
from shards.format.beside import read_failures
from shards.format.errors import ShardError
from shards.format.files import read_small
from shards.format.index import ShardInfo, index_path, load_index
from shards.format.manifest import Manifest
from shards.format.parse import count, parse_json
from shards.format.publish import canonical_json, publish_bytes

WORK_FOLDER = ".build"  # beside the shards; gone once the manifest is there


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Where the time of a build went, in seconds of one thread.

    Attributes:
        decode: all decode threads together.
        decode_wait: the driving thread waiting for decoded clips.
        teacher: the driving thread in the teacher.
        write: the writer thread, syncing to disk included.
        write_wait: the driving thread waiting for the writer.
    """

    decode: float = 0.0
    decode_wait: float = 0.0
    teacher: float = 0.0
    write: float = 0.0
    write_wait: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        return StageSeconds(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """One finished shard: its samples and failed items are all that was planned, of a group the samples alone."""

    shard: int
    info: ShardInfo
    failures: tuple[FailureRecord, ...]
    seconds: StageSeconds = StageSeconds()
    fidelity: Mapping[str, Fidelity] = field(default_factory=dict)  # of what codecs have stored, where this run did

    @property
    def num_samples(self) -> int:
        """Samples in the shard."""
        return self.info.num_samples


def count_failures(reports: Iterable[ShardReport]) -> dict[str, int]:
    """Return the number of failed items by reason, in alphabetical order."""
    return dict(sorted(Counter(failure.reason for report in reports for failure in report.failures).items()))


def clear_work(out: Path, manifest: Manifest) -> None:
    """Remove the working files, but those of field groups that are begun and not in the manifest yet."""
    begun = {path.name.removeprefix("plan.").removesuffix(".json") for path in out.glob("plan.*.json")}
    kept = tuple(f"{manifest.split}.{group}-" for group in begun - set(manifest.groups))
    for path in (out / WORK_FOLDER).iterdir():
        if not path.name.startswith(kept):
            path.unlink()
    with contextlib.suppress(OSError):  # not empty
        (out / WORK_FOLDER).rmdir()


def publish_failures(plan: Plan, out: Path, shard: int, failures: Sequence[FailureRecord]) -> None:
    """Write down the failures of a shard. Done before the shard's sidecar appears, so no finished shard is without."""
    publish_bytes(_failures_path(plan, out, shard), encode_failures(failures))


def encode_failures(failures: Sequence[FailureRecord]) -> bytes:
    """Return the failures as JSON lines."""
    return b"".join(canonical_json(failure.to_json()) + b"\n" for failure in failures)


def finished_shards(plan: Plan, out: Path, shards: Iterable[int] | None = None) -> dict[int, ShardReport]:
    """Return the reports of those of `shards` (None: all) that earlier runs finished; the others have to be built.

    The sidecar marks a shard as done; it counts only when tar, keys and failures account for every planned item.
    """
    published: dict[int, list[FailureRecord]] = {}
    if (path := out / plan.failures_name).exists():
        published = {shard: [] for shard in range(plan.num_shards)}
        try:
            for failure in _decode_failures(path):
                published.setdefault(failure.shard, []).append(failure)
        except ShardError as error:
            raise ShardError(f"{error}. Restore it, or delete it: all shards are then built again") from None
    reports = {}
    for shard in range(plan.num_shards) if shards is None else shards:
        failures = _failures_of(_failures_path(plan, out, shard), published.get(shard))
        if failures is not None and (report := _check_shard(plan, out, shard, failures)):
            reports[shard] = report
    return reports


def _failures_of(path: Path, published: list[FailureRecord] | None) -> list[FailureRecord] | None:
    """The failures of one shard from its own file, if there is one; None if they are not known."""
    if not path.exists():
        return published
    try:
        return _decode_failures(path)
    except ShardError:
        return None


def _decode_failures(path: Path) -> list[FailureRecord]:
    return [FailureRecord.from_json(record) for record in read_failures(path)]


def _check_shard(plan: Plan, out: Path, shard: int, failures: Sequence[FailureRecord]) -> ShardReport | None:
    tar = out / plan.shard_name(shard)
    try:
        index = load_index(index_path(tar))
        tar_bytes = stored_bytes(tar)
    except (ShardError, OSError):
        return None
    if list(index.keys) != _expected_keys(plan, shard, failures):
        return None
    if index.schema != plan.schema or tar_bytes != index.info.num_bytes:
        return None
    return ShardReport(shard=shard, info=index.info, failures=tuple(failures))


def known_failures(plan: Plan, shard: int) -> set[FailureRecord]:
    """Return the failures of a shard that the plan knows of, before anything is decoded."""
    problems = ((item, item.problem) for item in plan.shard_items(shard))
    return {failure_record(item, shard, BuildFailure(*problem)) for item, problem in problems if problem is not None}


def _expected_keys(plan: Plan, shard: int, failures: Sequence[FailureRecord]) -> list[str] | None:
    """The keys of a shard with these failures; None if they do not account for every planned item."""
    items = plan.shard_items(shard)
    if plan.group:
        return [item.key for item in items]
    failed = {failure.key for failure in set(failures) - known_failures(plan, shard)}
    expected = [item for item in items if item.problem is None and item.key not in failed]
    if len(expected) + len(failures) != len(items):
        return None
    return [key for item in expected for key in sample_keys(plan.kind, item)]


def uploaded_path(tar: Path) -> Path:
    """Return the file that stands for a tar which was moved to object storage; it holds the tar's size as JSON."""
    return tar.parent / WORK_FOLDER / f"{tar.name}.uploaded"


def stored_bytes(tar: Path) -> int:
    """Return the size of a tar, here or in object storage.

    Raises:
        FileNotFoundError: it is in neither.
        ShardError: what stands for it cannot be read.
    """
    uploaded = uploaded_path(tar)
    if not uploaded.exists():
        return tar.stat().st_size
    try:
        return count(parse_json(read_small(uploaded)), "the size of a tar")
    except ValueError as error:
        raise ShardError(f"{uploaded} is damaged: {error}") from None


def _failures_path(plan: Plan, out: Path, shard: int) -> Path:
    return out / WORK_FOLDER / f"{plan.shard_name(shard)}.failures.jsonl"

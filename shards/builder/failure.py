"""Why an item could not be built: one reason from a fixed list, one line of explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from shards.format.errors import ShardError

if TYPE_CHECKING:
    from shards.builder.decode.stream_facts import SourceFile

Reason = Literal[
    "missing_file",
    "empty_file",
    "open_error",
    "bad_dimensions",
    "decode_error",
    "not_exact",
    "truncated",
    "too_few_frames",
    "duplicate_id",
    "unknown_template",
    "bad_annotation",
    "answer_cut",
    "teacher_error",
    "timeout",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class BuildFailure(Exception):  # noqa: N818  (an outcome that is recorded, not an error that stops the run)
    """One item cannot become a sample; `reason` is one of REASONS and `message` one clear line.

    `source` is the file that was at hand, where one was.
    """

    def __init__(self, reason: Reason, message: str, source: SourceFile | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason: Reason = reason
        self.message = message
        self.source = source

    def __reduce__(self) -> tuple[type[BuildFailure], tuple[Reason, str, SourceFile | None]]:
        return type(self), (self.reason, self.message, self.source)


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """One line of failures.jsonl. The same input gives the same line, so it holds no time and no absolute path."""

    id: str
    key: str
    path: str
    shard: int
    reason: Reason
    message: str
    source_bytes: int | None = None
    source_xxh3_128: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FailureRecord:
        """Return the record that `to_json` gave; `record` is what `shards.format.beside.read_failures` let through.

        Raises:
            ShardError: the reason is not known.
        """
        if record["reason"] not in REASONS:
            raise ShardError(f"a failure has the reason {record['reason']!r}, which this version does not know")
        return cls(**record)

"""What a check found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from shards.format.errors import ShardError

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of a check, and one line about it."""

    name: str
    status: Status
    detail: str


def check(name: str, look: Callable[[], tuple[Status, str]]) -> Finding:
    """Run a check; an error that a run would end with is a failure."""
    try:
        return Finding(name, *look())
    except (ShardError, ValueError, OSError, RuntimeError, ImportError) as error:
        return Finding(name, "fail", " ".join(str(error).split()) or type(error).__name__)

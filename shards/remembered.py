"""What lies beside the shards of a data set whose manifest was lost, and says what stood in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.exchange.origin import Origin
from shards.format.beside import (
    FAILURES_NAME,
    ORIGIN_NAME,
    PLAN_NAME,
    planned_schema,
    planned_shards,
    provenance_of,
    read_failures,
    read_plan,
)
from shards.format.errors import MissingDataError, ShardError
from shards.format.schema import Schema

BESIDE = (PLAN_NAME, FAILURES_NAME, ORIGIN_NAME)  # files that are read


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a manifest said.

    Attributes:
        split: the split's name; None where nothing is known.
        schema: fields of each tar series.
        label_names: name of each class.
        provenance: of the main series, and of others under `groups`.
        failures: number of samples that could not be built, by reason.
    """

    split: str | None = None
    schema: Schema | None = None
    label_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)

    def fields(self, group: str) -> Schema | None:
        """The fields of one tar series, where they are known."""
        known = self.schema is not None and group in self.schema.groups
        return self.schema.of_group(group) if self.schema is not None and known else None

    def about(self, group: str) -> dict[str, Any]:
        """What is known of a further series; nothing is an empty mapping."""
        groups = self.provenance.get("groups")
        found = groups.get(group) if isinstance(groups, dict) else None
        return found if isinstance(found, dict) else {}


def remember(directory: Path, num_shards: int) -> Remembered:
    """Read what a build, or a command that made one data set of others, has left; nothing for tars made elsewhere.

    Raises:
        ShardError: that is damaged, or its work was not finished.
    """
    for read in (_of_plan, _of_origin):
        try:
            return read(directory, num_shards)
        except MissingDataError:
            continue
    return Remembered()


def _of_plan(directory: Path, num_shards: int) -> Remembered:
    plan = read_plan(directory / PLAN_NAME)
    if planned_shards(plan) != num_shards:
        raise ShardError(
            f"{directory} holds {num_shards} of the {planned_shards(plan)} shards of its {PLAN_NAME}: run the same "
            f"`reelshard build` again to finish it, or delete {PLAN_NAME} to index what is there"
        )
    failures = read_failures(directory / FAILURES_NAME) if (directory / FAILURES_NAME).exists() else []
    return Remembered(
        split=plan["split"],
        schema=planned_schema(plan),
        provenance=provenance_of(plan),
        failures=dict(sorted(Counter(failure["reason"] for failure in failures).items())),
    )


def _of_origin(directory: Path, num_shards: int) -> Remembered:
    origin = Origin.read(directory)
    if len(origin.samples) != num_shards:
        raise ShardError(
            f"{directory} holds {num_shards} of the {len(origin.samples)} shards of its {ORIGIN_NAME}: run the same "
            f"command again to finish it, or delete {ORIGIN_NAME} to index what is there"
        )
    return Remembered(
        split=origin.split,
        schema=origin.schema,
        label_names=origin.label_names,
        provenance=origin.provenance,
        failures=origin.failures,
    )

"""The cells of a table as further fields of the samples of a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.builder.config import TeacherFacts
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, Rows
from shards.dataset import ShardDataset
from shards.exchange.names import match_samples, refuse_unmatched, some
from shards.exchange.table import REAL, Cell, Column, Table
from shards.format.errors import MissingDataError
from shards.format.schema import Field, Schema
from shards.writer import Value


@dataclass(frozen=True, kw_only=True)
class TableKind:
    """Values that stand in the items themselves, under the names of the fields.

    Attributes:
        columns: the fields to be.
        group: the field group.
        table: name of the file.
        sha256: of the file.
        missing: as it was given; None where every cell has to be there.
        num_filled: cells that it stands for.
    """

    columns: tuple[Column, ...]
    group: str
    table: str
    sha256: str
    missing: str | None
    num_filled: int

    @property
    def name(self) -> str:
        """What it is called in plans."""
        return "table"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return a field for each column: a single number, or text as bytes."""
        return Schema(
            tuple(
                Field(
                    name=column.name, dtype=column.dtype, shape=None if column.dtype is None else (), group=self.group
                )
                for column in self.columns
            )
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """Return which table it is; its values are in the items."""
        about = {"table": self.table, "sha256": self.sha256, "missing": self.missing, "num_filled": self.num_filled}
        return {"sample": {"kind": self.name, **about}}

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Take the item's values."""
        return Prepared(facts=item.extra)

    def teacher_rows(self, prepared: Prepared) -> Rows | None:
        """Nothing: no teacher is asked."""
        return None

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return numbers as arrays without axes, and text as UTF-8."""
        return {column.name: self._value(column, prepared.facts.get(column.name)) for column in self.columns}

    def substitute(self, item: Item) -> None:
        """Nothing: no item of a table can fail."""

    def _value(self, column: Column, cell: Cell | None) -> Value:
        if cell is None:
            assert self.missing is not None
            cell = parse_missing(column, self.missing)
        return str(cell).encode() if column.dtype is None else np.array(cell, column.dtype)


def parse_missing(column: Column, text: str) -> Cell:
    """What `--missing` stands for in a column; in one of real numbers it may be `nan`.

    Raises:
        ValueError: it is none of the column's values.
    """
    if column.dtype == REAL and text.lower() == "nan":
        return math.nan
    try:
        return column.parse(text)
    except ValueError as error:
        raise ValueError(f"--missing for the column {column.name!r}: {error}") from None


def join_table(
    dataset: ShardDataset, table: Table, group: str, missing: str | None
) -> tuple[TableKind, list[list[Item]], list[str]]:
    """Give each sample of a data set its row.

    Args:
        dataset: the samples; see `shards.exchange.names` for how they are matched.
        table: the rows.
        group: the field group to be.
        missing: what stands for a cell of numbers that is empty, and for all cells of a sample without a row.

    Returns:
        The kind of sample, an item for each sample, shard by shard, and the rows that no sample has.

    Raises:
        MissingDataError: samples have no row, or a cell is empty, and `missing` is None.
        ValueError: `missing` is no value of a column.
    """
    for column in table.columns:
        if missing is not None:
            parse_missing(column, missing)
    matched = match_samples(dataset, table.rows)
    cure = "; give the table a row for each, or --missing VALUE to fill what is not there"
    if missing is None or not any(matched):
        refuse_unmatched(table.name, "no row", dataset, matched, cure)
    names = [column.name for column in table.columns]
    cells = [{} if name is None else table.rows[name] for name in matched]
    empty = {name: [n for n, row in enumerate(cells) if name not in row] for name in names}
    if missing is None:
        for name, numbers in empty.items():
            if numbers:
                keys = some([dataset.key(number) for number in numbers], "sample")
                raise MissingDataError(f"{table.name}: the column {name!r} has no value for {keys}{cure}")
    kind = TableKind(
        columns=table.columns,
        group=group,
        table=table.name,
        sha256=table.sha256,
        missing=missing,
        num_filled=sum(map(len, empty.values())),
    )
    rows = iter(cells)
    shards = [
        [Item(id=key, path="", exact_key=key, extra=dict(next(rows))) for key in dataset.index(shard).keys]
        for shard in range(dataset.num_shards)
    ]
    used = set(matched)
    return kind, shards, [name for name in table.rows if name not in used]

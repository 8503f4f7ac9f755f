"""A table of further values for the samples of a data set: a CSV or TSV file with a header.

One column names the samples: `key`, or else `video_id`, or else `id`. Each other column becomes a field under its own
name: whole numbers to i64, other numbers to f32, anything else to UTF-8 text. An empty cell of a column of numbers says
nothing, like a sample without a row; an empty cell of a column of text is empty text.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.exchange.names import NAMES
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.parse import spell
from shards.format.schema import Field

WHOLE, REAL = "<i8", "<f4"
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")  # 007 is a name, not a number
_REAL = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_SHAPE = "a table has a header line with a column 'key', 'video_id' or 'id', and a column for each field"

Cell = int | float | str
Line = tuple[int, list[str]]  # where it ends in the file, and its cells


@dataclass(frozen=True)
class Column:
    """One field to be: its name, and the dtype of its numbers (None for text)."""

    name: str
    dtype: str | None

    def parse(self, text: str) -> Cell:
        """The value of a cell that is not empty.

        Raises:
            ValueError: it is no such value.
        """
        if self.dtype is None:
            return text
        if self.dtype == WHOLE:
            if not _WHOLE.fullmatch(text) or not -(2**63) <= (whole := _int(text)) < 2**63:
                raise ValueError(f"{spell(text)} is no whole number of 64 bits")
            return whole
        if not _REAL.fullmatch(text) or not math.isfinite(real := _float32(text)):
            raise ValueError(f"{spell(text)} is no finite number of 32 bits")
        return real


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
        name: of its file.
        sha256: of its bytes.
        columns: the fields to be, in order.
        rows: what the table says of a sample, by the name that it has there; an empty cell of numbers is not in it.
    """

    name: str
    sha256: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Cell]]


def read_table(path: Path) -> Table:
    """Read a table whole, and settle what its columns are.

    Raises:
        MissingDataError: it is not there.
        ShardError: it is not a table as described above; the line and the column are named.
    """
    try:
        data = read_small(path)
    except FileNotFoundError:
        raise MissingDataError(f"there is no table at {path}; {_SHAPE}") from None
    try:
        lines = list(_lines(data, "\t" if path.suffix.lower() == ".tsv" else ","))
        if not lines:
            raise ValueError(f"it is empty; {_SHAPE}")
        (_, header), *body = lines
        place = _place_of_names(header)
        if not body:
            raise ValueError("it has a header and no rows")
        names = _names(body, place)
        columns = {number: _column(body, number, name) for number, name in enumerate(header) if number != place}
        rows = {
            name: {
                column.name: column.parse(cells[number])
                for number, column in columns.items()
                if cells[number] or column.dtype is None
            }
            for name, (_, cells) in zip(names, body, strict=True)
        }
    except ValueError as error:
        raise ShardError(f"{path}: {error}") from None
    return Table(path.name, hashlib.sha256(data).hexdigest(), tuple(columns.values()), rows)


def _lines(data: bytes, delimiter: str) -> Iterator[Line]:
    """The lines of a table, blank ones left out, each with as many cells as the header."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save the table as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} is not CSV: {error}") from None
        if cells is None:
            return
        if not cells:
            continue
        width = len(cells) if width is None else width
        if len(cells) != width:
            raise ValueError(f"line {reader.line_num} has {len(cells)} cells, the header has {width}")
        yield reader.line_num, cells


def _place_of_names(header: Sequence[str]) -> int:
    """Which column names the samples; every other one has to be a field's name."""
    if len(set(header)) < len(header):
        raise ValueError(f"two columns have the name {spell(next(n for n in header if header.count(n) > 1))}")
    known = [name for name in NAMES if name in header]
    if not known:
        raise ValueError(f"its columns are {', '.join(map(spell, header))}; {_SHAPE}")
    if len(header) == 1:
        raise ValueError(f"it has the column {known[0]!r} alone; {_SHAPE}")
    for name in header:
        if name != known[0]:
            Field(name=name)
    return header.index(known[0])


def _names(body: Sequence[Line], place: int) -> list[str]:
    seen: dict[str, int] = {}
    for line, cells in body:
        name = cells[place]
        if not name:
            raise ValueError(f"line {line} names no sample")
        if name in seen:
            raise ValueError(f"line {line} names the sample {spell(name)}, as line {seen[name]} does")
        seen[name] = line
    return list(seen)


def _column(body: Sequence[Line], number: int, name: str) -> Column:
    """Settle what a column holds, by all of its cells that are not empty."""
    cells = [(line, cells[number]) for line, cells in body if cells[number]]
    if not cells or not all(_REAL.fullmatch(text) or _NO_NUMBER.fullmatch(text) for _, text in cells):
        return Column(name, None)
    whole = all(_WHOLE.fullmatch(text) or _NO_NUMBER.fullmatch(text) for _, text in cells)
    dtype = WHOLE if whole else REAL
    column = Column(name, dtype)
    for line, text in cells:
        try:
            column.parse(text)
        except ValueError as error:
            raise ValueError(
                f"line {line}, column {name!r}: {error}, as the others there are; leave the cell empty where there is "
                "no value"
            ) from None
    return column


def _int(text: str) -> int:
    return int(text) if len(text) < 30 else 1 << 64  # Python refuses to read thousands of digits


def _float32(text: str) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(text))

"""The metrics as CSV, for spreadsheets: a line a row, a column a number, empty where a row does not have it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.format.publish import publish_bytes


class MetricsTable:
    """A CSV file that grows with its rows, and is written anew when a row brings a number that no other had."""

    def __init__(self, path: Path, rows: Sequence[Mapping[str, float]]) -> None:
        """Write `rows` to `path`, in the place of what is there."""
        self.path = path
        self._columns: list[str] = []
        self._publish(rows)

    def write(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take in the last of `rows`, all that there are; it is in the file when this returns."""
        if set(rows[-1]) <= set(self._columns):
            self._file.write(self._encode(rows[-1:]))
            self._file.flush()
        else:
            self._file.close()
            self._publish(rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _publish(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Columns come in the order in which they are met."""
        self._columns = list(dict.fromkeys([*self._columns, *(name for row in rows for name in row)]))
        header = ",".join(self._columns).encode() + b"\n" if rows else b""
        publish_bytes(self.path, header + self._encode(rows))
        self._file = self.path.open("ab")

    def _encode(self, rows: Sequence[Mapping[str, float]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()

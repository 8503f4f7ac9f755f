"""What a run says about itself: one row per interval, to a JSONL file and as a line of text."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from shards.publish import publish_bytes

Row = dict[str, float]


class MetricsFile:
    """A JSONL file of rows in the order of their `step`, that a resumed run continues without repeating any."""

    def __init__(self, path: Path, *, after_step: int = 0) -> None:
        """Open `path` to append; rows later than `after_step`, left by a run that went further, are dropped."""
        kept = [row for row in read_metrics(path) if row["step"] <= after_step] if path.exists() else []
        publish_bytes(path, b"".join(_encode(row) for row in kept))
        self._file = path.open("ab")

    def write(self, row: Row) -> None:
        """Append a row; it is in the file when this returns."""
        self._file.write(_encode(row))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Window:
    """Sums of one interval between two rows, kept on the device so that no step waits for the GPU."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._sums: dict[str, Tensor] = {}
        self._num_clips = 0
        self._waited_seconds = 0.0
        self._started = time.perf_counter()

    def add(self, scores: dict[str, Tensor], *, num_clips: int, waited_seconds: float) -> None:
        """Take in one step: its scalars, the clips it trained on, and how long it waited for them."""
        self.num_steps += 1
        self._num_clips += num_clips
        self._waited_seconds += waited_seconds
        for name, value in scores.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def row(self) -> Row:
        """Means over the steps taken in, and the rates; waits for the device."""
        means = {name: total.item() / self.num_steps for name, total in self._sums.items()}
        seconds = max(time.perf_counter() - self._started, 1e-9)
        return {
            **means,
            "clips_per_second": self._num_clips / seconds,
            "data_wait_share": min(1.0, self._waited_seconds / seconds),
        }


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            rows.append(json.loads(line))
    return rows


def format_row(row: Row, num_steps: int) -> str:
    """A row as one line for the terminal."""
    shown = {"loss": ".4f", "lr": ".2e", "grad_norm": ".3f", "clips_per_second": ".1f", "data_wait_share": ".1%"}
    parts = [f"{name} {row[name]:{spec}}" for name, spec in shown.items() if name in row]
    return "  ".join([f"step {row['step']:>{len(str(num_steps))}.0f}/{num_steps}", *parts])


def _encode(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"

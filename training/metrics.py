"""What a run says about itself: one row per interval, to a JSONL file and as a line of text."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.batch.batch import Batch
from pipeline.contents import Contents
from pipeline.stats import LoaderStats
from pipeline.world import World
from shards.format.publish import publish_bytes
from shards.words import spell_seconds
from training.clock import STAGES, StepClock
from training.distributed import sum_over_ranks
from training.learner import StepResult
from training.scores import Sums, means_over_ranks
from training.table import MetricsTable

Row = dict[str, float]

# The numbers of a row that depend on the clock and the machine; all others are the same in every repetition of a run.
TIMINGS = (
    "clips_per_second",
    "data_wait_share",
    "read_seconds",
    "wait_seconds",
    *(f"{stage}_seconds" for stage in STAGES),
    "gpu_memory_gib",
    "mfu",
)


class MetricsFile:
    """A JSONL file of rows in the order of their `step`, that a resumed run continues without repeating any.

    Beside it lies the same as CSV. All ranks know the rows; only the one that `writes` touches the files.
    """

    def __init__(self, path: Path, *, after_step: int = 0, writes: bool = True) -> None:
        """Open `path` to append; rows later than `after_step`, left by a run that went further, are dropped."""
        self.rows = [row for row in read_metrics(path) if row["step"] <= after_step] if path.exists() else []
        self._file = None
        if writes:
            publish_bytes(path, b"".join(_encode(row) for row in self.rows))
            self._file = path.open("ab")
            self._table = MetricsTable(path.with_suffix(".csv"), self.rows)

    def write(self, row: Row) -> None:
        """Append a row; it is in the file when this returns."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(_encode(row))
            self._file.flush()
            self._table.write(self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._table.close()


class Interval:
    """Sums of one interval between two rows, kept on the device so that no step waits for the GPU."""

    def __init__(self, device: torch.device, reading: LoaderStats) -> None:
        """Start at zero; `reading` is what the loader has done until now."""
        self.device, self._reading = device, reading
        self.clock = StepClock(device)
        self.num_steps = 0
        self.seconds = 0.0
        self.forward_flops = 0.0  # of all ranks, where somebody counts them
        self._num_taken = torch.zeros((), device=device)
        self._num_samples = torch.zeros((), device=device, dtype=torch.int64)
        self._num_valid = torch.zeros((), device=device, dtype=torch.int64)
        self._totals: dict[str, Tensor] = {}
        self._further = Sums()
        self._contents = Contents()
        self._started = time.perf_counter()

    def take(self, batch: Batch) -> None:
        """Count what a batch holds, whatever becomes of its step."""
        self._contents.add(batch)

    def add(self, result: StepResult) -> None:
        """Take in one step; the scores of a skipped one do not count."""
        self.num_steps += 1
        self._num_taken += result.taken
        self._num_samples += result.num_samples
        self._num_valid += result.num_valid
        self._further.merge(result.sums, result.taken)
        for name, value in result.scores.items():
            counted = value.where(result.taken, 0)
            self._totals[name] = self._totals[name] + counted if name in self._totals else counted

    def row(self, reading: LoaderStats, world: World = World()) -> Row:  # noqa: B008
        """Means over the steps that were taken (none if all were skipped), counts and rates.

        Waits for the device, and for the ranks, all of which have to ask.

        Args:
            reading: what the loader has done until now. `read_seconds` is the time its threads spent on a batch, added
                up, and `wait_seconds` the time for which it had none ready; both on this rank.
            world: the ranks.
        """
        num_taken, num_samples = self._num_taken.item(), int(self._num_samples.item())
        row = means_over_ranks(self._further, world, self.device)
        row |= {name: total.item() / num_taken for name, total in self._totals.items() if num_taken}
        row |= self._contents.row(lambda sums: sum_over_ranks(sums, world))
        stages = self.clock.seconds()
        self.seconds = seconds = max(time.perf_counter() - self._started, 1e-9)
        row |= {
            "num_invalid": num_samples - int(self._num_valid.item()),
            "clips_per_second": num_samples / seconds,
            "data_wait_share": min(1.0, stages["data"] / seconds),
            "read_seconds": (reading.read_seconds - self._reading.read_seconds) / max(self.num_steps, 1),
            "wait_seconds": (reading.wait_seconds - self._reading.wait_seconds) / max(self.num_steps, 1),
            **{f"{stage}_seconds": stages[stage] / max(self.num_steps, 1) for stage in STAGES},
        }
        if self.device.type == "cuda":
            row["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return row


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            rows.append(json.loads(line))
    return rows


_SHOWN = {
    "loss": ".4f",
    "validation_loss": ".4f",
    "lr": ".2e",
    "grad_norm": ".3f",
    "clips_per_second": ".1f",
    "data_wait_share": ".1%",
    "read_seconds": ".4f",
    "gpu_memory_gib": ".1f",
    "mfu": ".1%",
}


def format_row(row: Mapping[str, float], num_steps: int, also: str = "") -> str:
    """A row as one line for the terminal, with the time that is left at the speed of its interval.

    Shown is what is of interest in every run, and the number `also`.
    """
    shown = _SHOWN if also in _SHOWN else {also: ".4f", **_SHOWN}
    parts = [f"{name} {row[name]:{spec}}" for name, spec in shown.items() if name in row]
    parts += [f"{name} {row[name]:.1%}" for name in row if name.startswith("padding_")]
    parts += [f"{name} {row[name]:.0f}" for name in ("num_skipped", "num_invalid") if row.get(name)]
    line = "  ".join([f"step {row['step']:>{len(str(num_steps))}.0f}/{num_steps}", *parts])
    return line if "seconds_left" not in row else f"{line}  left {spell_seconds(row['seconds_left'])}"


def _encode(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"

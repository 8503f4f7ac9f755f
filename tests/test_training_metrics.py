"""Metrics files and curves."""

import math
from pathlib import Path

import torch

from pipeline.stats import LoaderStats
from training.curves import draw_curves
from training.learner import StepResult
from training.metrics import Interval, MetricsFile, format_row, read_metrics
from training.scores import Sums


def test_a_metrics_file_gives_back_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write({"step": 1, "loss": 0.5})
        metrics.write({"step": 2, "loss": 0.25})
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_reopening_after_a_step_drops_later_rows_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"step":3}\n{"st')
    with MetricsFile(path, after_step=2) as metrics:
        metrics.write({"step": 3, "loss": 1.0})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n')
    with MetricsFile(path):
        pass
    assert read_metrics(path) == []


def reading(*, read_seconds: float = 0.0, wait_seconds: float = 0.0) -> LoaderStats:
    return LoaderStats(
        reader="mmap",
        num_batches=0,
        num_samples=0,
        num_bytes=0,
        num_padded=0,
        num_checked=0,
        num_quarantined=0,
        num_slabs=0,
        wait_seconds=wait_seconds,
        plan_seconds=0.0,
        consumer_seconds=0.0,
        read_seconds=read_seconds,
    )


def result(loss: float, *, finite: bool = True, num_valid: int = 4) -> StepResult:
    return StepResult(
        scores={"loss": torch.tensor(loss)},
        sums=Sums(),
        finite=torch.tensor(finite),
        taken=torch.tensor(finite),
        sample_losses=torch.full((4,), loss),
        num_samples=torch.tensor(4),
        num_valid=torch.tensor(num_valid),
    )


def test_a_window_averages_the_steps_that_were_taken() -> None:
    window = Interval(torch.device("cpu"), reading())
    for value in (1.0, 2.0, 6.0):
        window.add(result(value))
    window.add(result(math.nan, finite=False, num_valid=3))
    row = window.row(reading())
    assert row["loss"] == 3.0
    assert row["num_invalid"] == 1
    assert row["clips_per_second"] > 0
    assert row["data_wait_share"] == 0.0


def test_a_row_says_how_long_a_batch_of_its_interval_was_read_and_waited_for() -> None:
    window = Interval(torch.device("cpu"), reading(read_seconds=10.0, wait_seconds=1.0))
    for _ in range(4):
        window.add(result(1.0))
    row = window.row(reading(read_seconds=12.0, wait_seconds=1.5))
    assert (row["read_seconds"], row["wait_seconds"]) == (0.5, 0.125)
    assert "read_seconds 0.5000" in format_row({"step": 1, **row}, 4)


def test_a_window_of_skipped_steps_has_no_loss() -> None:
    window = Interval(torch.device("cpu"), reading())
    window.add(result(math.nan, finite=False))
    assert "loss" not in window.row(reading())


def test_the_stages_of_a_step_add_up() -> None:
    window = Interval(torch.device("cpu"), reading())
    for stage in ("forward", "backward", "forward"):
        with window.clock.stage(stage):
            torch.rand(100, 100).sum()
    seconds = window.clock.seconds()
    assert set(seconds) == {"data", "forward", "backward", "optimizer"}
    assert seconds["forward"] > 0 < seconds["backward"]
    assert seconds["data"] == seconds["optimizer"] == 0


def test_a_row_reads_as_one_line() -> None:
    row = {"step": 5, "loss": 0.51234, "lr": 1e-4, "grad_norm": 1.0, "clips_per_second": 12.34, "data_wait_share": 0.02}
    assert (
        format_row(row, 100)
        == "step   5/100  loss 0.5123  lr 1.00e-04  grad_norm 1.000  clips_per_second 12.3  data_wait_share 2.0%"
    )


def test_a_row_shows_what_the_best_checkpoint_goes_by() -> None:
    assert format_row({"step": 5, "loss": 0.5, "probe_top1": 0.25}, 9, "probe_top1").startswith(
        "step 5/9  probe_top1 0.25"
    )
    assert format_row({"step": 5, "loss": 0.5}, 9, "loss") == format_row({"step": 5, "loss": 0.5}, 9, "probe_top1")


def test_curves_of_a_run_with_one_row_can_be_drawn(tmp_path: Path) -> None:
    draw_curves([{"step": 1, "loss": 1.0, "lr": 1e-4}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_that_skipped_steps_says_so() -> None:
    assert format_row({"step": 5, "num_skipped": 2, "num_invalid": 0}, 10) == "step  5/10  num_skipped 2"

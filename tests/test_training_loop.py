"""The training loop: it learns, it resumes exactly, and it does not care how a batch is cut."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL, make_trainer
from training.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
from training.metrics import read_metrics
from training.optim import OptimConfig

TIMINGS = ("clips_per_second", "data_wait_share")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


def numbers(run_dir: Path) -> list[dict[str, float]]:
    """The metrics without those that the clock decides."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def weights(run_dir: Path) -> bytes:
    return (list_checkpoints(run_dir / "checkpoints")[-1] / "model.safetensors").read_bytes()


def test_overfitting_32_clips_lowers_the_loss_by_thirty_percent_within_200_iterations(tmp_path: Path) -> None:
    clips = make_dataset(tmp_path / "train", num_samples=32)
    trainer = make_trainer(
        clips,
        tmp_path / "run",
        batch_size=32,
        model=dataclasses.replace(MODEL, dim=64, predictor_dim=64),
        optim=OptimConfig(lr=1e-2, weight_decay=0.0),
        steps=200,
        checkpoint_every=200,
    )
    summary = trainer.run()
    assert summary.final_loss <= 0.7 * summary.first_loss


def test_a_run_leaves_metrics_curves_and_checkpoints(dataset: ShardDataset, tmp_path: Path) -> None:
    lines: list[str] = []
    summary = make_trainer(dataset, tmp_path, steps=7, keep_checkpoints=2, report=lines.append).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", *TIMINGS}
    assert len(lines) == 7
    assert lines[-1].startswith("step 7/7  loss ")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000006", "step-00000007"]
    assert summary.checkpoint.name == "step-00000007"
    assert (summary.steps, summary.final_loss) == (7, rows[-1]["loss"])


def test_a_row_holds_the_means_of_its_interval_and_a_checkpoint_ends_one(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path / "each").run()
    make_trainer(dataset, tmp_path / "some", log_every=2).run()
    losses = [row["loss"] for row in numbers(tmp_path / "each")]
    rows = numbers(tmp_path / "some")
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 8]
    assert rows[0]["loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert rows[1]["loss"] == pytest.approx(losses[2])
    assert rows[4]["loss"] == pytest.approx(sum(losses[6:8]) / 2)


@pytest.mark.parametrize("stop", [3, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    dataset: ShardDataset, tmp_path: Path, stop: int
) -> None:
    make_trainer(dataset, tmp_path / "whole", keep_checkpoints=9).run()
    resumed = make_trainer(dataset, tmp_path / "resumed")
    torch.rand(7)  # a generator that has moved on is put back
    resumed.resume(load_checkpoint(tmp_path / "whole" / "checkpoints" / f"step-{stop:08d}"))
    resumed.run()
    assert numbers(tmp_path / "resumed") == numbers(tmp_path / "whole")[stop:]
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


def test_resuming_in_place_drops_the_rows_after_the_checkpoint(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path, steps=8, keep_checkpoints=9).run()
    before = numbers(tmp_path)
    again = make_trainer(dataset, tmp_path, steps=8, keep_checkpoints=9)
    again.resume(load_checkpoint(tmp_path / "checkpoints" / "step-00000003"))
    again.run()
    assert numbers(tmp_path) == before


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_chunks_give_the_curve_of_the_whole_batch(dataset: ShardDataset, tmp_path: Path, chunk_size: int) -> None:
    make_trainer(dataset, tmp_path / "whole").run()
    make_trainer(dataset, tmp_path / "chunks", chunk_size=chunk_size).run()
    for whole, chunked in zip(numbers(tmp_path / "whole"), numbers(tmp_path / "chunks"), strict=True):
        assert chunked["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert chunked["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)


def test_a_torn_checkpoint_is_skipped_saying_so(
    dataset: ShardDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(dataset, tmp_path, keep_checkpoints=9).run()
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    torn = newest / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:-5])
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 6
    assert "step-00000008" in caplog.text
    with pytest.raises(ValueError, match="torn or damaged"):
        load_checkpoint(newest)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json", "rng.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_refused(dataset: ShardDataset, tmp_path: Path, name: str) -> None:
    path = make_trainer(dataset, tmp_path, steps=1).run().checkpoint
    (path / name).unlink()
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_format_is_refused(dataset: ShardDataset, tmp_path: Path) -> None:
    path = make_trainer(dataset, tmp_path, steps=1).run().checkpoint
    record = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(ValueError, match="format 99; this version reads 1"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_recipe_is_refused_with_the_keys_named(dataset: ShardDataset, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_trainer(dataset, tmp_path, steps=1).run().checkpoint)
    other = make_trainer(dataset, tmp_path, optim=OptimConfig(lr=5e-4))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.001 and is now 0\.0005"):
        other.resume(checkpoint)


def test_a_checkpoint_of_another_batch_size_is_refused(dataset: ShardDataset, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_trainer(dataset, tmp_path, steps=1).run().checkpoint)
    with pytest.raises(ValueError, match="global_batch_size is 8 in the state and 4 here"):
        make_trainer(dataset, tmp_path, batch_size=4).resume(checkpoint)


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(dataset: ShardDataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path, steps=3)
    with torch.no_grad():
        next(trainer.objective.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        trainer.run()
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_the_last_checkpoint_of_a_finished_run_resumes_to_nothing_left_to_do(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    first = make_trainer(dataset, tmp_path).run()
    again = make_trainer(dataset, tmp_path)
    again.resume(load_checkpoint(first.checkpoint))
    assert again.run().final_loss == first.final_loss


def test_bf16_autocast_keeps_weights_and_loss_in_fp32(dataset: ShardDataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path, steps=2, precision="bf16")
    summary = trainer.run()
    assert math.isfinite(summary.final_loss)
    assert {p.dtype for p in trainer.objective.parameters()} == {torch.float32}
    assert MODEL.num_tokens == 32

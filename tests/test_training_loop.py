"""The training loop: it learns, it resumes exactly, and it does not care how a batch is cut."""

import dataclasses
import importlib.util
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.marks import needs_torch_compile
from tests.runs import MODEL, make_loader, make_trainer, numbers
from tests.weights import stored_weights
from training.checkpoint import (
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from training.loop import Trainer
from training.metrics import TIMINGS, read_metrics
from training.optim import OptimConfig


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


def weights(run_dir: Path) -> bytes:
    return stored_weights(list_checkpoints(run_dir / "checkpoints")[-1] / "model.safetensors")


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
    on_cpu = set(TIMINGS) - {"gpu_memory_gib", "gpu_reserved_gib", "mfu"}
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", "num_skipped", "num_invalid", *on_cpu}
    assert rows[0]["read_seconds"] > 0  # the threads run ahead: a later interval of one step may need no reading
    assert rows[0]["wait_seconds"] > 0
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
    other = make_trainer(dataset, tmp_path, steps=1, optim=OptimConfig(lr=5e-4))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.001 and is now 0\.0005"):
        other.resume(checkpoint)


def test_a_checkpoint_of_another_batch_size_is_refused(dataset: ShardDataset, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_trainer(dataset, tmp_path, steps=1).run().checkpoint)
    with pytest.raises(ValueError, match="global_batch_size is 8 in the state and 4 here"):
        make_trainer(dataset, tmp_path, batch_size=4).resume(checkpoint)


def poison(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.objective.parameters()).fill_(math.nan)


def test_a_run_of_losses_that_are_not_finite_ends_before_a_checkpoint(dataset: ShardDataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path, max_nonfinite=2)
    poison(trainer)
    with pytest.raises(FloatingPointError, match=r"in 2 steps in a row, the last is step 2; .*there is no checkpoint"):
        trainer.run()
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_a_run_that_stops_being_finite_names_the_last_good_checkpoint(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path, keep_checkpoints=9).run()
    trainer = make_trainer(dataset, tmp_path, max_nonfinite=2)
    trainer.resume(load_checkpoint(tmp_path / "checkpoints" / "step-00000003"))
    poison(trainer)
    with pytest.raises(FloatingPointError, match=r"the last is step 5; .*the last good checkpoint is .*step-00000003"):
        trainer.run()


def test_a_step_that_is_not_finite_is_skipped_counted_and_its_sample_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = make_dataset(tmp_path / "train", num_samples=16, spoiled=5)
    trainer = make_trainer(clips, tmp_path / "run", steps=6, max_nonfinite=2)
    trainer.run()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["num_skipped"] for row in rows].count(1) == 3  # once an epoch
    assert ["loss" in row for row in rows] == [not row["num_skipped"] for row in rows]
    assert all(p.isfinite().all() for p in trainer.objective.parameters())
    assert "the losses of 1 samples on this rank are not: 000005" in caplog.text


def test_a_skipped_step_changes_no_weight(tmp_path: Path) -> None:
    clips = make_dataset(tmp_path / "train", num_samples=8, spoiled=5)
    trainer = make_trainer(clips, tmp_path / "run", steps=1)
    before = {name: value.clone() for name, value in trainer.objective.state_dict().items()}
    trainer.run()
    assert all(torch.equal(before[name], value) for name, value in trainer.objective.state_dict().items())


def test_the_loss_on_held_out_data_is_the_same_whenever_it_is_measured(dataset: ShardDataset, tmp_path: Path) -> None:
    held_out = make_dataset(tmp_path / "val", num_samples=11, split="validation")  # 8 and 3: the padding does not count
    trainer = make_trainer(
        dataset, tmp_path / "run", optim=OptimConfig(lr=1e-30, min_lr=0), steps=6, validation=held_out
    )
    trainer.run()
    losses = [row.get("validation_loss") for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert losses[0] is None
    assert losses[2] == losses[5]
    whole = next(iter(make_loader(held_out, batch_size=11, shuffle=False)))
    with torch.no_grad():
        assert losses[2] == pytest.approx(trainer.objective(whole)["loss"].mean().item(), rel=1e-4)


def test_the_checkpoint_with_the_lowest_validation_loss_outlives_the_newest(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    checkpoint = load_checkpoint(make_trainer(dataset, tmp_path, steps=1).run().checkpoint)
    shutil.rmtree(root)
    for step, loss in ((1, 0.9), (2, 0.5), (3, None), (4, 0.7), (5, 0.8)):
        save_checkpoint(
            root,
            dataclasses.replace(checkpoint, step=step, metrics={} if loss is None else {"validation_loss": loss}),
            keep=2,
        )
    assert [path.name[-1] for path in list_checkpoints(root)] == ["2", "4", "5"]
    assert best_checkpoint(root) == root / "step-00000002"


def test_fp16_with_a_loss_scaler_trains_and_resumes_with_its_scale(dataset: ShardDataset, tmp_path: Path) -> None:
    summary = make_trainer(dataset, tmp_path, precision="fp16").run()
    assert summary.final_loss < summary.first_loss * 1.1
    again = make_trainer(dataset, tmp_path, precision="fp16")
    checkpoint = load_checkpoint(summary.checkpoint)
    assert checkpoint.scaler["scale"] > 1
    again.resume(dataclasses.replace(checkpoint, scaler={**checkpoint.scaler, "scale": 8.0}))
    assert again.learner.scaler.get_scale() == 8.0


def test_recomputing_activations_changes_no_bit(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path / "kept", steps=3).run()
    make_trainer(dataset, tmp_path / "recomputed", steps=3, recompute=True).run()
    assert numbers(tmp_path / "recomputed") == numbers(tmp_path / "kept")


@pytest.mark.slow
@needs_torch_compile
def test_a_compiled_objective_gives_the_same_losses(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path / "plain", steps=3).run()
    make_trainer(dataset, tmp_path / "compiled", steps=3, compile="default").run()
    for plain, compiled in zip(numbers(tmp_path / "plain"), numbers(tmp_path / "compiled"), strict=True):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
        assert compiled["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-3)


def test_a_tracker_that_is_not_installed_is_refused_by_name(dataset: ShardDataset, tmp_path: Path) -> None:
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(ValueError, match="pip install wandb"):
        make_trainer(dataset, tmp_path, trackers=("wandb",))


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

"""What is measured at a checkpoint, which checkpoint is the best by it, and the metrics as CSV."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.st_jepa import STJEPA
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL, make_loader, make_trainer
from tools.systems.st_jepa import STJEPAObjective
from training.checkpoint import best_checkpoint, list_checkpoints, load_checkpoint
from training.config import TrainConfig
from training.held_out import Evaluation
from training.loop import Trainer
from training.metrics import TIMINGS, MetricsFile, read_metrics
from training.optim import OptimConfig


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


class Halved(STJEPAObjective):
    """Gives half of its loss as a further score, which drops out in training."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = super().forward(batch)["loss"]
        return {"loss": loss, "half": nn.functional.dropout(loss / 2, p=1.0, training=self.training)}


def make(
    dataset: ShardDataset,
    run_dir: Path,
    *,
    validation: ShardDataset | None = None,
    evaluations: Mapping[str, Evaluation] | None = None,
    **train: object,
) -> Trainer:
    settings: dict[str, object] = {"device": "cpu", "steps": 5, "checkpoint_every": 1, "log_every": 1, **train}
    torch.manual_seed(0)
    return Trainer(
        Halved(STJEPA(MODEL)),
        make_loader(dataset),
        config=TrainConfig(**settings),  # type: ignore[arg-type]
        optim=OptimConfig(lr=1e-3),
        recipe={},
        run_dir=run_dir,
        validation=None if validation is None else make_loader(validation, shuffle=False, drop_last=False),
        evaluations=evaluations or {},
        report=lambda line: None,
    )


def accuracy_by_turns() -> Evaluation:
    """An evaluator that finds 0.5 and 0.9 and 0.1 and so on, and draws numbers of its own."""
    found = iter((0.5, 0.9, 0.1, 0.9, 0.2))

    def evaluate(objective: nn.Module) -> Mapping[str, float]:
        assert not any(module.training for module in objective.modules())
        torch.rand(3)
        return {"top1": next(found)}

    return evaluate


def test_the_best_checkpoint_by_a_metric_of_an_evaluator_outlives_the_newest(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    make(
        dataset,
        tmp_path,
        evaluations={"probe": accuracy_by_turns()},
        best_metric="probe_top1",
        best_mode="max",
        keep_checkpoints=1,
    ).run()
    root = tmp_path / "checkpoints"
    assert [path.name[-1] for path in list_checkpoints(root)] == ["4", "5"]  # the newer of two equals
    assert best_checkpoint(root, "probe_top1", "max") == root / "step-00000004"
    assert best_checkpoint(root, "probe_top1", "min") == root / "step-00000005"
    assert load_checkpoint(root / "step-00000004").metrics["probe_top1"] == 0.9


def test_evaluators_may_measure_less_often_than_checkpoints_are_saved_and_always_at_the_end(
    dataset: ShardDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(
        dataset,
        tmp_path,
        evaluations={"probe": accuracy_by_turns()},
        best_metric="probe_top1",
        best_mode="max",
        evaluate_every=2,
        keep_checkpoints=1,
    ).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    measured = {row["step"]: row["probe_top1"] for row in rows if "probe_top1" in row}
    assert measured == {2: 0.5, 4: 0.9, 5: 0.1}
    assert [path.name[-1] for path in list_checkpoints(tmp_path / "checkpoints")] == ["4", "5"]
    assert "was not measured" not in caplog.text  # where nothing was to be measured, nothing is missed


def test_evaluations_between_two_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match="evaluate_every=7 is not a multiple of checkpoint_every=5"):
        TrainConfig(steps=10, checkpoint_every=5, evaluate_every=7)


def test_measuring_changes_nothing_of_the_run(dataset: ShardDataset, tmp_path: Path) -> None:
    plain = make(dataset, tmp_path / "plain")
    plain.run()
    measured = make(dataset, tmp_path / "measured", validation=dataset, evaluations={"probe": accuracy_by_turns()})
    measured.run()
    assert measured.objective.training
    for name, value in plain.objective.state_dict().items():
        assert torch.equal(value, measured.objective.state_dict()[name])
    ends = [
        load_checkpoint(tmp_path / name / "checkpoints" / "step-00000005").rng["cpu"] for name in ("plain", "measured")
    ]
    assert torch.equal(*ends)


def test_every_score_is_taken_of_held_out_data_in_evaluation_mode(dataset: ShardDataset, tmp_path: Path) -> None:
    make(dataset, tmp_path, validation=dataset, steps=1).run()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["half"] == 0.0
    assert row["validation_half"] == pytest.approx(row["validation_loss"] / 2)


@pytest.mark.parametrize(("metric", "mode"), [("loss", "max"), ("validation_half", "min")])
def test_any_loss_can_say_which_checkpoint_is_the_best(
    dataset: ShardDataset, tmp_path: Path, metric: str, mode: str
) -> None:
    make(dataset, tmp_path, validation=dataset, best_metric=metric, best_mode=mode, keep_checkpoints=1).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    best = (max if mode == "max" else min)(rows, key=lambda row: row[metric])
    assert f"step-{best['step']:08.0f}" in [path.name for path in list_checkpoints(tmp_path / "checkpoints")]


def test_a_checkpoint_keeps_what_the_clock_does_not_decide(dataset: ShardDataset, tmp_path: Path) -> None:
    make(dataset, tmp_path, validation=dataset).run()
    row = read_metrics(tmp_path / "metrics.jsonl")[-1]
    kept = load_checkpoint(tmp_path / "checkpoints" / "step-00000005").metrics
    assert kept == {name: value for name, value in row.items() if name not in TIMINGS}


@pytest.mark.parametrize(
    ("metric", "message"),
    [("validation_half", "no data is held out: give some with --val"), ("clips_per_second", "which the clock decides")],
)
def test_a_metric_that_cannot_be_measured_is_refused(
    dataset: ShardDataset, tmp_path: Path, metric: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(dataset, tmp_path, best_metric=metric)
    with pytest.raises(ValueError, match="best_mode='best'; allowed are min, max"):
        TrainConfig(best_mode="best")  # type: ignore[arg-type]


def test_a_metric_that_nobody_measured_is_said_with_those_there_are(
    dataset: ShardDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(dataset, tmp_path, best_metric="probe_top1", steps=1).run()
    assert "the best checkpoint goes by probe_top1, which was not measured: there is half, loss" in caplog.text


def test_a_held_out_loss_that_is_not_finite_is_no_best_one_and_ends_nothing(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    spoiled = make_dataset(tmp_path / "val", num_samples=8, spoiled=3)
    make(dataset, tmp_path / "run", validation=spoiled).run()
    assert best_checkpoint(tmp_path / "run" / "checkpoints") is None
    assert "validation_loss" not in load_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000005").metrics


def read_csv(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_the_csv_holds_the_rows_of_the_jsonl_after_a_resume_too(dataset: ShardDataset, tmp_path: Path) -> None:
    options = {"validation": dataset, "checkpoint_every": 2, "steps": 5, "keep_checkpoints": 9}
    make_trainer(dataset, tmp_path, **options).run()  # type: ignore[arg-type]
    assert read_csv(tmp_path / "metrics.csv") == read_metrics(tmp_path / "metrics.jsonl")
    again = make_trainer(dataset, tmp_path, **options)  # type: ignore[arg-type]
    again.resume(load_checkpoint(tmp_path / "checkpoints" / "step-00000002"))
    again.run()
    rows = read_csv(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows == read_metrics(tmp_path / "metrics.jsonl")


def test_a_number_that_comes_later_gets_a_column_and_earlier_rows_leave_it_empty(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.write({"step": 1, "loss": 0.5})
        metrics.write({"step": 2, "loss": 0.25, "validation_loss": 0.75})
        metrics.write({"step": 3})
        text = (tmp_path / "metrics.csv").read_text()  # there before the run ends
    assert text == "step,loss,validation_loss\n1,0.5,\n2,0.25,0.75\n3,,\n"
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[2]) == {"step": 3}

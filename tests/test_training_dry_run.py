"""A dry run shows batches, parts and losses, moves no weight and writes nothing."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.st_jepa import STJEPA
from pipeline import MixedLoader
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL, make_loader, make_trainer
from tools.systems.st_jepa import STJEPAObjective
from training.config import TrainConfig
from training.dry_run import dry_run
from training.loop import Trainer
from training.optim import OptimConfig


class Steep(STJEPAObjective):
    """Has gradients that are finite, and too large for fp16 at the first scale of the loss."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value * 30 if name == "loss" else value for name, value in super().forward(batch).items()}


class Endless(STJEPAObjective):
    """Has a finite loss whose gradient is not finite at any scale."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = super().forward(batch)
        return scores | {"loss": scores["loss"] + (scores["loss"] - scores["loss"].detach()).abs().sqrt()}


class Predictor(STJEPAObjective):
    """Trains the predictor alone, and keeps nothing else."""

    trainable = ("student.predictor",)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


def test_it_says_what_a_batch_is_what_is_frozen_and_what_it_costs(dataset: ShardDataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    objective = Predictor(STJEPA(MODEL))
    trainer = Trainer(
        objective,
        make_loader(dataset),
        config=TrainConfig(device="cpu", steps=4),
        optim=OptimConfig(lr=1e-3),
        recipe={},
        run_dir=tmp_path / "run",
    )
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    lines = "\n".join(dry_run(trainer))
    assert "clip     float32  [8, 4, 2, 2, 8, 8, 3] on cpu" in lines
    encoder, predictor = (re.search(rf"student\.{name} .*", lines) for name in ("encoder", "predictor"))
    assert encoder is not None
    assert predictor is not None
    count = sum(p.numel() for p in objective.student.encoder.parameters())
    assert encoder[0].split() == ["student.encoder", f"{count:,}", "frozen", "not", "in", "checkpoints"]
    assert re.search(r" trained  1\.00e-03  gradient [\d.e-]+$", predictor[0])
    assert lines.splitlines()[-1].startswith("loss 1.0") or lines.splitlines()[-1].startswith("loss 0.9")
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert not (tmp_path / "run").exists()


def test_the_run_after_it_is_the_run_without_it(dataset: ShardDataset, tmp_path: Path) -> None:
    plain = make_trainer(dataset, tmp_path / "plain").run()
    state = make_loader(dataset).state_dict()
    rehearsed = make_trainer(dataset, tmp_path / "rehearsed")
    first = [line for line in dry_run(rehearsed) if line.startswith("loss")]
    rehearsed.loader.load_state_dict(state)
    assert rehearsed.run().final_loss == plain.final_loss
    assert first == [f"loss {plain.first_loss:.4f}"]


def test_each_source_of_a_mix_is_shown_once(dataset: ShardDataset, tmp_path: Path) -> None:
    mix = MixedLoader({name: make_loader(dataset) for name in ("video", "stills")}, {"video": 0.5, "stills": 0.5})
    torch.manual_seed(0)
    trainer = Trainer(
        STJEPAObjective(STJEPA(MODEL)),
        mix,
        config=TrainConfig(device="cpu", steps=4),
        optim=OptimConfig(),
        recipe={},
        run_dir=tmp_path,
    )
    lines = list(dry_run(trainer))
    shown = [line.splitlines()[0] for line in lines if line.startswith("Batch")]
    assert sorted(re.findall(r"from (\w+):", " ".join(shown))) == ["stills", "video"]
    assert sum(line.startswith("loss ") for line in lines) == 2


def test_a_loss_that_is_not_finite_ends_it_with_the_samples_named(tmp_path: Path) -> None:
    spoiled = make_dataset(tmp_path / "data", num_samples=8, spoiled=5)
    with pytest.raises(FloatingPointError, match=r"is not finite on samples \[.*5.*\]"):
        list(dry_run(make_trainer(spoiled, tmp_path / "run", steps=1)))


def half(objective: STJEPAObjective, dataset: ShardDataset, run_dir: Path, precision: str = "fp16") -> Trainer:
    config = TrainConfig(device="cpu", steps=8, log_every=1, precision=precision)  # type: ignore[arg-type]
    optim = OptimConfig(lr=1e-3)
    return Trainer(objective, make_loader(dataset), config=config, optim=optim, recipe={}, run_dir=run_dir)


def test_a_loss_scale_too_large_for_fp16_is_lowered_as_in_training_and_is_no_fault(
    dataset: ShardDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    trainer = half(Steep(STJEPA(MODEL)), dataset, tmp_path)
    scale = trainer.learner.scaler.get_scale()
    state = make_loader(dataset).state_dict()
    lines = list(dry_run(trainer))
    (said,) = (line for line in lines if "loss scale" in line)
    found = re.search(r"fp16, 65536, .* skips about (\d+) step", said)
    assert found is not None
    assert not any("nan" in line or "inf" in line for line in lines)
    assert trainer.learner.scaler.get_scale() == scale
    trainer.loader.load_state_dict(state)
    trainer.run()
    num_skipped = sum("skipped" in record.message for record in caplog.records)
    assert 0 < num_skipped < 8
    assert abs(num_skipped - int(found[1])) <= 1  # training has another batch at each step


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_gradient_that_is_finite_at_no_scale_ends_it(dataset: ShardDataset, tmp_path: Path, precision: str) -> None:
    with pytest.raises(FloatingPointError, match=r"the gradient of student\.\S+ is not finite on samples"):
        list(dry_run(half(Endless(STJEPA(MODEL)), dataset, tmp_path, precision)))

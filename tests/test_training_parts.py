"""Weights of samples, rates of parts, frozen parts, and parameters that a batch does not touch."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.blocks import Block
from model.parts import ParameterGroup
from model.st_jepa import STJEPA
from pipeline.batch.batch import Batch
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import MODEL, make_loader
from tools.systems.st_jepa import STJEPAObjective
from training.checkpoint import load_checkpoint
from training.clock import StepClock
from training.config import TrainConfig
from training.learner import Learner, StepResult
from training.loop import Trainer
from training.optim import OptimConfig

CPU = torch.device("cpu")


class Line(nn.Module):
    """Scores x by its square distance to a line, and says what it was told of weights."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.other = nn.Linear(3, 1)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = batch["x"]
        value = self.other(x) if "other" in batch else self.head(self.body(x).relu())
        scores = {"loss": (value[:, 0] - x.sum(dim=1)).square(), "distance": value[:, 0].abs()}
        return scores | ({"weight": batch["weight"]} if "weight" in batch else {})


def make_batch(num_samples: int, *, seed: int = 0, **more: Tensor) -> Batch:
    x = torch.randn(num_samples, 3, generator=torch.Generator().manual_seed(seed))
    fixed = {"index": torch.arange(num_samples), "valid": torch.ones(num_samples, dtype=torch.bool)}
    return Batch({"x": x, **fixed, **more})


def make_learner(objective: nn.Module, **train: Any) -> Learner:
    config = TrainConfig(**{"device": "cpu", **train})
    return Learner(objective, config, OptimConfig(clip_grad_norm=1e9), World(), CPU)


def gradients(learner: Learner, batch: Batch) -> dict[str, Tensor]:
    learner.backward(batch, StepClock(CPU))
    return {n: p.grad.clone() for n, p in learner.objective.named_parameters() if p.grad is not None}


def step(learner: Learner, batch: Batch, rate: float = 1e-2) -> StepResult:
    return learner.step(batch, rate, StepClock(CPU))


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_a_samples_weight_is_its_share_of_the_loss_however_the_batch_is_cut(chunk_size: int | None) -> None:
    weight = torch.tensor([5.0, 0.0, 1.0, 30.0, 0.0, 2.5, 1.0])
    batch = make_batch(7, weight=weight)
    batch["valid"][2] = False
    objective = Line()
    loss = objective(batch)["loss"]
    counted = weight * batch["valid"]
    expected = (loss * counted).sum() / counted.sum()
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    learner = make_learner(objective, chunk_size=chunk_size)
    found = gradients(learner, batch)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
    torch.testing.assert_close(step(learner, batch).scores["loss"], expected.detach())


def test_equal_weights_are_no_weights_to_the_bit() -> None:
    plain, weighted = (
        gradients(make_learner(Line(), chunk_size=2), batch)
        for batch in (make_batch(6), make_batch(6, weight=torch.ones(6)))
    )
    assert plain.keys() == weighted.keys()
    assert all(torch.equal(plain[name], weighted[name]) for name in plain)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_batch_without_any_weight_moves_nothing_and_is_no_failure(precision: str) -> None:
    learner = make_learner(Line(), precision=precision)
    step(learner, make_batch(4))  # the optimiser has momentum now
    before = values(learner.objective)
    found = step(learner, make_batch(4, weight=torch.zeros(4)))
    assert (bool(found.finite), bool(found.taken), float(found.scores["loss"])) == (True, False, 0.0)
    assert all(torch.equal(before[name], value) for name, value in learner.objective.state_dict().items())


def test_a_sample_without_weight_may_have_any_loss() -> None:
    batch = make_batch(3, weight=torch.tensor([1.0, 0.0, 1.0]))
    batch["x"][1] = torch.inf
    learner = make_learner(Line())
    with torch.no_grad():
        assert not learner.objective(batch)["loss"].isfinite().all()
    assert torch.isfinite(step(learner, batch).scores["loss"])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"score": torch.zeros(4)}, "the objective gives score; it has to give a loss"),
        ({"loss": torch.zeros(())}, r"loss has shape \[\] on a batch of 4 samples; it has to be \[4\]"),
        ({"loss": torch.zeros(4), "weight": torch.ones(4, 1)}, r"weight has shape \[4, 1\]"),
        ({"loss": torch.zeros(4)}, "the loss of a batch depends on no parameter that is trained"),
    ],
)
def test_scores_that_are_not_one_number_a_sample_are_refused(scores: dict[str, Tensor], message: str) -> None:
    objective = Line()
    objective.forward = lambda batch: scores  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        step(make_learner(objective), make_batch(4))


class Rated(Line):
    """A body at a tenth of the run's rate, and a head at one of its own."""

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {
            "body": ParameterGroup(prefixes=("body",), scale=0.1),
            "head": ParameterGroup(prefixes=("head",), lr=5e-3),
        }


def test_each_part_learns_at_its_own_rate() -> None:
    learner = Learner(Rated(), TrainConfig(device="cpu"), OptimConfig(lr=1e-2, weight_decay=0.0), World(), CPU)
    before = values(learner.objective)
    step(learner, make_batch(4), rate=1e-2)
    # AdamW's first step is the rate itself, in the direction of the gradient's sign
    moved = {name: (value - before[name]).abs().max() for name, value in learner.objective.state_dict().items()}
    assert moved["body.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["head.weight"] == pytest.approx(5e-3, rel=1e-3)


def test_a_parameter_without_a_gradient_neither_decays_nor_moves_and_its_step_is_not_counted() -> None:
    learner = make_learner(Line(uses_all=False))
    video, text = make_batch(4), make_batch(4, other=torch.ones(4))
    step(learner, video)
    step(learner, video)
    before = values(learner.objective)
    step(learner, text)
    after = values(learner.objective)
    for name, value in before.items():
        assert torch.equal(after[name], value) != name.startswith("other"), name
    steps = {name: learner.optimizer.state[p]["step"].item() for name, p in learner.objective.named_parameters()}
    assert (steps["body.weight"], steps["other.weight"]) == (2, 1)


class Jepa(STJEPAObjective):
    """The tiny student with a frozen encoder, of which only the rest is kept."""

    trainable = ("student.predictor",)


def make_trainer(
    dataset: ShardDataset,
    run_dir: Path,
    objective: nn.Module,
    **train: Any,
) -> Trainer:
    return Trainer(
        objective,
        make_loader(dataset),
        config=TrainConfig(**{"device": "cpu", "steps": 4, "checkpoint_every": 2, "log_every": 1, **train}),
        optim=OptimConfig(lr=1e-3, warmup=0),
        recipe={"model": dataclasses.asdict(MODEL)},
        run_dir=run_dir,
        report=lambda line: None,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)


def jepa(kind: type[STJEPAObjective] = Jepa, seed: int = 0) -> STJEPAObjective:
    torch.manual_seed(seed)
    return kind(STJEPA(MODEL))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_frozen_part_stays_what_it_was_in_eval_and_out_of_gradients_and_optimiser(
    dataset: ShardDataset, tmp_path: Path, recompute: bool
) -> None:
    objective = jepa()
    trainer = make_trainer(dataset, tmp_path, objective, recompute=recompute)
    before = values(objective)
    seen = []
    block = next(module for module in objective.student.encoder.modules() if isinstance(module, Block))
    block.register_forward_hook(lambda module, args, output: seen.append((module.training, output.requires_grad)))
    trainer.run()
    assert set(seen) == {(False, False)}
    assert objective.training
    assert objective.student.predictor.training
    names = {name for group in trainer.learner.optimizer.param_groups for name in group["param_names"]}
    for name, value in trainer.objective.state_dict().items():
        assert torch.equal(before[name], value) == name.startswith("student.encoder"), name
        assert (name in names) != name.startswith("student.encoder"), name


def test_recomputing_beside_a_frozen_part_changes_no_bit(dataset: ShardDataset, tmp_path: Path) -> None:
    losses = [make_trainer(dataset, tmp_path / str(on), jepa(), recompute=on).run().final_loss for on in (False, True)]
    assert losses[0] == losses[1]


def test_a_checkpoint_holds_the_trainable_part_and_goes_on_beside_the_same_frozen_part(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    whole = make_trainer(dataset, tmp_path, jepa(), keep_checkpoints=9)
    summary = whole.run()
    halfway = load_checkpoint(tmp_path / "checkpoints" / "step-00000002")
    assert halfway.model
    assert all(name.startswith("student.predictor") for name in halfway.model)
    assert len(halfway.frozen_digest) == 32
    again = make_trainer(dataset, tmp_path / "again", jepa())
    again.resume(halfway)
    assert again.run().final_loss == summary.final_loss
    assert all(torch.equal(value, whole.objective.state_dict()[n]) for n, value in again.objective.state_dict().items())


def test_a_checkpoint_beside_another_frozen_part_is_refused_with_both_digests(
    dataset: ShardDataset, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(make_trainer(dataset, tmp_path, jepa()).run().checkpoint)
    other = make_trainer(dataset, tmp_path, jepa(seed=1))
    digests = checkpoint.frozen_digest, other.learner.frozen_digest
    with pytest.raises(ValueError, match=f"its digest was {digests[0]} and is {digests[1]} here"):
        other.resume(checkpoint)
    with pytest.raises(ValueError, match=f"its digest was {digests[0]} and is none here"):
        make_trainer(dataset, tmp_path, jepa(STJEPAObjective)).resume(checkpoint)


def test_a_checkpoint_of_a_version_that_knew_no_metrics_loads(dataset: ShardDataset, tmp_path: Path) -> None:
    path = make_trainer(dataset, tmp_path, jepa(STJEPAObjective)).run().checkpoint
    record = json.loads((path / "checkpoint.json").read_text())
    old = {k: v for k, v in record.items() if k not in ("metrics", "frozen_digest")} | {"validation_loss": 0.5}
    (path / "checkpoint.json").write_text(json.dumps(old))
    checkpoint = load_checkpoint(path)
    assert (checkpoint.metrics, checkpoint.frozen_digest) == ({"validation_loss": 0.5}, "")
    make_trainer(dataset, tmp_path, jepa(STJEPAObjective)).resume(checkpoint)


def test_the_rate_of_each_part_is_in_the_metrics(dataset: ShardDataset, tmp_path: Path) -> None:
    class Slow(STJEPAObjective):
        def parameter_groups(self) -> Mapping[str, ParameterGroup]:
            return MappingProxyType({"encoder": ParameterGroup(prefixes=("student.encoder",), scale=0.1)})

    make_trainer(dataset, tmp_path, jepa(Slow)).run()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["lr_encoder"] == pytest.approx(row["lr"] / 10)

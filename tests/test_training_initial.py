"""A run that starts from the weights of another one."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from model.st_jepa import STJEPA
from tests.datasets import make_dataset
from tests.runs import MODEL, make_trainer
from tools.systems.st_jepa import STJEPAObjective
from training.checkpoint import load_checkpoint, save_checkpoint
from training.initial import load_initial, restore
from training.objective import declared
from training.parts import frozen_digest, kept_state


class Predictor(STJEPAObjective):
    """Trains and keeps the predictor alone."""

    trainable = ("student.predictor",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with a checkpoint after each."""
    dataset = make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=20)
    run_dir = tmp_path_factory.mktemp("run")
    make_trainer(dataset, run_dir, steps=3, checkpoint_every=1, keep_checkpoints=9).run()
    return run_dir


def fresh(kind: type[STJEPAObjective] = STJEPAObjective, seed: int = 7, **model: Any) -> STJEPAObjective:
    torch.manual_seed(seed)
    return kind(STJEPA(dataclasses.replace(MODEL, **model)))


@pytest.fixture(scope="module")
def predictor_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint holds a predictor, trained beside the encoder of seed 7."""
    objective = fresh(Predictor)
    whole = load_checkpoint(run / "checkpoints" / "step-00000003")
    parts = declared(objective)
    model = {name: value + 1 for name, value in kept_state(objective, parts).items()}
    part = dataclasses.replace(whole, model=model, frozen_digest=frozen_digest(objective, parts))
    root = tmp_path_factory.mktemp("predictor")
    save_checkpoint(root / "checkpoints", part, keep=1)
    return root


@pytest.mark.parametrize(("name", "step"), [("", 3), ("checkpoints/step-00000002", 2)])
def test_a_run_gives_its_newest_weights_and_a_checkpoint_its_own(run: Path, name: str, step: int) -> None:
    objective = fresh()
    line = load_initial(objective, run / name)
    model = load_checkpoint(run / "checkpoints" / f"step-{step:08d}").model
    assert f"step-{step:08d}: {len(model)} of {len(model)} tensors" in line
    assert all(torch.equal(value, model[name]) for name, value in objective.state_dict().items())


def test_a_whole_run_starts_one_that_freezes_a_part_of_it(run: Path) -> None:
    objective = fresh(Predictor)
    load_initial(objective, run)
    model = load_checkpoint(run / "checkpoints" / "step-00000003").model
    assert all(torch.equal(value, model[name]) for name, value in objective.state_dict().items())


def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_copied(run: Path, predictor_run: Path) -> None:
    for objective, source, message in (
        (fresh(dim=48), run, r"has shape \[\S* ?32.*\], here it has \[\S* ?48.*\] and \d+ more"),
        (fresh(depth=1, num_joint=1), run, r"student\.encoder\.blocks\.1\.\S+ has no place here"),
        (fresh(depth=3), run, r"student\.encoder\.blocks\.2\.\S+ is missing"),
        (fresh(), predictor_run, r"student\.encoder\.\S+ is missing"),
    ):
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        with pytest.raises(ValueError, match=r"the checkpoint .*step-00000003 does not fit: .*" + message):
            load_initial(objective, source)
        assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())


def test_a_kept_part_starts_one_like_it_and_another_frozen_part_is_said(predictor_run: Path) -> None:
    model = load_checkpoint(predictor_run / "checkpoints" / "step-00000003").model
    beside_the_same, beside_another = fresh(Predictor), fresh(Predictor, seed=8)
    assert "another frozen part" not in load_initial(beside_the_same, predictor_run)
    assert "it was trained beside another frozen part" in load_initial(beside_another, predictor_run)
    for objective in (beside_the_same, beside_another):
        assert all(torch.equal(objective.state_dict()[name], value) for name, value in model.items())


def test_restoring_needs_the_frozen_part_of_then(predictor_run: Path) -> None:
    checkpoint = load_checkpoint(predictor_run / "checkpoints" / "step-00000003")
    restore(fresh(Predictor), checkpoint)
    with pytest.raises(ValueError, match="was trained with another frozen part: its digest was"):
        restore(fresh(Predictor, seed=8), checkpoint)


@pytest.mark.parametrize("name", ["nothing", "checkpoints"])
def test_a_folder_without_a_checkpoint_is_refused(run: Path, name: str) -> None:
    with pytest.raises(ValueError, match="neither a checkpoint nor a run that has a whole one"):
        load_initial(fresh(), run / name)

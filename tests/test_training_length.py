"""How long a run is: epochs or steps, one schedule from its first step to its last, whatever interrupts it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.reads import Reads
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.runs import make_trainer
from tests.workplaces import Workplace, make_workplace
from tools.cli import main
from tools.recipe import load_recipe
from training.checkpoint import list_checkpoints, load_checkpoint
from training.config import TrainConfig
from training.metrics import read_metrics
from training.optim import OptimConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """20 clips, batches of 8: two batches in an epoch."""
    return make_workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def dataset(place: Workplace) -> ShardDataset:
    return ShardDataset.open(place.train)


def train(place: Workplace, run_dir: Path, *more: str, recipe: str | Path | None = None) -> int:
    arguments = ["--recipe", str(recipe or place.recipe), "--data", place.train, "--out", str(run_dir)]
    return main(["train", *arguments, *more])


def length(run_dir: Path) -> tuple[int | None, int | None]:
    """Epochs and steps as the run's recipe records them."""
    recorded = load_recipe(run_dir / "recipe.yaml").train
    return recorded.epochs, recorded.steps


def test_a_run_takes_the_exact_batches_of_its_epochs(dataset: ShardDataset, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path, steps=None, epochs=3)
    assert trainer.run().steps == trainer.num_steps == 6
    assert trainer.loader.state_dict()["epoch"] == 3


def test_epochs_that_differ_in_length_are_counted_one_by_one(dataset: ShardDataset) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, len(dataset))
    reads = Reads(fields=("target",), lengths={"frames": lengths})
    loader = ShardLoader(dataset, LoaderConfig(length_budget={"frames": 16}), reads=reads)
    sizes = [sum(1 for _ in loader) for _ in range(6)]
    assert [loader.num_batches(epoch) for epoch in range(6)] == sizes
    assert TrainConfig(epochs=6).num_steps(loader.num_batches) == sum(sizes)


def test_the_epochs_of_a_mix_are_passes_over_its_heaviest_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.order.schedule.WINDOW", 16)  # so that epochs of few samples differ in length
    dataset = make_dataset(tmp_path, num_samples=80)
    lengths = np.random.default_rng(0).integers(1, 16, len(dataset))
    budget = LoaderConfig(length_budget={"words": 16})
    sources = {
        "text": ShardLoader(dataset, budget, reads=Reads(fields=("target",), lengths={"words": lengths})),
        "clips": ShardLoader(dataset, LoaderConfig(global_batch_size=4), reads=Reads(fields=("target",))),
    }
    mix = MixedLoader(sources, {"text": 0.7, "clips": 0.3})
    config = TrainConfig(epochs=4).resolved(mix.num_batches)
    seen = [[batch.source for batch in mix] for _ in range(4)]
    assert len({len(epoch) for epoch in seen}) > 1
    assert config.steps == sum(map(len, seen))
    assert [epoch.count("text") for epoch in seen] == [sources["text"].num_batches(epoch) for epoch in range(4)]
    mix.close()


def test_steps_override_the_recipes_epochs_and_a_flag_for_epochs_its_steps(place: Workplace, tmp_path: Path) -> None:
    assert train(place, tmp_path / "flag", "--epochs", "2") == 0  # the recipe says 6 steps
    assert length(tmp_path / "flag") == (2, 4)
    assert train(place, tmp_path / "both", "--epochs", "2", "--train.steps", "3") == 0
    assert length(tmp_path / "both") == (None, 3)


def test_a_recorded_recipe_repeats_the_run_and_takes_another_number_of_epochs(place: Workplace, tmp_path: Path) -> None:
    assert train(place, tmp_path / "first", "--train.epochs", "2") == 0
    recorded = tmp_path / "first" / "recipe.yaml"
    assert train(place, tmp_path / "again", recipe=recorded) == 0
    assert length(tmp_path / "again") == (2, 4)
    assert train(place, tmp_path / "longer", "--epochs", "3", recipe=recorded) == 0
    assert length(tmp_path / "longer") == (3, 6)


def test_a_run_counted_in_epochs_resumes_along_its_own_curve(place: Workplace, tmp_path: Path) -> None:
    arguments = ("--epochs", "3", "--train.checkpoint_every", "2", "--train.log_every", "1")
    for name in ("whole", "broken"):
        assert train(place, tmp_path / name, *arguments) == 0
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "step-00000006")
    assert train(place, tmp_path / "broken", *arguments, "--resume", "auto") == 0
    curves = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "broken")]
    assert len(curves[0]) == 6
    for whole, broken in zip(*curves, strict=True):
        assert {name: whole[name] for name in ("step", "loss", "lr")} == {n: broken[n] for n in ("step", "loss", "lr")}


@pytest.mark.parametrize("steps", ["5", "12"])
def test_a_run_is_neither_lengthened_nor_shortened_when_it_is_resumed(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str
) -> None:
    assert train(place, tmp_path) == 0
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train(place, tmp_path, "--train.steps", steps, "--resume", "auto") == 1
    error = capsys.readouterr().err
    assert f"the checkpoint at step 6 is of a run of 6 steps, this one would have {steps}" in error
    assert "resume with --train.steps 6" in error
    assert error.count("\n") == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert length(tmp_path)[1] == 6


def test_a_stopped_run_keeps_the_schedule_of_all_its_steps(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path, steps=8, keep_checkpoints=9).run()
    longer = make_trainer(dataset, tmp_path, steps=16)
    with pytest.raises(ValueError, match="a run of 8 steps, this one would have 16"):
        longer.resume(load_checkpoint(tmp_path / "checkpoints" / "step-00000003"))


def test_another_data_set_is_named_before_the_length_that_follows_from_it(place: Workplace, tmp_path: Path) -> None:
    trainer = make_trainer(ShardDataset.open(place.train), tmp_path / "run", steps=None, epochs=2)
    checkpoint = load_checkpoint(trainer.run().checkpoint)
    other = make_trainer(make_dataset(tmp_path / "other", num_samples=40), tmp_path / "run", steps=None, epochs=2)
    with pytest.raises(ValueError, match="dataset is"):
        other.resume(checkpoint)


def test_a_warm_up_longer_than_the_run_is_refused(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path / "run", "--optim.warmup", "7") == 1
    error = capsys.readouterr().err
    assert "optim.warmup is 7 steps, the whole run has 6" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert train(place, tmp_path / "run", "--optim.warmup", "6") == 0


def test_a_warm_up_longer_than_the_run_is_found_by_preflight(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--recipe", place.recipe, "--data", place.train, "--out", str(tmp_path), "--optim.warmup", "7"]
    assert main(["preflight", *arguments, "--batches", "1", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["loader"]["status"] == "fail"
    assert "optim.warmup is 7 steps" in checks["loader"]["detail"]


@pytest.mark.parametrize(("recipe", "epochs"), [("salt_ti_ssv2", 10), ("st_jepa_ssv2", 100)])
def test_the_recipes_count_in_epochs(recipe: str, epochs: int) -> None:
    train = load_recipe(recipe).train
    assert (train.epochs, train.steps) == (epochs, None)


def test_a_recipe_that_says_neither_how_many_epochs_nor_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"train": {"epochs": None}}))
    with pytest.raises(ValueError, match="one of them has to say how long"):
        load_recipe(tmp_path / "r.yaml")


def test_more_epochs_than_can_be_counted_are_refused_at_once(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path, "--epochs", str(10**30)) == 1
    assert "allowed are at most 1,000,000" in capsys.readouterr().err


def test_every_checkpoint_holds_the_steps_that_its_run_was_to_take(dataset: ShardDataset, tmp_path: Path) -> None:
    make_trainer(dataset, tmp_path, steps=None, epochs=2, optim=OptimConfig()).run()
    for path in list_checkpoints(tmp_path / "checkpoints"):
        assert load_checkpoint(path).recipe["train"]["steps"] == 4

"""The SALT objective and its runs: what it scores, in which modes it learns, on targets of which width."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from model.salt import SALT, Mode
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import make_dataset
from tests.runs import SALT_MODEL
from tools.cli import main
from tools.loaders import TrainingLoader
from tools.recipe import load_recipe
from tools.systems.salt import MaskKind, SALTObjective, SALTObjectiveConfig, SALTRecipe, make_mask
from training.metrics import read_metrics

Batch = dict[str, Tensor]
KINDS: tuple[MaskKind, ...] = ("random", "tube", "multiblock")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=9)


def make_objective(mode: Mode = "dense", **config: str) -> SALTObjective:
    torch.manual_seed(0)
    return SALTObjective(SALT(dataclasses.replace(SALT_MODEL, mode=mode)), SALTObjectiveConfig(**config))  # type: ignore[arg-type]


def make_batch(dataset: ShardDataset, objective: SALTObjective, *, gather: bool = True) -> Batch:
    recipe = SALTRecipe(model=SALT_MODEL, objective=objective.config)
    data = dataclasses.replace(
        recipe.data,
        global_batch_size=8,
        threads=1,
        fields=objective.fields,
        gather=objective.gather if gather else {},
    )
    loader = ShardLoader(dataset, data, make_mask(SALT_MODEL, objective.config))
    return dict(next(iter(DeviceLoader(loader, "cpu", normalize={"clip": IMAGENET}))))


@pytest.mark.parametrize(("loss", "norm"), [("mse", "none"), ("l1", "none"), ("mse", "layer_norm")])
def test_the_loss_is_the_distance_to_the_teachers_tokens_averaged_over_the_masked_ones(
    dataset: ShardDataset, loss: str, norm: str
) -> None:
    objective = make_objective(loss=loss, target_norm=norm)
    batch = make_batch(dataset, objective)
    prediction = objective.student(batch["clip"], batch["visible"], batch["masked"])
    scored = objective(batch)["loss"]
    assert scored.dtype == torch.float32
    for b in range(8):
        tokens = batch["target"][b].float().transpose(0, 1).reshape(32, 6)[batch["masked"][b]]  # token t*S + s
        if norm == "layer_norm":
            tokens = F.layer_norm(tokens, (6,))
        difference = prediction[b] - tokens
        expected = difference.square() if loss == "mse" else difference.abs()
        torch.testing.assert_close(scored[b], expected.mean())


@pytest.mark.parametrize("kind", KINDS)
def test_targets_at_visible_places_do_not_matter_and_those_at_masked_ones_do(dataset: ShardDataset, kind: str) -> None:
    objective = make_objective(mask=kind)
    batch = make_batch(dataset, objective, gather=False)
    before = objective(batch)["loss"]
    for name, matters in (("visible", False), ("masked", True)):
        tokens = rearrange(batch["target"].clone(), "b s t d -> b (t s) d")
        for b in range(8):
            tokens[b, objective._tokens(batch[name])[b]] += 1
        changed = {**batch, "target": rearrange(tokens, "b (t s) d -> b s t d", t=2)}
        assert torch.equal(objective(changed)["loss"], before) != matters


@pytest.mark.parametrize("mode", ["dense", "jepa"])
@pytest.mark.parametrize("kind", ["tube", "multiblock"])
def test_reading_only_what_the_mask_needs_scores_like_reading_all(dataset: ShardDataset, kind: str, mode: Mode) -> None:
    objective = make_objective(mode, mask=kind)
    part, whole = (make_batch(dataset, objective, gather=gather) for gather in (True, False))
    assert part["clip"].shape[1] == 4
    assert whole["clip"].shape[1] == 16
    torch.testing.assert_close(objective(part)["loss"], objective(whole)["loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_layout_scores_like_the_tubes_layout(dataset: ShardDataset, kind: str) -> None:
    objective = make_objective(mask=kind)
    tubes = make_batch(dataset, objective, gather=False)
    clip = rearrange(tubes["clip"], "b (y x) t k p q c -> b (t k) (y p) (x q) c", y=4)
    target = rearrange(tubes["target"], "b s t d -> b (t s) d")
    torch.testing.assert_close(objective({**tubes, "clip": clip, "target": target})["loss"], objective(tubes)["loss"])


def test_a_random_mask_hides_the_integer_part_of_the_ratio_of_every_sample_its_own(dataset: ShardDataset) -> None:
    masked = make_batch(dataset, make_objective())["masked"]
    assert masked.shape == (8, 24)
    assert len({tuple(row.tolist()) for row in masked}) == 8


@pytest.mark.parametrize("wrong", [{"mask": "none"}, {"loss": "cosine"}, {"target_norm": "batch"}, {"mask_ratio": 1.0}])
def test_an_impossible_objective_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SALTObjectiveConfig(**wrong)  # type: ignore[arg-type]


def write_recipe(path: Path, **model: object) -> Path:
    recipe = {
        "system": "salt",
        "view": {"num_frames": 4, "size": 32},
        "build": {"tubelet": 2, "patch": 8},
        "data": {"global_batch_size": 32, "threads": 1},
        "model": {**dataclasses.asdict(SALT_MODEL), **model},
        "optim": {"lr": 3e-3, "min_lr": 3e-4, "weight_decay": 0.0, "warmup": 20},
        "train": {"steps": 200, "log_every": 1, "checkpoint_every": 200, "device": "cpu"},
        "evaluate": {"epochs": 2, "seeds": [0]},
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("mode", ["dense", "jepa"])
def test_overfitting_32_clips_lowers_the_loss_by_thirty_percent_within_200_iterations(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "train", num_samples=32, samples_per_shard=32)
    recipe = write_recipe(tmp_path / "salt.yaml", mode=mode, dim=64, predictor_dim=64)
    arguments = ["--recipe", str(recipe), "--data", str(tmp_path / "train"), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments, "--optim.lr", "1e-2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["final_loss"] <= 0.7 * summary["first_loss"]


@pytest.mark.parametrize("width", [384, 768, 1280])
def test_targets_of_every_teachers_width_are_trained_on_and_another_width_is_refused(
    tmp_path: Path, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "train", num_samples=4, dim=width)
    recipe = write_recipe(tmp_path / "salt.yaml", target_dim=width)
    arguments = ["train", "--recipe", str(recipe), "--data", str(tmp_path / "train"), "--data.global_batch_size", "4"]
    arguments += ["--optim.warmup", "0"]
    assert main([*arguments, "--train.steps", "2", "--out", str(tmp_path / "run")]) == 0
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2
    assert main([*arguments, "--model.target_dim", "5", "--out", str(tmp_path / "other")]) == 1
    assert f"target has shape (16, 2, {width})" in capsys.readouterr().err


def test_a_salt_student_is_probed_by_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset(tmp_path / "train", num_samples=12)
    recipe = write_recipe(tmp_path / "salt.yaml")
    data = str(tmp_path / "train")
    arguments = ["--recipe", str(recipe), "--data", data, "--out", str(tmp_path / "run"), "--train.steps", "2"]
    arguments += ["--optim.warmup", "0"]
    assert main(["train", *arguments, "--data.global_batch_size", "4", "--val", data]) == 0
    assert "validation_loss" in read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    capsys.readouterr()
    assert main(["evaluate", "probe", "--run", str(tmp_path / "run"), "--train", data, "--val", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_classes"] == 3


@pytest.mark.parametrize("name", ["salt_ti_ssv2", "salt_s_ssv2", "salt_b_ssv2", "demo_salt"])
def test_the_recipes_that_are_shipped_are_whole(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.system == "salt"
    mask = make_mask(recipe.model, recipe.objective)
    assert mask.shapes["masked"] == (int(recipe.objective.mask_ratio * recipe.model.num_tokens),)


def test_a_loader_of_held_out_data_gives_every_sample_once_and_in_order(dataset: ShardDataset) -> None:
    objective = make_objective()
    recipe = SALTRecipe(model=SALT_MODEL, objective=objective.config)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, global_batch_size=4, threads=1))
    loader = TrainingLoader(recipe, {"": dataset}, torch.device("cpu"), World(), held_out=True)
    seen = torch.cat([batch["index"][batch["valid"]].clone() for batch in loader])
    assert seen.tolist() == list(range(9))

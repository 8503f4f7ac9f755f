"""The teacher is a section of the recipe: what a build takes from it, and what it refuses before it begins."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from model.teacher import TeacherConfig
from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_clip, tubes_to_target
from tests.datasets import make_dataset
from tests.test_model_teacher import HIDDEN, load, pretrained
from tests.videos import moving_square, write_video
from tools.cli import main
from tools.recipe import load_recipe

SECTIONS = {
    "system": "salt",
    "view": {"num_frames": 4, "size": 32},
    "build": {"tubelet": 2, "patch": 16, "workers": 1, "time_limit_seconds": None},
    "data": {"global_batch_size": 2, "threads": 1},
    "model": {
        "num_frames": 4,
        "image_size": 32,
        "patch": 16,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "predictor_depth": 1,
        "target_dim": HIDDEN,
    },
    "objective": {"mask_ratio": 0.5},
    "train": {"steps": 2, "device": "cpu"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, a pretrained teacher, and a recipe of SALT that names it."""
    folder = tmp_path_factory.mktemp("place")
    for number in range(2):
        write_video(folder / "videos" / f"{number}.webm", moving_square(num_frames=8, seed=number))
    teacher = {"id": str(pretrained(folder / "huge")), "projection_dim": None}
    (folder / "salt.yaml").write_text(yaml.safe_dump(SECTIONS | {"teacher": teacher}))
    return folder


def build(place: Path, out: Path, *more: object) -> int:
    arguments = ["--recipe", place / "salt.yaml", "--videos", place / "videos", "--device", "cpu", "--out", out, *more]
    return main(["build", *map(str, arguments)])


def train(place: Path, data: Path, out: Path, *more: str) -> int:
    return main(["train", "--recipe", str(place / "salt.yaml"), "--data", str(data), "--out", str(out), *more])


def test_a_build_by_the_recipe_alone_stores_the_teachers_own_values(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert build(place, tmp_path / "set") == 0
    said = capfd.readouterr()
    assert "LOAD REPORT" not in said.out + said.err
    assert "Loading weights" not in said.out + said.err
    data = ShardDataset.open(tmp_path / "set")
    teacher = data.manifest.provenance["teacher"]
    assert (teacher["id"], teacher["projection"], teacher["layer_norm"]) == ("huge", None, True)
    assert not (tmp_path / "set" / "projection.npy").exists()
    clips = np.stack([tubes_to_clip(np.asarray(data.read(number, "clip")), 2) for number in range(2)])
    stored = np.stack([tubes_to_target(np.asarray(data.read(number, "target"))) for number in range(2)])
    assert np.array_equal(load(place / "huge", projection_dim=None)(clips), stored)


def test_the_teacher_that_a_build_used_is_saved_with_its_output(place: Path, tmp_path: Path) -> None:
    assert build(place, tmp_path / "set", "--teacher.projection_seed", 5, "--teacher-dtype", "float32") == 0
    saved = load_recipe(tmp_path / "set" / "recipe.yaml").teacher
    assert saved == TeacherConfig(id="huge", projection_dim=None, projection_seed=5, dtype="float32")


def test_flags_override_the_recipes_teacher(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "huge", tmp_path / "other")
    flags = ("--teacher", tmp_path / "other", "--projection-dim", 6, "--model.target_dim", 6)
    assert build(place, tmp_path / "set", *flags) == 0
    teacher = ShardDataset.open(tmp_path / "set").manifest.provenance["teacher"]
    assert (teacher["id"], teacher["projection"]["shape"]) == ("other", [HIDDEN, 6])
    sections = ("--teacher.id", tmp_path / "other", "--teacher.projection_dim", 6, "--model.target_dim", 6)
    assert build(place, tmp_path / "same", *sections) == 0
    assert ShardDataset.open(tmp_path / "same").digest == ShardDataset.open(tmp_path / "set").digest
    assert build(place, tmp_path / "clips", "--teacher", "none") == 0
    assert "target" not in ShardDataset.open(tmp_path / "clips").schema


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model.target_dim", 384), f"{HIDDEN} wide (with its own values), model.target_dim is 384"),
        (("--projection-dim", 7), f"7 wide (by teacher.projection_dim), model.target_dim is {HIDDEN}"),
        (("--projection-dim", "many"), "--projection-dim is 'many'"),
        (("--teacher", "/nowhere/at/all"), "cannot load the teacher '/nowhere/at/all': there is no such folder"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_built(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], said: str
) -> None:
    assert build(place, tmp_path / "set", *flags) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_the_default_teachers_are_those_of_the_two_systems(tmp_path: Path) -> None:
    assert load_recipe("st_jepa_ssv2").teacher == TeacherConfig(
        id="MCG-NJU/videomae-huge-finetuned-kinetics", projection_dim=384
    )
    own = TeacherConfig(id="MCG-NJU/videomae-huge", projection_dim=None)
    for size in ("ti", "s", "b"):
        recipe = load_recipe(f"salt_{size}_ssv2")
        assert recipe.teacher == own
        assert recipe.model.target_dim == 1280
    (tmp_path / "own.yaml").write_text("system: salt\n")
    assert load_recipe(tmp_path / "own.yaml").teacher == own


def test_projected_targets_are_not_trained_on_by_a_recipe_of_the_teachers_own(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(place, tmp_path / "own") == 0
    assert build(place, tmp_path / "projected", "--projection-dim", HIDDEN) == 0
    capsys.readouterr()
    assert train(place, tmp_path / "projected", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "holds projected values as targets, the recipe asks for the teacher's own values" in error
    assert f"--teacher.projection_dim {HIDDEN}" in error
    assert error.count("\n") == 1
    assert train(place, tmp_path / "projected", tmp_path / "a", "--teacher.projection_dim", str(HIDDEN)) == 0
    assert f"targets  {HIDDEN} wide, projected of huge\n" in capsys.readouterr().out
    assert train(place, tmp_path / "own", tmp_path / "b", "--teacher.id", "another") == 0
    assert f"targets  {HIDDEN} wide, the own values of huge; the recipe's teacher is another" in capsys.readouterr().out
    assert load_recipe(tmp_path / "b" / "recipe.yaml").teacher.id == "another"


def test_a_set_that_names_no_teacher_is_trained_on_and_that_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "set", num_samples=2, dim=HIDDEN, patch=16)
    assert train(place, tmp_path / "set", tmp_path / "run", "--json") == 0
    said = capsys.readouterr()
    assert "of a teacher that the data set does not name" in said.err
    assert json.loads(said.out)["steps"] == 2


def test_a_small_build_is_not_said_to_need_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(place, tmp_path / "set", "--preflight") == 0
    said = capsys.readouterr().err
    assert "0.0 GB needed" not in said
    assert "kB needed" in said


def test_a_set_that_gets_its_targets_later_trains_as_one_that_was_built_with_them(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(place, tmp_path / "built") == 0
    assert build(place, tmp_path / "later", "--teacher", "none") == 0
    more = ["--name", "target", "--teacher", str(place / "huge"), "--device", "cpu"]
    assert main(["add-field", str(tmp_path / "later"), *more]) == 0
    losses = []
    for name in ("built", "later"):
        assert train(place, tmp_path / name, tmp_path / f"run_{name}") == 0
        assert f"targets  {HIDDEN} wide, the own values of huge" in capsys.readouterr().out
        lines = (tmp_path / f"run_{name}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    assert losses[0] == losses[1]
    assert any(losses[0])

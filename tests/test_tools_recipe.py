from pathlib import Path

import pytest

from tools.recipe import RECIPES, Recipe, find_recipe, load_recipe, save_resolved

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_its_geometry_agrees(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.view.num_frames == recipe.model.num_frames
    assert recipe.view.size == recipe.model.image_size
    assert (recipe.build.tubelet, recipe.build.patch) == (recipe.model.tubelet, recipe.model.patch)


def test_the_reference_recipe_has_the_reference_contract() -> None:
    recipe = load_recipe("st_jepa_ssv2")
    assert (recipe.model.num_times, recipe.model.num_positions, recipe.model.target_dim) == (8, 196, 384)
    assert recipe.objective.mask_ratio == 0.75


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_reads_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["--train.steps=7", "--evaluate.seeds=[3, 4]", "--train.seed=5"])
    save_resolved(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_flags_win_over_the_file_and_the_last_flag_wins() -> None:
    recipe = load_recipe("demo", ["--train.steps=7", "--train.steps=8", "--optim.lr=1e-3"])
    assert recipe.train.steps == 8
    assert recipe.optim.lr == 1e-3


def test_what_a_recipe_leaves_out_has_the_default_of_its_class(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train:\n  steps: 3\n")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.model == Recipe().model
    assert recipe.train.steps == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {steps: 3}", "no section 'trian'"),
        ("train: {stepz: 3}", "stepz"),
        ("train: {steps: many}", "train.steps"),
        ("train: {steps: 0}", "at least 1"),
        ("view: 3", "section 'view' is 3"),
        ("system: jpeg", "allowed are"),
        ("- view", "holds a list"),
        (": : [", "is not YAML"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"r\.yaml|at least 1") as caught:
        load_recipe(tmp_path / "r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--train.stepz=3", "--train.steps=many", "--model.depth=-1"])
def test_a_flag_that_does_not_fit_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match=r"steps|stepz|depth"):
        load_recipe("demo", [flag])


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"one of demo, .*st_jepa_ssv2"):
        find_recipe("nothing")

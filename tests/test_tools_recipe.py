from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from model.salt import SALTConfig
from tools.recipe import find_recipe, load_recipe, save_resolved
from tools.recipes import RECIPES
from tools.systems.st_jepa import STJEPARecipe as Recipe

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "frames")  # those that train
OF_CLIPS = [name for name in NAMES if not name.startswith(("fvlm", "sam3"))]


@pytest.mark.parametrize("name", OF_CLIPS)
def test_every_recipe_loads_and_its_geometry_agrees(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.view.num_frames == recipe.model.num_frames
    assert recipe.view.size == recipe.model.image_size
    assert (recipe.build.tubelet, recipe.build.patch) == (recipe.model.tubelet, recipe.model.patch)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_that_training_checks_a_sample_of_what_it_reads(name: str) -> None:
    written = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert written["data"]["verify"] == load_recipe(name).data.verify == "sample"


def test_the_reference_recipe_has_the_reference_contract() -> None:
    recipe = load_recipe("st_jepa_ssv2")
    assert (recipe.model.num_times, recipe.model.num_positions, recipe.model.target_dim) == (8, 196, 384)
    assert recipe.objective.mask_ratio == 0.75


def test_the_recipes_of_salt_are_the_run_of_record_at_three_sizes() -> None:
    sizes = {"ti": (192, 3, True), "s": (384, 6, False), "b": (768, 12, False)}
    recipes = {size: load_recipe(f"salt_{size}_ssv2") for size in sizes}
    for size, (dim, heads, recompute) in sizes.items():
        recipe = recipes[size]
        assert isinstance(recipe.model, SALTConfig)
        assert (recipe.model.dim, recipe.model.heads, recipe.train.recompute) == (dim, heads, recompute)
        tiny = recipes["ti"]
        model = replace(recipe.model, dim=192, heads=3)
        assert replace(recipe, model=model, train=replace(recipe.train, recompute=True)) == tiny
    record = recipes["ti"]
    assert record.data.global_batch_size == 32
    assert record.train.precision == "bf16"
    assert record.train.epochs == 10
    assert (record.objective.mask_ratio, record.model.target_dim) == (0.75, 1280)
    optim = record.optim
    assert (optim.lr, optim.min_lr, optim.warmup, optim.weight_decay, optim.clip_grad_norm) == (
        3e-4,
        3e-5,
        500,
        0.05,
        1,
    )


def test_the_stages_of_the_foveated_vlm_differ_in_what_is_scored_and_in_the_template_of_chats() -> None:
    first, second, third = (load_recipe(f"fvlm_stage{stage}") for stage in (1, 2, 3))
    assert second == third
    assert (first.objective.scored, second.objective.scored) == ("text", "answer")
    assert (first.chat.template, second.chat.template) == ("literal", "tokenizer")
    assert first.chat.prompt == "What would be the WebVid caption for this video?"
    assert replace(first, objective=second.objective, chat=second.chat) == second
    optim, view = first.optim, first.view
    assert (optim.lr, optim.weight_decay, optim.clip_grad_norm, optim.warmup) == (1e-4, 0.01, 1.0, 0.03)
    assert (first.objective.llm_lr, first.objective.dinov2_lr) == (1e-5, 1e-5)
    assert first.data.mix == {"video": 0.86, "text": 0.14}
    assert first.data.length_budget == {"frames": 512, "tokens": 16384}
    assert (view.sampling, view.fps, view.max_frames, view.size) == ("fps", 1.0, 64, 224)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_on_over_samples_that_cannot_be_read(name: str) -> None:
    assert load_recipe(name).data.on_error == "quarantine"


def test_the_name_that_three_recipes_had_before_names_them() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'salt_ssv2' \(did you mean .*") as caught:
        load_recipe("salt_ssv2")
    for name in ("salt_ti_ssv2", "salt_s_ssv2", "salt_b_ssv2"):
        assert name in str(caught.value).partition(";")[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_reads_back_the_same(name: str, tmp_path: Path) -> None:
    others = "--objects.prompts=[a, b]" if name.startswith("sam3") else "--evaluate.modes=[coarse_only, autoregressive]"
    several = "--evaluate.seeds=[3, 4]" if name in OF_CLIPS else others
    recipe = load_recipe(name, ["--train.steps=7", several, "--train.seed=5"])
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
        ("trian: {steps: 3}", "no section 'trian' (did you mean train?)"),
        ("train: {stepz: 3}", "there is no train.stepz (did you mean train.steps?)"),
        ("data: {fields: [clip]}", "what is read of a sample follows from the system"),
        ("data: {gather: {clip: visible}}", "leave data.gather out"),
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
    with pytest.raises(ValueError, match=r"r\.yaml|at least 1|what is read") as caught:
        load_recipe(tmp_path / "r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--train.stepz=3", "--train.steps=many", "--model.depth=-1"])
def test_a_flag_that_does_not_fit_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match=r"steps|stepz|depth"):
        load_recipe("demo", [flag])


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--train.stps=3", "train.steps"),
        ("--train.step=3", "train.steps"),
        ("--data.batch_size=3", "data.global_batch_size"),
        ("--optim.learning_rate=3", None),
        ("--teacher.projection=3", "teacher.projection_dim"),
        ("--data.field=[clip]", None),
    ],
)
def test_a_mistyped_flag_is_answered_with_the_nearest_key_and_all_there_are(flag: str, meant: str | None) -> None:
    with pytest.raises(ValueError, match="there is no") as caught:
        load_recipe("demo", [flag])
    said = str(caught.value)
    assert flag.removeprefix("--").partition("=")[0] in said
    assert (f"did you mean {meant}" in said) if meant else ("did you mean" not in said)
    section = flag.removeprefix("--").partition(".")[0]
    assert f"; {section} has " in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "flag", ["--data.fields=[clip]", "--data.gather={clip: visible}", "--data.gather.clip=visible"]
)
def test_what_a_system_reads_of_a_sample_is_not_the_users(flag: str) -> None:
    with pytest.raises(ValueError, match=r"follows from the system st_jepa: leave data\.(fields|gather) out"):
        load_recipe("demo", [flag])


def test_a_recipe_recorded_with_what_was_read_by_default_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data:\n  fields: [clip, target]\n  gather: {}\n")
    assert load_recipe(tmp_path / "r.yaml") == Recipe()
    save_resolved(Recipe(), tmp_path / "new.yaml")
    assert "fields" not in (tmp_path / "new.yaml").read_text()


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"one of demo, .*st_jepa_ssv2"):
        find_recipe("nothing")

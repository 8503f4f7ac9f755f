"""The three stages as commands: what a run finds, records, keeps and refuses, and what it is exported as."""

import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from transformers import Sam3Model

from model.parts import lies_in
from model.sam3_files import load_student
from tests.sam3_runs import Workshop
from tests.sam3_students import PROMPTS, TRAINED, random_batch, write_student
from tests.sav_sets import SIDE
from tools.cli import main
from tools.recipe import load_recipe
from tools.systems.sam3_students import take_apart
from tools.trained import open_run
from training.checkpoint import newest_checkpoint
from training.initial import restore
from training.metrics import read_metrics

PREFIXES = tuple(f"student.{name}" for name in TRAINED)
TERMS = ("loss", "dice", "bce", "box_l1", "box_giou", "iou_error", "presence", "mask_iou", "num_matched", "num_lost")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def runs(workshop: Workshop) -> Path:
    """A run of each stage, in one folder."""
    runs = workshop.folder / "runs"
    student = str(workshop.folder / "student")
    workshop.train("sam3_image_features", runs / "features", "--student", student)
    workshop.train("sam3_image_outputs", runs / "image", "--init", str(runs / "features"))
    workshop.train("sam3_video", runs / "video", train={"checkpoint_every": 2})
    return runs


def recorded(run: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = yaml.safe_load((run / "recipe.yaml").read_text())
    return content


def test_each_stage_leaves_its_scores(runs: Path) -> None:
    for name, wanted in (
        ("features", ("loss", "feature_mse", "feature_cosine")),
        ("image", (*TERMS, "feature_mse", "feature_cosine")),
        ("video", TERMS),
    ):
        rows = read_metrics(runs / name / "metrics.jsonl")
        assert len(rows) == 4
        assert all(set(wanted) <= set(row) for row in rows)


def test_a_run_records_its_student_and_the_statistics_of_its_pixels(runs: Path, workshop: Workshop) -> None:
    student = str((workshop.folder / "student").resolve())
    for name, expected in (("features", student), ("image", student), ("video", str((runs / "image").resolve()))):
        model = recorded(runs / name)["model"]
        assert model["student"] == expected
        assert model["pixel_mean"] == model["pixel_std"] == [0.5, 0.5, 0.5]


def test_the_memory_takes_the_newest_run_that_learnt_objects_and_refuses_where_there_is_none(
    runs: Path, workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = workshop.recipe("sam3_video")
    assert main(workshop.arguments(recipe, tmp_path / "alone", "--dry-run")) == 1
    assert (
        "there is no student: give --student: a folder or an id of transformers' Sam3Model" in capsys.readouterr().err
    )
    shutil.copytree(runs / "features", tmp_path / "features")  # has learnt no objects
    assert main(workshop.arguments(recipe, tmp_path / "alone", "--dry-run")) == 1
    (tmp_path / "features" / "recipe.yaml").write_text("[")  # of whatever else lies there
    assert main(workshop.arguments(recipe, tmp_path / "alone", "--dry-run")) == 1
    shutil.copytree(runs / "image", tmp_path / "older")
    shutil.copytree(runs / "image", tmp_path / "newer")
    for place, name in enumerate(("older", "newer")):
        for file in (tmp_path / name).glob("checkpoints/*/checkpoint.json"):
            stat = file.stat()
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + place * 10**9))
    capsys.readouterr()
    assert main(workshop.arguments(recipe, tmp_path / "alone", "--dry-run")) == 0
    assert f"student {tmp_path / 'newer'}" in capsys.readouterr().out
    shutil.copy(runs / "image" / "run.json", tmp_path)
    (tmp_path / "recipe.yaml").write_text("system: st_jepa\n")
    assert main(workshop.arguments(recipe, tmp_path / "alone", "--dry-run", "--student", str(tmp_path))) == 1
    assert f"{tmp_path} is a run of the system st_jepa, which trains no SAM3" in capsys.readouterr().err
    assert not (tmp_path / "alone").exists()


def test_a_checkpoint_holds_the_memory_alone_and_goes_with_its_student_only(
    runs: Path, workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = newest_checkpoint(runs / "video" / "checkpoints")
    assert checkpoint is not None
    assert {name.split(".")[1] for name in checkpoint.model} == set(TRAINED)
    assert all(lies_in(name, PREFIXES) for name in checkpoint.model)
    assert checkpoint.frozen_digest
    other = write_student(tmp_path / "other", seed=7)
    with pytest.raises(ValueError, match="was trained with another frozen part"):
        open_run(runs / "video", [f"--model.student={other}"])
    shutil.copytree(runs / "video", tmp_path / "video")
    recipe = workshop.recipe("sam3_video", train={"checkpoint_every": 2})
    arguments = workshop.arguments(recipe, tmp_path / "video", "--resume", "auto", "--student", str(other))
    assert main(arguments) == 1
    assert f"model.student was {runs / 'image'} and is now {other}" in capsys.readouterr().err


def test_a_run_that_goes_on_is_the_run_that_never_stopped(runs: Path, workshop: Workshop, tmp_path: Path) -> None:
    shutil.copytree(runs / "video", tmp_path / "video")
    shutil.rmtree(tmp_path / "video" / "checkpoints" / "step-00000004")
    recipe = workshop.recipe("sam3_video", train={"checkpoint_every": 2})
    # its student is in its own folder: nothing lies beside this one
    assert main(workshop.arguments(recipe, tmp_path / "video", "--resume", "auto")) == 0
    again, before = (newest_checkpoint(folder / "video" / "checkpoints") for folder in (tmp_path, runs))
    assert again is not None
    assert before is not None
    assert again.step == before.step == 4
    assert all(torch.equal(value, before.model[name]) for name, value in again.model.items())


@torch.no_grad()
def test_an_exported_run_is_a_student_of_transformers_with_its_memory_beside_it(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert main(["export", "--run", str(runs / "video"), "--out", str(out)]) == 0
    sam, loaded = Sam3Model.from_pretrained(out, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    _, objective, _ = open_run(runs / "video")
    own = {f"student.sam.{name}": value for name, value in sam.state_dict().items()}
    missing = objective.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) == {n for n in objective.state_dict() if lies_in(n, PREFIXES)}
    memory = safetensors.torch.load_file(out / "memory.safetensors")
    checkpoint = newest_checkpoint(runs / "video" / "checkpoints")
    assert checkpoint is not None
    assert memory.keys() == {name.removeprefix("student.") for name in checkpoint.model}
    restore(objective, checkpoint)
    student, batch = load_student(out, SIDE), random_batch([2, 1])
    text = objective.text(batch["prompt"])  # type: ignore[operator]
    pixels = student.pixels(batch["frames"][:, 0])
    found, wanted = (one.eval().video(pixels, text, batch["fpn"]) for one in (student, take_apart(objective)))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_an_exported_student_of_pictures_is_one_to_begin_with(
    runs: Path, workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--run", str(runs / "image"), "--out", str(tmp_path / "exported")]) == 0
    capsys.readouterr()
    recipe = workshop.recipe("sam3_video")
    losses = []
    for student in (tmp_path / "exported", runs / "image"):
        assert main(workshop.arguments(recipe, tmp_path / "run", "--dry-run", "--student", str(student))) == 0
        losses += [line for line in capsys.readouterr().out.splitlines() if line.startswith("loss")]
    assert losses[0] == losses[1]  # with the same fresh memory, too


def test_the_recipes_say_what_was_asked_for() -> None:
    epochs = {"sam3_image_features": 1, "sam3_image_outputs": 3, "sam3_video": 5}
    for name, wanted in epochs.items():
        recipe = load_recipe(name)
        optim, train, data = recipe.optim, recipe.train, recipe.data
        assert (optim.lr, optim.weight_decay, optim.clip_grad_norm) == (1e-4, 0.01, 1.0)
        assert (train.epochs, train.chunk_size, data.global_batch_size) == (wanted, 1, 4)
        assert (recipe.objects.most, recipe.objects.mask_size, recipe.objects.prompts) == (20, 144, PROMPTS)
        assert (recipe.teacher.level, recipe.teacher.image_size, recipe.build.teacher_batch) == (3, 504, 4)
        assert recipe.memory.num_context == (8 if name == "sam3_video" else 0)
    assert load_recipe("sam3_image_outputs").objective.feature_weight == 0.1
    video = load_recipe("sam3_video")
    assert video.optim.warmup == load_recipe("sam3_image_outputs").optim.warmup == 200
    model = video.model
    assert (model.num_latents, model.num_layers, model.num_heads, model.ffn_dim) == (64, 2, 8, 768)
    assert video.objective.trainable == TRAINED


def test_the_warm_up_counts_steps_of_the_optimiser_and_not_chunks(workshop: Workshop, tmp_path: Path) -> None:
    student = ("--student", str(workshop.folder / "student"))
    optim = {"warmup": 4, "lr": 1e-3}
    run = workshop.train("sam3_video", tmp_path / "run", *student, optim=optim)  # batches of 2 in chunks of 1
    rates = [row["lr"] for row in read_metrics(run / "metrics.jsonl")]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])


@pytest.mark.slow
def test_a_head_of_its_own_says_how_well_a_mask_fits_and_stays_with_the_student(
    workshop: Workshop, tmp_path: Path
) -> None:
    student = str(workshop.folder / "student")
    head = {"iou_head": True}
    image = workshop.train("sam3_image_outputs", tmp_path / "image", "--student", student, model=head)
    video = workshop.train("sam3_video", tmp_path / "video")
    own, kept = (open_run(run)[1].state_dict() for run in (image, video))
    heads = {name for name in own if lies_in(name, ("student.iou_head",))}
    assert len(heads) == 6
    assert all(torch.equal(own[name], kept[name]) for name in heads)
    checkpoint = newest_checkpoint(video / "checkpoints")
    assert checkpoint is not None
    assert not heads & checkpoint.model.keys()
    assert main(["export", "--run", str(video), "--out", str(tmp_path / "exported")]) == 0
    assert load_student(tmp_path / "exported", SIDE).iou_head is not None


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        ("sam3_image_outputs", ["--memory.num_context=8"], "a student of single pictures has none"),
        ("sam3_video", ["--memory.num_context=0"], "which is image mode"),
        ("sam3_video", ["--objective.trainable=[memory_attention]"], "without memory_resampler"),
        (
            "sam3_video",
            ["--objective.trainable=[memory_resampler,memory_attention,nothing]"],
            "names 'student.nothing'",
        ),
        ("sam3_video", ["--objective.memory=other"], "objective.memory"),
        ("sam3_video", ["--model.num_heads=5"], "features are 32 wide, which 5 heads do not share"),
        ("sam3_image_outputs", ["--student", "nowhere/at/all/or"], "cannot load the student 'nowhere/at/all/or'"),
        ("sam3_image_outputs", ["--student", "./nowhere"], "there is no such folder"),
        ("sam3_image_outputs", [], "there is no student"),
        ("sam3_image_outputs", ["--objective.feature_weight=-1"], "feature_weight is -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_ends_with_one_line(
    name: str,
    flags: list[str],
    line: str,
    workshop: Workshop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    student = [] if name == "sam3_image_outputs" else ["--student", str(workshop.folder / "student")]
    arguments = workshop.arguments(workshop.recipe(name), tmp_path / "run", *student, *flags)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in error
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_width_is_told_with_both_shapes(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(write_student(tmp_path / "student", channels=16))
    recipe = workshop.recipe("sam3_image_features")
    assert main(workshop.arguments(recipe, tmp_path / "run", "--student", other)) == 1
    assert "the student's features are [16, 4, 4], the stored ones [32, 4, 4]" in capsys.readouterr().err

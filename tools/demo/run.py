"""The demo's steps, one after the other, each with the code that the other commands run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.teacher import TeacherConfig, load_videomae_teacher
from shards.builder import BuildSummary, Source, build_dataset, open_source
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.publish import publish_json
from shards.verify import verify_dataset
from tools.demo.codecs import LEAST_SEEDS, compare_codecs
from tools.demo.evaluations import embed_captions, evaluate_student, measures
from tools.demo.motion_teacher import TeacherPlan, make_teacher
from tools.demo.page import Course, Shown, write_html
from tools.demo.readback import Readback, read_back
from tools.demo.scenes import MOTIONS
from tools.demo.steps import TORCH_THREADS, Clock, made_on, num_workers, prepare, say
from tools.demo.student import Guess, score_student
from tools.demo.videos import VideoSet, make_videos
from tools.job import Job
from tools.progress import track
from tools.recipe import load_recipe
from tools.systems import system_of
from tools.systems.clips import ClipRecipe as Recipe
from tools.train import train
from training.loop import TrainSummary
from training.metrics import read_metrics

SPLITS = ("train", "validation")
NUM_SHOWN = len(MOTIONS)  # held-out clips in the report, one of each class
NUM_STEPS = 9


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """Sizes of the demo; the geometry is the recipe's."""

    videos: VideoSet
    teacher: TeacherPlan = field(default_factory=TeacherPlan)
    more_steps: Mapping[str, int] = field(default_factory=dict)  # name -> steps of the student of demo_NAME.yaml
    codec_seeds: int = 0  # of each student, on raw and on coded shards; 0 for no such comparison

    def __post_init__(self) -> None:
        least = len(MOTIONS)
        for name in ("num_train", "num_validation"):
            if getattr(self.videos, name) < least:
                raise ValueError(f"{name} is {getattr(self.videos, name)}; each of {least} classes needs a video")
        if self.codec_seeds and self.codec_seeds < LEAST_SEEDS:
            raise ValueError(f"codecs are compared by {self.codec_seeds} seed(s); give {LEAST_SEEDS} or more, or 0")


def run_demo(recipe: Recipe, plan: DemoPlan, out: Path) -> dict[str, Any]:
    """Run all steps into the folder `out`, replacing an earlier demo there.

    Returns:
        The report, as in `out/report.json`: all of it but "rates", "seconds" and "machine" is the same in every run on
        one machine.

    Raises:
        ValueError: `out` holds something else than an earlier demo.
        ShardError: a data set is damaged, incomplete or read differently by stock webdataset.
    """
    prepare(out)
    torch.set_num_threads(TORCH_THREADS)
    recipe = dataclasses.replace(recipe, teacher=TeacherConfig(id=str(out / "teacher"), projection_dim=None))
    clock = Clock(NUM_STEPS + bool(plan.codec_seeds))
    with clock.step("videos"):
        _make_videos(plan.videos, out)
    with clock.step("teacher"), track("training the teacher", total=plan.teacher.steps, unit="steps") as progress:
        teacher_top1 = make_teacher(plan.teacher, recipe.view, recipe.model, out / "teacher", progress)
    with clock.step("build"):
        builds = {split: _build(recipe, out, split) for split in SPLITS}
    with clock.step("verify"):
        _verify(out)
    with clock.step("read back"):
        readback = read_back(out / "train", recipe.data.global_batch_size, recipe.objective.mask_ratio)
    students = {"": recipe, **{name: _another_student(name, recipe, n) for name, n in plan.more_steps.items()}}
    trained = {}
    for name, one in students.items():
        with clock.step(f"train {system_of(one).title}" if name else "train"):
            job = Job(recipe=one, data={"": out / "train"}, run_dir=_run_dir(out, name), report=say)
            trained[name] = train(job)
    with clock.step("evaluate"):
        evaluations = _evaluate(recipe, plan, out)
    with clock.step("held out"):
        held_out, guesses = _score(students, out)
    compared = {}
    if plan.codec_seeds:
        with clock.step("codecs"):
            named = {system_of(one).name: one for one in students.values()}
            compared = {"codecs": compare_codecs(named, plan.codec_seeds, out)}
    report = {
        "recipe": recipe.system,
        "videos": dataclasses.asdict(plan.videos) | {"classes": [motion.template for motion in MOTIONS]},
        "teacher": dataclasses.asdict(plan.teacher) | {"top1": teacher_top1},
        "datasets": {split: _describe(build) for split, build in builds.items()},
        "readback": {"num_equal": readback.num_equal},
        **{f"train_{name}" if name else "train": _losses(summary) for name, summary in trained.items()},
        "evaluations": evaluations,
        "held_out": held_out,
        **compared,
        "rates": _rates(builds, readback, {system_of(students[name]).title: trained[name] for name in students}),
        "seconds": clock.seconds | {"total": sum(clock.seconds.values())},
        "machine": made_on(),
    }
    publish_json(out / "report.json", report)
    write_html(report, _shown(students, guesses, out), out / "report.html")
    return report


def _run_dir(out: Path, name: str) -> Path:
    """Where a student's run lies; "" is the first one."""
    return out / (name or "run")


def _score(students: Mapping[str, Recipe], out: Path) -> tuple[dict[str, Any], list[Guess]]:
    """How well each student guesses what is hidden, and what the first one says of some clips."""
    train_set, held_out = (ShardDataset.open(out / split) for split in SPLITS)
    scores, shown = {}, []
    for name, recipe in students.items():
        found, guesses = score_student(recipe, _run_dir(out, name), train_set, held_out, 0 if name else NUM_SHOWN)
        scores[name] = {"title": system_of(recipe).title, "about": system_of(recipe).loss} | dataclasses.asdict(found)
        shown += guesses
    return scores, shown


def _shown(students: Mapping[str, Recipe], guesses: Sequence[Guess], out: Path) -> Shown:
    courses = {
        name: Course(
            title=system_of(one).title,
            loss=system_of(one).loss,
            rows=read_metrics(_run_dir(out, name) / "metrics.jsonl"),
        )
        for name, one in students.items()
    }
    return Shown(visible=1 - students[""].objective.mask_ratio, courses=courses, guesses=guesses)


def _make_videos(videos: VideoSet, out: Path) -> None:
    with track("making videos", total=videos.total, unit="videos") as progress:
        make_videos(videos, out, workers=num_workers(), progress=progress)


def _build(recipe: Recipe, out: Path, split: str) -> BuildSummary:
    """Shards with targets; of the validation split too, as the student's guesses are compared with them."""
    source = _captioned(open_source(out / "videos", out / "labels", split))
    teacher = load_videomae_teacher(recipe.teacher, device="cpu")
    with track(f"building {split}", total=len(source.items), unit="clips") as progress:
        summary = build_dataset(
            source, out / split, recipe.view, recipe.build, teacher=teacher, split=split, progress=progress
        )
    if summary.num_failed:
        raise ShardError(f"{summary.num_failed} of the demo's own videos failed; see {out / split / 'failures.jsonl'}")
    return summary


def _captioned(source: Source) -> Source:
    """Each item's text as its only caption: what happens to which shapes, by the annotation's template."""
    items = tuple(dataclasses.replace(item, extra={**item.extra, "captions": [item.text]}) for item in source.items)
    return dataclasses.replace(source, items=items)


def _verify(out: Path) -> None:
    for split in SPLITS:
        with track(f"verifying {split}", total=ShardDataset.open(out / split).num_shards, unit="shards") as progress:
            found = verify_dataset(out / split, progress=progress)
        if found.problems:
            raise ShardError(f"{out / split} is damaged: {found.problems[0]}")


def _evaluate(recipe: Recipe, plan: DemoPlan, out: Path) -> dict[str, Any]:
    paths = {"train": out / "train", "val": out / "validation"}
    embed_captions(paths, out / "text_encoder")
    videos = plan.videos
    total = 2 * len(measures(recipe.evaluate, videos.num_train)) * (videos.num_train + videos.num_validation)
    with track("encoding for the evaluations", total=total, unit="clips") as progress:
        return evaluate_student(
            _run_dir(out, ""),
            paths,
            recipe.evaluate,
            seed=recipe.train.seed,
            threads=recipe.data.threads,
            advance=progress,
        )


def _describe(build: BuildSummary) -> dict[str, Any]:
    names = ("num_samples", "num_failed", "num_shards", "num_bytes", "digest")
    return {name: getattr(build, name) for name in names}


def _another_student(name: str, recipe: Recipe, steps: int) -> Recipe:
    """The recipe `demo_NAME` on the shards of the demo's own."""
    other: Recipe = load_recipe(f"demo_{name}")
    grid = {
        name: getattr(recipe.model, name) for name in ("num_frames", "image_size", "tubelet", "patch", "target_dim")
    }
    train_config = dataclasses.replace(other.train, steps=steps, checkpoint_every=steps)
    model = dataclasses.replace(other.model, **grid)
    return dataclasses.replace(other, teacher=recipe.teacher, model=model, data=recipe.data, train=train_config)


def _losses(trained: TrainSummary) -> dict[str, float]:
    return {"steps": trained.steps, "first_loss": trained.first_loss, "final_loss": trained.final_loss}


def _rates(
    builds: dict[str, BuildSummary], readback: Readback, trained: Mapping[str, TrainSummary]
) -> dict[str, float]:
    """Clips per second of everything that was timed."""
    rates = {f"build {split}": build.clips_per_second for split, build in builds.items()}
    rates |= {
        "read, stock webdataset": readback.webdataset_per_second,
        "read, whole samples": readback.whole_per_second,
        "read, what the mask needs": readback.masked_per_second,
        **{f"train {title}": summary.clips_per_second for title, summary in trained.items()},
    }
    return {name: round(rate, 1) for name, rate in rates.items()}

"""The steps of the SAM3 demo, one after the other, each with the code that the other commands run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluation.result import Result
from evaluation.standard_errors import paired
from shards.builder import build_dataset
from shards.format.errors import ShardError
from shards.format.publish import publish_json
from shards.verify import verify_dataset
from tools.demo.sam3_models import SIDE, make_models
from tools.demo.sam3_page import write_html
from tools.demo.sam3_plan import Sam3Plan
from tools.demo.sam3_videos import RestVideos, make_rest_videos
from tools.demo.steps import TORCH_THREADS, Clock, made_on, num_workers, prepare, say
from tools.evaluate.system import evaluate, recorded_recipe
from tools.job import Job
from tools.progress import track
from tools.recipe import load_recipe
from tools.systems import system_of
from tools.systems.mask_strips import strips_of_run
from tools.systems.sav_sets import SavRecipe
from tools.train import train

LEAST_FALL = 0.3  # of the overfit loss
LEAST_ERRORS = 3.0  # standard errors that another video's memory has to cost
# Data sets: without look-alikes, for the image stages; with them, for the memory; and a few, to be learnt by heart.
ALONE, TRAIN, HELD_OUT, FEW = "alone", "train", "validation", "few"
IMAGE, MAIN, BAG, CONSTANT, BY_HEART = "image", "video", "bag", "constant", "by_heart"  # runs
NUM_FEW = 16
# What is set of the recipes that real SA-V is trained by: sizes, rates, and the embeddings that they leave out.
COMMON = (
    f"--view.size={SIDE}",
    f"--teacher.image_size={SIDE}",
    "--build.samples_per_shard=64",
    "--build.teacher_batch=36",
    "--objects.mask_size=56",
    "--objects.most=1",  # a video has one
    "--data.global_batch_size=16",
    "--data.threads=2",
    "--data.evaluation_batch_size=32",
    "--optim.warmup=0.1",
    "--optim.lr=2.0e-3",
    "--train.chunk_size=null",
    "--train.device=cpu",
    "--train.precision=fp32",
    "--train.epochs=null",
    "--train.steps=1",  # of each run by itself
)
MEMORY = ("--model.num_latents=16", "--model.num_heads=4", "--model.ffn_dim=96", "--optim.lr=4.0e-3")
EMBEDDINGS = ("--model.time_embedding=true", "--model.cell_embedding=true")


@dataclass(frozen=True)
class Demo:
    """A demo under way.

    Attributes:
        plan: its sizes.
        out: its folder.
        clock: of its steps.
    """

    plan: Sam3Plan
    out: Path
    clock: Clock

    def recipe(self, name: str, *more: str) -> Any:
        """A shipped recipe at the demo's size."""
        return load_recipe(name, [*COMMON, f"--teacher.id={self.out / 'teacher'}", *more])

    def memory_recipe(self, *more: str, seed: int = 0) -> Any:
        """That of the memory stage."""
        student = f"--model.student={self.out / IMAGE}"
        return self.recipe("sam3_video", student, *MEMORY, f"--train.seed={seed}", *more)

    def make(self) -> dict[str, Any]:
        """Videos, models and data sets, of which it gives back the sizes."""
        sets = {
            ALONE: RestVideos(num_videos=self.plan.num_alone, seed=0, alike=False),
            TRAIN: RestVideos(num_videos=self.plan.num_train, seed=1),
            HELD_OUT: RestVideos(num_videos=self.plan.num_held_out, seed=2),
            FEW: RestVideos(num_videos=NUM_FEW, seed=3, alike=False),
        }
        folders = {self.out / "raw" / name: videos for name, videos in sets.items()}
        total = sum(one.num_videos for one in sets.values())
        with self.clock.step("videos"), track("making videos", total=total, unit="videos") as progress:
            make_rest_videos(folders, workers=num_workers(), progress=progress)
        with self.clock.step("build"):
            recipe = self.recipe("sam3_video")
            make_models(recipe.objects.prompts, self.out / "teacher", self.out / "student")
            return {name: self._build(recipe, name) for name in sets}

    def _build(self, recipe: SavRecipe, name: str) -> dict[str, Any]:
        system = system_of(recipe)
        source = system.open_source(recipe, self.out / "raw" / name, None, "train")
        with track(f"building {name}", total=len(source.items), unit="videos") as progress:
            summary = build_dataset(
                source,
                self.out / name,
                kind=system.sample_kind(recipe),
                config=recipe.build,
                teacher=system.make_teacher(recipe, "cpu"),
                split=name,
                progress=progress,
            )
        found = verify_dataset(self.out / name).problems
        if summary.num_failed or found:
            reason = found[0] if found else f"{summary.num_failed} of the demo's own videos failed"
            raise ShardError(f"{self.out / name}: {reason}")
        return {name: getattr(summary, name) for name in ("num_samples", "num_shards", "num_bytes", "digest")}

    def train(self, run: str, recipe: SavRecipe, steps: int, *, data: str = TRAIN, init: str | None = None) -> Any:
        """Train a run for some steps."""
        config = dataclasses.replace(recipe.train, steps=steps, checkpoint_every=steps, log_every=max(1, steps // 20))
        job = Job(
            recipe=dataclasses.replace(recipe, train=config),
            data={"": self.out / data},
            run_dir=self.out / run,
            init=None if init is None else self.out / init,
            report=say,
        )
        with self.clock.step(f"train {run}"):
            return train(job)

    def measure(self, run: str) -> Result:
        """Do what `reelshard evaluate masks` does, on the held-out videos; the page of it lies in the run."""
        run_dir = self.out / run
        recipe = load_recipe(recorded_recipe(run_dir), recorded=True)
        with self.clock.step(f"evaluate {run}"):
            report: Any = evaluate(recipe, run_dir, "masks", {"val": self.out / HELD_OUT})
        result: Result = report.results["trained"]
        return result


def run_sam3_demo(plan: Sam3Plan, out: Path) -> dict[str, Any]:
    """Run all steps into the folder `out`, replacing an earlier demo there.

    Returns:
        The report, as in `out/report.json`; its `problems` are lines of what did not come out as it has to.

    Raises:
        ValueError: `out` holds something else than an earlier demo.
        ShardError: a data set is damaged or incomplete.
    """
    prepare(out)
    torch.set_num_threads(TORCH_THREADS)
    runs = {
        f"{name}_{seed}" if seed else name: (seed, more)
        for seed in range(plan.num_seeds)
        for name, more in ((MAIN, EMBEDDINGS), (BAG, ()))
    }
    demo = Demo(plan, out, Clock(7 + 2 * len(runs)))
    sets = demo.make()
    student = f"--model.student={out / 'student'}"
    demo.train("features", demo.recipe("sam3_image_features", student), plan.feature_steps, data=ALONE)
    outputs = demo.recipe("sam3_image_outputs", student)
    image = demo.train(IMAGE, outputs, plan.image_steps, data=ALONE, init="features")
    by_heart = demo.train(BY_HEART, outputs, plan.by_heart_steps, data=FEW, init="features")
    demo.train(CONSTANT, demo.memory_recipe(*EMBEDDINGS, "--objective.memory=constant"), plan.memory_steps)
    for run, (seed, more) in runs.items():
        demo.train(run, demo.memory_recipe(*more, seed=seed), plan.memory_steps)
    results = {run: demo.measure(run) for run in (*runs, CONSTANT)}
    report: dict[str, Any] = {
        "plan": dataclasses.asdict(plan),
        "datasets": sets,
        "image": {"first_loss": image.first_loss, "final_loss": image.final_loss},
        "by_heart": {"first_loss": by_heart.first_loss, "final_loss": by_heart.final_loss},
        "constant": _compare(results[MAIN], results[CONSTANT]),
        "runs": {
            run: {"seed": seed, "embeddings": bool(more), "metrics": dict(results[run].metrics)}
            for run, (seed, more) in runs.items()
        },
        "intervals": dict(results[MAIN].intervals),
        "seconds": demo.clock.seconds | {"total": round(sum(demo.clock.seconds.values()), 1)},
        "machine": made_on(),
    }
    report["problems"] = problems(report)
    publish_json(out / "report.json", report)
    write_html(report, strips_of_run(out / MAIN, out / HELD_OUT), out / "report.html")
    return report


def _compare(right: Result, constant: Result) -> dict[str, float]:
    """What the loss of a run that was trained without a memory is above that of one with it, clip by clip."""
    columns = [torch.tensor([row["loss_right"] for row in result.rows]) for result in (right, constant)]
    difference, errors = paired(columns[0], columns[1], less_is_better=True)
    return {"loss": float(columns[1].mean()), "difference": difference, "errors": errors}


def problems(report: Mapping[str, Any]) -> list[str]:
    """A line for each promise that is not kept."""
    found = []
    by_heart, metrics = report["by_heart"], report["runs"][MAIN]["metrics"]
    fall = 1 - by_heart["final_loss"] / by_heart["first_loss"]
    if fall < LEAST_FALL:
        found.append(f"the loss of a few videos fell by {100 * fall:.0f} %, less than {100 * LEAST_FALL:.0f} %")
    errors = metrics.get("loss_gain_other_errors", 0.0)
    if errors < LEAST_ERRORS:
        found.append(
            f"the loss with another video's memory is {errors:.1f} standard errors above that with the right one, "
            f"fewer than {LEAST_ERRORS:.0f}"
        )
    if not report["constant"]["difference"] > 0:
        below = -report["constant"]["difference"]
        found.append(f"the run that was trained without a memory ends {below:.4f} below the one with it")
    return found

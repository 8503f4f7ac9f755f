"""The steps of the foveated VLM's demo, one after the other, each with the code that the other commands run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shards.builder import BuildSummary, build_dataset
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.publish import publish_bytes, publish_json
from shards.verify import verify_dataset
from tools.demo import fvlm_scenes as scenes
from tools.demo.fvlm_models import make_tokenizer
from tools.demo.fvlm_page import write_html
from tools.demo.fvlm_plan import STAGES, FoveatedPlan, recipe_path, refuse_own, write_recipes
from tools.demo.fvlm_seed import EXAM, SETS, TEXTS, SeedTask, plain, steps_done, with_seeds, work_on
from tools.demo.fvlm_verdict import checks_of, detail_of
from tools.demo.processes import in_processes
from tools.demo.steps import TORCH_THREADS, Clock, made_on, num_workers, prepare
from tools.demo.videos import draw_in_processes
from tools.pages.html import Html
from tools.progress import track
from tools.recipe import load_recipe
from tools.systems import system_of
from training.metrics import read_metrics

NUM_STEPS = 6
STAGE_OF = {SETS[1]: 1, SETS[2]: 2, TEXTS: 2, EXAM: 2}  # whose recipe builds a set


def run_demo(plan: FoveatedPlan, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run all steps into the folder `out`, replacing an earlier demo there.

    Args:
        plan: sizes.
        out: the folder.
        overrides: values on top of both stages' recipes.

    Returns:
        The report, as in `out/report.json`: all of it but "seconds" and "machine" is the same in every run on one
        machine.

    Raises:
        ValueError: `out` holds something else than an earlier demo, or a value is not the user's to give.
        ShardError: a data set is damaged or incomplete.
    """
    refuse_own(overrides)
    prepare(out)
    clock = Clock(NUM_STEPS)
    with clock.step("videos"), track("making videos", total=plan.num_films, unit="videos") as progress:
        (out / "videos").mkdir()
        draw = partial(scenes.make_films, plan.seed, out / "videos")
        draw_in_processes(draw, plan.num_films, workers=num_workers(), progress=progress)
    with clock.step("chats and tokenizer"):
        _write_chats(plan, out)
        write_recipes(plan, out)
    with clock.step("build"):
        builds = {name: _build(out, name) for name in STAGE_OF}
    with clock.step("verify"):
        _verify(out)
    with clock.step("train and examine"):
        seeds = _train_seeds(plan, out, overrides)
    with clock.step("look"):
        torch.set_num_threads(TORCH_THREADS)
        looks = _looks(out)
    report = {
        "plan": dataclasses.asdict(plan),
        "datasets": {name: _describe(build) for name, build in builds.items()},
        "seeds": [plain(one) for one in seeds],
        "detail": detail_of(seeds),
        "checks": [dataclasses.asdict(check) for check in checks_of(seeds)],
        "machine": made_on(),
    }
    report["seconds"] = clock.seconds | {"total": sum(clock.seconds.values())}
    publish_json(out / "report.json", report)
    write_html(report, looks, _rows(plan, out), out / "report.html")
    return report


def _write_chats(plan: FoveatedPlan, out: Path) -> None:
    """`out/NAME.jsonl` of each set, and the tokenizer, which learns from those that are trained on."""
    train, held_out = range(plan.num_train), range(plan.num_train, plan.num_films)
    chats = {
        SETS[1]: list(scenes.captions(plan.seed, train)),
        SETS[2]: list(scenes.lessons(plan.seed, train)),
        TEXTS: list(scenes.texts(plan.seed + 1, train)),
        EXAM: list(scenes.exam(plan.seed, held_out)),
    }
    for name, records in chats.items():
        publish_bytes(out / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
    make_tokenizer(_words(record for name in chats if name != EXAM for record in chats[name]), out / "tokenizer")


def _words(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        text
        for record in records
        for text in ([record["caption"]] if "caption" in record else [turn["content"] for turn in record["messages"]])
    ]


def _build(out: Path, name: str) -> BuildSummary:
    recipe = load_recipe(recipe_path(out, STAGE_OF[name]))
    if name == TEXTS:
        recipe = dataclasses.replace(recipe, chat=dataclasses.replace(recipe.chat, frames=False))
    system, split = system_of(recipe), "validation" if name == EXAM else "train"
    source = system.open_source(recipe, out / "videos", out / f"{name}.jsonl", split)
    with track(f"building {name}", total=len(source.items), unit="samples") as progress:
        summary = build_dataset(
            source,
            out / "sets" / name,
            config=recipe.build,
            kind=system.sample_kind(recipe),
            split=split,
            progress=progress,
        )
    if summary.num_failed:
        raise ShardError(
            f"{summary.num_failed} of the demo's own chats failed; see {out / 'sets' / name / 'failures.jsonl'}"
        )
    return summary


def _verify(out: Path) -> None:
    for name in STAGE_OF:
        folder = out / "sets" / name
        with track(f"verifying {name}", total=ShardDataset.open(folder).num_shards, unit="shards") as progress:
            found = verify_dataset(folder, progress=progress)
        if found.problems:
            raise ShardError(f"{folder} is damaged: {found.problems[0]}")


def _train_seeds(plan: FoveatedPlan, out: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Both stages and the exam of every seed, as many at once as there are cores."""
    tasks = with_seeds(SeedTask(out=out, seed=0, overrides=tuple(overrides)), plan.num_seeds)
    shown = 0
    with track("training", total=plan.num_seeds * sum(plan.steps), unit="steps") as progress:

        def look() -> None:
            nonlocal shown
            done = steps_done(tasks)
            if done > shown:
                progress(done - shown)
                shown = done

        workers = min(num_workers(), plan.num_seeds)
        found = list(in_processes(work_on, tasks, workers=workers, look=look))
    return sorted(found, key=lambda one: int(one["seed"]))


def _looks(out: Path) -> list[Html]:
    """Where the first seed's model looks in some held-out videos, and what it says of them."""
    from tools.systems.fvlm import FoveatedRecipe
    from tools.systems.fvlm_looks import show_looks
    from tools.trained import open_run

    recipe, objective, _ = open_run(SeedTask(out=out, seed=0).run_dir(STAGES[-1]))
    assert isinstance(recipe, FoveatedRecipe)
    held_out = {"val": ShardDataset.open(out / "sets" / EXAM)}
    return list(show_looks(recipe, objective.get_submodule("model"), held_out))


def _rows(plan: FoveatedPlan, out: Path) -> dict[str, Any]:
    """Metrics of each run."""
    tasks = with_seeds(SeedTask(out=out, seed=0), plan.num_seeds)
    return {
        f"seed {task.seed}, stage {stage}": read_metrics(task.run_dir(stage) / "metrics.jsonl")
        for task in tasks
        for stage in STAGES
    }


def _describe(build: BuildSummary) -> dict[str, Any]:
    names = ("num_samples", "num_failed", "num_shards", "num_bytes", "digest")
    return {name: getattr(build, name) for name in names}

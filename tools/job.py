"""A training job: data sets, batches, student and trainer, put together and not yet begun."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from model.weights import load_encoder
from pipeline.accelerator import Accelerator
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.views import refuse_other_views, single_view_hash, view_of
from tools.datasets import open_dataset, refuse_other_mix
from tools.loaders import TrainingLoader
from tools.measure import at_checkpoints
from tools.recipe import as_plain
from tools.systems import system_of
from tools.systems.base import Recipe, System
from training.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
from training.distributed import number_from_rank_zero, process_group, use_device
from training.initial import load_initial
from training.loop import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be trained, on what, where.

    Attributes:
        recipe: the resolved configuration.
        data: the training data sets by source; a single one may be called "".
        run_dir: the folder of the run.
        val: a held-out data set by its source, of which every checkpoint takes the loss; or none.
        evaluate: evaluations of the system that every checkpoint takes, by name.
        init: weights for the encoder, see `model.weights`; or another run's folder or checkpoint.
        resume: "never", "auto", or the path of a checkpoint.
        world: which of how many ranks this is.
        report: takes each line meant for the terminal; called on rank 0 only.
        command: what the run was started with, for the record.
        profile: steps of which a trace is written.
    """

    recipe: Recipe
    data: Mapping[str, Path]
    run_dir: Path
    val: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    evaluate: tuple[str, ...] = ()
    init: Path | None = None
    resume: str = "never"
    world: World = World()  # noqa: RUF009  (frozen)
    report: Callable[[str], None] = print
    command: str = ""
    profile: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenJob:
    """A job with everything opened.

    Attributes:
        job: what is to be done.
        recipe: with its steps counted out.
        datasets: by source.
        held_out: the held-out data set, or None.
        loader: of the training data.
        trainer: about to run.
        notes: lines for the terminal.
    """

    job: Job
    recipe: Recipe
    datasets: Mapping[str, ShardDataset]
    held_out: ShardDataset | None
    loader: TrainingLoader
    trainer: Trainer
    notes: Sequence[str]


@contextlib.contextmanager
def opened(job: Job) -> Iterator[OpenJob]:
    """Join the ranks, open the data, make the student, and go to where the run begins; close all of it in the end.

    Raises:
        ValueError: Data, recipe, weights and checkpoint do not fit together.
    """
    refuse_other_mix(job.recipe.data, job.data)
    device = job.recipe.train.torch_device(job.world.local_rank)
    use_device(device)
    accelerator = job.recipe.train.accelerator(job.world.local_rank)
    job.recipe.train.autocast_dtype(accelerator)  # refuses before anything is opened
    with process_group(job.world, device), contextlib.ExitStack() as stack:
        prepared = _prepare(job, accelerator, stack)
        notes = [*prepared.notes, *_resume(prepared.trainer, job.resume)]
        yield dataclasses.replace(prepared, notes=notes)


def _prepare(job: Job, accelerator: Accelerator, stack: contextlib.ExitStack) -> OpenJob:
    datasets = {name: open_dataset(path, job.recipe.data) for name, path in job.data.items()}
    torch.manual_seed(job.recipe.train.seed)
    system = system_of(job.recipe)
    objective = system.make_objective(job.recipe)
    loader = TrainingLoader(job.recipe, datasets, accelerator, job.world)
    stack.enter_context(contextlib.closing(loader))
    recipe = dataclasses.replace(job.recipe, train=job.recipe.train.resolved(loader.num_batches))
    held_out, validation, notes = _open_held_out(job, datasets, accelerator, stack)
    notes += [] if job.init is None else _load_weights(system, objective, job.init)
    by_role = {"train": datasets[next(iter(job.val), next(iter(datasets)))]}
    by_role |= {} if held_out is None else {"val": held_out}
    trainer = Trainer(
        objective,
        loader,
        config=recipe.train,
        optim=recipe.optim,
        recipe={**as_plain(recipe), "system": system.name},
        run_dir=job.run_dir,
        world=job.world,
        validation=validation,
        evaluations=at_checkpoints(recipe, job.evaluate, by_role, job.world),
        report=job.report,
        profile=job.profile,
        key_of=next(iter(datasets.values())).key if len(datasets) == 1 else "sample {}".format,
        view=_common_view(datasets),
    )
    return OpenJob(
        job=job,
        recipe=recipe,
        datasets=datasets,
        held_out=held_out,
        loader=loader,
        trainer=trainer,
        notes=notes,
    )


def _common_view(datasets: Mapping[str, ShardDataset]) -> dict[str, Any] | None:
    """The view that all sources show; None where they differ, or nobody wrote it down."""
    first, *others = (view_of(dataset.manifest) for dataset in datasets.values())
    return first if all(other == first for other in others) else None


def _open_held_out(
    job: Job, datasets: Mapping[str, ShardDataset], accelerator: Accelerator, stack: contextlib.ExitStack
) -> tuple[ShardDataset | None, TrainingLoader | None, list[str]]:
    """The held-out data set, its batches, and what was found when its view was compared with its source's."""
    if not job.val:
        return None, None, []
    ((name, path),) = job.val.items()
    if name not in datasets:
        raise ValueError(f"--val {path} names no source; give NAME={path} with one of {', '.join(datasets)}")
    held_out = open_dataset(path, job.recipe.data)
    seen = {datasets[name].place: datasets[name], held_out.place: held_out}
    views = {place: single_view_hash(dataset.manifest) for place, dataset in seen.items()}
    note = f"views    {refuse_other_views(views)}"
    loader = TrainingLoader(job.recipe, {name: held_out}, accelerator, job.world, held_out=True)
    stack.enter_context(contextlib.closing(loader))
    return held_out, loader, [note]


def _load_weights(system: System[Any], objective: nn.Module, path: Path) -> list[str]:
    if path.is_dir():
        return [f"weights  {load_initial(objective, path)}"]
    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); convert the weights to one") from error
    unused = load_encoder(system.encoder(objective), tensors)
    more = f"; not used: {', '.join(unused[:6])}{' ...' if len(unused) > 6 else ''}" if unused else ""
    return [f"weights  {path}: {len(tensors) - len(unused)} of {len(tensors)} tensors for the encoder{more}"]


def _resume(trainer: Trainer, resume: str) -> list[str]:
    """Go on from a checkpoint; rank 0 chooses which, so that all ranks take the same."""
    root = trainer.checkpoints
    if resume == "never":
        if list_checkpoints(root):
            raise ValueError(
                f"{trainer.run_dir} holds a run already; go on with --resume auto, or choose another --out"
            )
        return []
    path: Path | None = Path(resume)
    if resume == "auto":
        found = newest_checkpoint(root) if trainer.leads else None
        step = number_from_rank_zero(-1 if found is None else found.step, trainer.world, trainer.device)
        path = None if step < 0 else root / f"step-{step:08d}"
    if path is None:
        return []
    checkpoint = load_checkpoint(path)
    trainer.resume(checkpoint)
    return [f"resume   resuming after step {checkpoint.step}, from {path}"]

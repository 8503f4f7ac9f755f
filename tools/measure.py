"""One measurement of a student: an evaluation of its system, on data sets by role."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

from evaluation.result import Result
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.progress import Progress, untold
from tools.loaders import make_loader
from tools.splits import split_of
from tools.systems import system_of
from tools.systems.base import Evaluation, Recipe


def find_evaluation(recipe: Recipe, name: str) -> Evaluation:
    """What a system is measured by under a name.

    Raises:
        ValueError: It is not measured by that.
    """
    system = system_of(recipe)
    if name not in system.evaluators:
        there = ", ".join(system.evaluators) or "none"
        raise ValueError(f"there is no evaluation {name!r} of {system.title}; there are {there}")
    return system.evaluators[name]


def measure(
    recipe: Recipe,
    evaluation: Evaluation,
    objective: nn.Module,
    datasets: Mapping[str, ShardDataset],
    world: World,
    *,
    advance: Progress = untold,
) -> Result:
    """Measure an objective, in the precision that it is trained in.

    Args:
        recipe: the run's recipe.
        evaluation: one of its system's.
        objective: on the recipe's device, in evaluation mode.
        datasets: by role.
        world: the ranks, which each read their part and all get the result.
        advance: called with the number of samples after every batch.

    Raises:
        ValueError: If a data set is not what the evaluation needs.
    """
    accelerator = recipe.train.accelerator(world.local_rank)
    feed = evaluation.feed or system_of(recipe).feed
    with contextlib.ExitStack() as stack:
        splits = {}
        for role, dataset in datasets.items():
            loader = make_loader(recipe, dataset, feed(recipe, dataset), accelerator, world)
            stack.enter_context(contextlib.closing(loader))
            splits[role] = split_of(dataset, loader, advance)
        dtype = recipe.train.autocast_dtype(accelerator)
        stack.enter_context(torch.autocast(accelerator.device.type, dtype or torch.bfloat16, enabled=dtype is not None))
        return evaluation.measure(evaluation.model(objective), splits, evaluation.config(recipe), world)


def at_checkpoints(
    recipe: Recipe, names: tuple[str, ...], datasets: Mapping[str, ShardDataset], world: World
) -> dict[str, Callable[[nn.Module], Mapping[str, float]]]:
    """Evaluations by name, for a trainer to take at every checkpoint.

    Raises:
        ValueError: There is no such evaluation, or a data set that it needs is not there.
    """
    found = {}
    for name in names:
        evaluation = find_evaluation(recipe, name)
        if missing := [role for role in evaluation.roles if role not in datasets]:
            raise ValueError(f"--evaluate {name} needs the data {' and '.join(missing)}; give --val SET")
        chosen = {role: datasets[role] for role in evaluation.roles}
        found[name] = _metrics_of(recipe, evaluation, chosen, world)
    return found


def _metrics_of(
    recipe: Recipe, evaluation: Evaluation, datasets: Mapping[str, ShardDataset], world: World
) -> Callable[[nn.Module], Mapping[str, float]]:
    return lambda objective: measure(recipe, evaluation, objective, datasets, world).metrics

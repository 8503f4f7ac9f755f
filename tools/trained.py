"""A trained student out of the folder of its run: its recipe, and its objective at the newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.evaluate.system import recorded_recipe
from tools.recipe import load_recipe
from tools.systems import system_of

if TYPE_CHECKING:
    from torch import nn

    from tools.systems.base import Recipe


def open_run(run_dir: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, nn.Module, int]:
    """The recipe of a run with values on top, its objective on the recipe's device, to be used, and its step.

    Raises:
        ValueError: it is no folder of a run, or has no whole checkpoint.
    """
    import torch

    from training.checkpoint import newest_checkpoint
    from training.initial import restore

    recipe: Recipe = load_recipe(recorded_recipe(run_dir), overrides, recorded=True)
    checkpoint = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"{run_dir} has no whole checkpoint; train one with `reelshard train --out {run_dir}`")
    torch.manual_seed(recipe.train.seed)
    objective = system_of(recipe).make_objective(recipe)
    restore(objective, checkpoint)
    return recipe, objective.to(recipe.train.torch_device()).eval(), checkpoint.step

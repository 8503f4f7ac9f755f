"""What a recipe's `system` stands for: the student, its objective, and how the loader feeds it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from model.grid import GridConfig
from model.salt import SALT, SALTConfig
from model.st_jepa import STJEPA, STJEPAConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.order.draws import Mask, MultiBlockMask, RandomMask, TubeMask
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.beside import teacher_of
from shards.format.pixels import IMAGENET
from training.objectives.salt import SALTObjective, SALTObjectiveConfig
from training.objectives.st_jepa import STJEPAObjective, STJEPAObjectiveConfig

if TYPE_CHECKING:
    from tools.recipe import Recipe

Objective = STJEPAObjective | SALTObjective


def make_objective(recipe: Recipe) -> Objective:
    """A student with fresh weights from torch's generator, in its objective."""
    model, objective = recipe.model, recipe.objective
    if isinstance(model, SALTConfig) and isinstance(objective, SALTObjectiveConfig):
        return SALTObjective(SALT(model), objective)
    assert isinstance(model, STJEPAConfig)
    return STJEPAObjective(STJEPA(model))


def make_mask(model: GridConfig, objective: STJEPAObjectiveConfig | SALTObjectiveConfig) -> Mask:
    """The mask of an objective over a model's grid."""
    kind, ratio = getattr(objective, "mask", "tube"), objective.mask_ratio
    if kind == "random":
        return RandomMask(num_positions=model.num_tokens, ratio=ratio)
    if kind == "multiblock":
        side = model.image_size // model.patch
        return MultiBlockMask(grid=(side, side), ratio=ratio)
    return TubeMask(num_positions=model.num_positions, ratio=ratio)


def make_training_loader(
    recipe: Recipe,
    objective: Objective,
    dataset: ShardDataset,
    device: torch.device,
    world: World,
    *,
    held_out: bool = False,
) -> DeviceLoader:
    """Batches for the objective: of tubes, only what the mask leaves to be read.

    With `held_out`, every sample once and in order, for a validation loss.

    Raises:
        ValueError: If the data set's clips or targets are not of the model's geometry, or its targets are projected
            and the recipe wants the teacher's own values, or the other way round.
    """
    model, data = recipe.model, recipe.data
    refuse_other_geometry(dataset, model)
    refuse_other_projection(dataset, recipe)
    in_tubes = dataset.schema["clip"].layout == "tubes"
    config = dataclasses.replace(
        data,
        fields=objective.fields,
        gather=objective.gather if in_tubes else {},
        pin_memory=data.pin_memory or device.type == "cuda",
    )
    if held_out:
        config = dataclasses.replace(config, shuffle=False, drop_last=False)
    mask = make_mask(model, recipe.objective)
    return DeviceLoader(ShardLoader(dataset, config, mask, world), device, normalize={"clip": IMAGENET})


def make_evaluation_loader(recipe: Recipe, dataset: ShardDataset, device: torch.device) -> DeviceLoader:
    """Every sample once, in order, whole clips with their labels.

    Raises:
        ValueError: If the data set's clips are not of the model's geometry.
    """
    refuse_other_geometry(dataset, recipe.model, fields=("clip",))
    config = dataclasses.replace(recipe.data, shuffle=False, drop_last=False, fields=("clip", "label"), gather={})
    return DeviceLoader(ShardLoader(dataset, config), device, normalize={"clip": IMAGENET})


def make_video_loader(recipe: Recipe, dataset: ShardDataset, world: World) -> ShardLoader:
    """Whole clips as they are stored, in batches of the recipe's size, for `pipeline.dense.dense_video`."""
    return ShardLoader(dataset, dataclasses.replace(recipe.data, fields=("clip",), slabs=2), None, world)


def refuse_other_projection(dataset: ShardDataset, recipe: Recipe) -> None:
    """Tell a teacher's own values from projected ones of the same width, by what the data set says of itself.

    Raises:
        ValueError: Naming both.
    """
    teacher = teacher_of(dataset.manifest, dataset.schema["target"].group if "target" in dataset.schema else "")
    if teacher is None or "projection" not in teacher:
        return
    projected, wanted = teacher["projection"] is not None, recipe.teacher.projection_dim is not None
    if projected != wanted:
        kinds = ("the teacher's own values", "projected values")
        dim = recipe.model.target_dim if projected else "null"
        raise ValueError(
            f"{dataset.directory} holds {kinds[projected]} as targets, the recipe asks for {kinds[wanted]}: build with "
            f"the recipe, or train on these with --teacher.projection_dim {dim}"
        )


def refuse_other_geometry(
    dataset: ShardDataset, model: GridConfig, fields: tuple[str, ...] = ("clip", "target")
) -> None:
    """Compare the shapes on disk with those that the model is configured for.

    Raises:
        ValueError: Naming the field and both shapes, or the field that is not there.
    """
    size, tube = model.image_size, (model.tubelet, model.patch, model.patch, 3)
    grid = (model.num_positions, model.num_times)
    expected = {
        ("clip", True): (*grid, *tube),
        ("clip", False): (model.num_frames, size, size, 3),
        ("target", True): (*grid, model.target_dim),
        ("target", False): (model.num_tokens, model.target_dim),
    }
    for name in fields:
        if name not in dataset.schema:
            raise ValueError(f"{dataset.directory} has no field {name!r}; targets are made by a build with a teacher")
        field = dataset.schema[name]
        wanted = expected[name, field.layout == "tubes"]
        if field.shape != wanted:
            raise ValueError(
                f"{dataset.directory}: {name} has shape {field.shape} ({field.layout} layout), the model is configured "
                f"for {wanted}; use the recipe that the data set was built with, or change the model section"
            )

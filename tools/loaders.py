"""From data sets to batches: what the system reads, as the user has set it."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.world import World
from shards.dataset import ShardDataset
from tools.systems import system_of
from tools.systems.base import Feed, Recipe


def make_training_loader(
    recipe: Recipe, dataset: ShardDataset, device: torch.device, world: World, *, held_out: bool = False
) -> DeviceLoader:
    """Batches for the system's objective.

    With `held_out`, every sample once and in order, for a validation loss.

    Raises:
        ValueError: If the data set is not what the recipe is about.
    """
    feed = system_of(recipe).feed(recipe, dataset)
    if held_out:
        recipe = in_order(recipe)
    return make_loader(recipe, dataset, feed, device, world)


def in_order(recipe: Recipe) -> Recipe:
    """The same, reading every sample once and in order."""
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, shuffle=False, drop_last=False))


def make_loader(
    recipe: Recipe, dataset: ShardDataset, feed: Feed, device: torch.device, world: World | None = None
) -> DeviceLoader:
    """Batches of what `feed` names, on the device."""
    pinned = recipe.data.pin_memory or device.type == "cuda"
    config = dataclasses.replace(recipe.data, fields=feed.fields, gather=feed.gather, pin_memory=pinned)
    return DeviceLoader(ShardLoader(dataset, config, feed.mask, world), device, normalize=feed.normalize)

"""From data sets to batches: what the system reads of each, as the user has set it, and the mix of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.accelerator import Accelerator, accelerator_of
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from pipeline.mixed import MixedLoader
from pipeline.reads import Reads
from pipeline.source import BatchSource
from pipeline.world import World
from shards.dataset import ShardDataset
from tools.systems import system_of
from tools.systems.base import DataConfig, Feed, Recipe
from training.compiling import compile_mode

DataSets = Mapping[str, ShardDataset]  # source -> data set; a single one may be called ""


class TrainingLoader(DeviceLoader):
    """Batches for a system's objective from one data set, or from several in the shares of `data.mix`.

    Attributes:
        sources: the loader of each data set.
        feeds: what is read of each.
    """

    def __init__(
        self,
        recipe: Recipe,
        datasets: DataSets,
        device: torch.device | Accelerator,
        world: World,
        *,
        held_out: bool = False,
    ) -> None:
        """Prepare; nothing is read yet.

        With `held_out`, every sample of one data set once and in order, for a validation loss.

        Raises:
            ValueError: If a data set is not what the recipe is about, or no source has the lengths of a budget.
        """
        system, data, accelerator = system_of(recipe), recipe.data, accelerator_of(device)
        if held_out:
            data = dataclasses.replace(data, shuffle=False, drop_last=False, mix=None)
        self.feeds = {name: system.feed(recipe, dataset, name) for name, dataset in datasets.items()}
        if held_out:
            self.feeds = {name: _held_out(feed) for name, feed in self.feeds.items()}
        budgets = {name: _budget(data, datasets[name], feed.reads) for name, feed in self.feeds.items()}
        _refuse_unused_budget(data, budgets)
        self.sources = {
            name: ShardLoader(
                datasets[name],
                dataclasses.replace(data, length_budget=budgets[name]),
                world=world,
                reads=feed.reads,
                accelerator=accelerator,
            )
            for name, feed in self.feeds.items()
        }
        normalize = {field: pixels for feed in self.feeds.values() for field, pixels in feed.normalize.items()}
        compiled = compile_mode(recipe.train.compile, accelerator.device) is not None
        super().__init__(_joined(self.sources, data), accelerator, normalize=normalize, compiled=compiled)


def make_loader(
    recipe: Recipe,
    dataset: ShardDataset,
    feed: Feed,
    device: torch.device | Accelerator,
    world: World = World(),  # noqa: B008
) -> DeviceLoader:
    """Every sample of a data set once, in order, on the device, for an evaluation: what `feed` names of it."""
    accelerator, data = accelerator_of(device), recipe.data
    config = dataclasses.replace(
        data,
        global_batch_size=data.evaluation_batch_size * world.size,
        shuffle=False,
        drop_last=False,
        length_budget=_budget(data, dataset, feed.reads),
    )
    loader = ShardLoader(dataset, config, world=world, reads=_held_out(feed).reads, accelerator=accelerator)
    compiled = compile_mode(recipe.train.compile, accelerator.device) is not None
    return DeviceLoader(loader, accelerator, normalize=feed.normalize, compiled=compiled)


def record_of(config: LoaderConfig, reads: Reads) -> dict[str, Any]:
    """How a data set is read, as JSON: what the user has set and what the system needs."""
    record = dataclasses.asdict(config)
    record |= {"fields": list(reads.fields), "gather": dict(reads.gather)}
    record["draws"] = [str(draw) for draw in reads.draws]
    record["decoders"] = {name: str(decoder) for name, decoder in reads.decoders.items()}
    return record


def spell_batch(loader: TrainingLoader, recipe: Recipe, world: World) -> str:
    """How much is in a global batch, of each source where they differ."""
    found = {}
    for name, source in loader.sources.items():
        size, budget = source.config.global_batch_size, source.config.length_budget
        chunk = recipe.train.chunk_size
        if budget:
            most = " and ".join(f"{most:,} {length}" for length, most in budget.items())
            found[name] = f"at most {most} on {world.size} rank(s), {source.batch_size} samples each"
        else:
            chunks = f" in chunks of {chunk}" if chunk and chunk < size // world.size else ""
            found[name] = f"{size} = {world.size} rank(s) x {size // world.size}{chunks}"
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{name}: {text}" for name, text in found.items())


def _joined(sources: Mapping[str, ShardLoader], data: DataConfig) -> BatchSource:
    if data.mix is None:
        (single,) = sources.values()
        return single
    return MixedLoader(sources, data.mix)


def _held_out(feed: Feed) -> Feed:
    return dataclasses.replace(feed, reads=dataclasses.replace(feed.reads, held_out=True))


def _budget(data: DataConfig, dataset: ShardDataset, reads: Reads) -> Mapping[str, int] | None:
    """Of a length budget what a data set has lengths for."""
    known = {field.name for field in dataset.schema if field.is_rows or field.is_packed} | set(reads.lengths)
    return {name: most for name, most in (data.length_budget or {}).items() if name in known} or None


def _refuse_unused_budget(data: DataConfig, budgets: Mapping[str, Mapping[str, int] | None]) -> None:
    used = {name for budget in budgets.values() for name in budget or ()}
    if unused := [name for name in data.length_budget or () if name not in used]:
        raise ValueError(
            f"data.length_budget names {', '.join(unused)}, but no data set has lengths of that name: give a rows or "
            "packed field, or what the system counts"
        )

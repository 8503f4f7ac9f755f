"""How fast a data set is read as a recipe's system reads it, whatever its samples are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from pipeline.loader import ShardLoader
from pipeline.read.readers import ReaderName
from shards.dataset import ShardDataset
from tools.bench.storage import drop_cache
from tools.draws import bytes_per_draw
from tools.loaders import TrainingLoader
from tools.systems import system_of
from tools.systems.base import Recipe


@dataclass(frozen=True, kw_only=True)
class ReadRate:
    """One setting: the median over the rounds.

    Attributes:
        reader: how files are read.
        threads: reader threads.
        samples_per_second: on one rank.
        bytes_per_second: asked of storage.
    """

    reader: str
    threads: int
    samples_per_second: float
    bytes_per_second: float


def measure_reads(
    recipe: Recipe,
    path: Path,
    source: str,
    *,
    readers: Sequence[ReaderName],
    threads: Sequence[int],
    seconds: float,
    rounds: int,
    cold: bool,
) -> tuple[list[ReadRate], dict[str, float]]:
    """Measure every setting, in turn; and what a sample costs by the arithmetic of the draw.

    Raises:
        ValueError: The data set is not what the recipe is about, or a sample could not be read.
    """
    from pipeline.world import World

    dataset = ShardDataset.open(path)
    paths = [dataset.tar_path(shard, group) for group in dataset.schema.groups for shard in range(dataset.num_shards)]
    single = replace(recipe, data=replace(recipe.data, mix=None))
    loader = TrainingLoader(single, {source: dataset}, torch.device("cpu"), World())
    (shards,) = loader.sources.values()
    found: dict[tuple[ReaderName, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for reader in readers:
            for count in threads:
                if cold:
                    drop_cache(paths)
                config = replace(shards.config, reader=reader, threads=count)
                with ShardLoader(dataset, config, reads=shards.reads) as contender:
                    found.setdefault((reader, count), []).append(_rate(contender, seconds))
    rates = [
        ReadRate(
            reader=reader,
            threads=count,
            samples_per_second=statistics.median(samples for samples, _ in measured),
            bytes_per_second=statistics.median(num_bytes for _, num_bytes in measured),
        )
        for (reader, count), measured in found.items()
    ]
    return rates, bytes_per_draw(dataset, shards.reads)


def _rate(loader: ShardLoader, seconds: float) -> tuple[float, float]:
    """Samples and bytes a second over whole epochs, at least one."""
    began = perf_counter()
    while (spent := perf_counter() - began) < seconds or not loader.stats().num_batches:
        for batch in loader:
            broken = batch["index"][~batch["valid"] & (batch["index"] >= 0)].tolist()
            if broken:
                raise ValueError(f"samples {broken} could not be read; `reelshard verify` lists what is wrong")
            del batch
        spent = perf_counter() - began
    stats = loader.stats()
    return stats.num_samples / spent, stats.num_bytes / spent


def report(recipe: Recipe, rates: Sequence[ReadRate], draw: dict[str, float], machine: str) -> dict[str, Any]:
    """Print a table, and return it as JSON."""
    from rich.console import Console
    from rich.table import Table

    per_sample = sum(draw.values())
    title = f"{system_of(recipe).title} reads {per_sample:,.0f} bytes a sample, on {machine}"
    table = Table("reader", "threads", "samples/s", "GB/s", title=title)
    for rate in rates:
        cells = (f"{rate.samples_per_second:,.0f}", f"{rate.bytes_per_second / 1e9:.2f}")
        table.add_row(rate.reader, str(rate.threads), *cells)
    Console().print(table)
    return {"machine": machine, "bytes_per_draw": draw, "rates": [asdict(rate) for rate in rates]}

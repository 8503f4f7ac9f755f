"""How fast a data set is read as a recipe's system reads it, whatever its samples are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from pipeline.loader import ShardLoader
from pipeline.read.readers import ReaderName
from tools.bench.storage import drop_cache
from tools.datasets import open_dataset
from tools.draws import bytes_per_draw
from tools.loaders import TrainingLoader
from tools.systems import system_of
from tools.systems.base import Recipe


@dataclass(frozen=True)
class ReadRate:
    """One setting: the median over the rounds.

    Attributes:
        reader: how files are read.
        threads: reader threads.
        samples_per_second: on one rank.
        bytes_per_second: asked of storage.
        decoded_per_second: pieces, such as JPEG frames; 0 where nothing is decoded.
        decoded_per_core: in a second of the processor time that decoders take.
        decode_share: of the processor time of the whole process.
    """

    reader: str
    threads: int
    samples_per_second: float
    bytes_per_second: float
    decoded_per_second: float = 0.0
    decoded_per_core: float = 0.0
    decode_share: float = 0.0


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

    dataset = open_dataset(path, recipe.data)
    paths = [dataset.tar_path(shard, group) for group in dataset.schema.groups for shard in range(dataset.num_shards)]
    single = replace(recipe, data=replace(recipe.data, mix=None))
    loader = TrainingLoader(single, {source: dataset}, torch.device("cpu"), World())
    (shards,) = loader.sources.values()
    found: dict[tuple[ReaderName, int], list[tuple[float, ...]]] = {}
    for _ in range(rounds):
        for reader in readers:
            for count in threads:
                if cold:
                    drop_cache(paths)
                config = replace(shards.config, reader=reader, threads=count)
                with ShardLoader(dataset, config, reads=shards.reads) as contender:
                    found.setdefault((reader, count), []).append(_rate(contender, seconds))
    rates = [
        ReadRate(reader, count, *map(statistics.median, zip(*measured, strict=True)))
        for (reader, count), measured in found.items()
    ]
    return rates, bytes_per_draw(dataset, shards.reads)


def _rate(loader: ShardLoader, seconds: float) -> tuple[float, ...]:
    """The numbers of a `ReadRate` over whole epochs, at least one."""
    began, used = perf_counter(), process_time()
    while (spent := perf_counter() - began) < seconds or not loader.stats().num_batches:
        for batch in loader:
            broken = batch["index"][~batch["valid"] & (batch["index"] >= 0)].tolist()
            if broken:
                raise ValueError(f"samples {broken} could not be read; `reelshard verify` lists what is wrong")
            del batch
        spent = perf_counter() - began
    stats, used = loader.stats(), process_time() - used
    per_core = stats.num_decoded / stats.decode_seconds if stats.decode_seconds else 0.0
    rates = (stats.num_samples / spent, stats.num_bytes / spent, stats.num_decoded / spent)
    return *rates, per_core, stats.decode_seconds / used


def report(recipe: Recipe, rates: Sequence[ReadRate], draw: dict[str, float], machine: str) -> dict[str, Any]:
    """Print a table, and return it as JSON."""
    from rich.console import Console
    from rich.table import Table

    per_sample = sum(draw.values())
    title = f"{system_of(recipe).title} reads {per_sample:,.0f} bytes a sample, on {machine}"
    decodes = any(rate.decoded_per_second for rate in rates)
    further = ("decoded/s", "decoded/s a core", "of CPU time decoding") if decodes else ()
    table = Table("reader", "threads", "samples/s", "GB/s", *further, title=title)
    for rate in rates:
        cells: tuple[str, ...] = (f"{rate.samples_per_second:,.0f}", f"{rate.bytes_per_second / 1e9:.2f}")
        if decodes:
            cells += (f"{rate.decoded_per_second:,.0f}", f"{rate.decoded_per_core:,.0f}", f"{rate.decode_share:.0%}")
        table.add_row(rate.reader, str(rate.threads), *cells)
    Console().print(table)
    return {"machine": machine, "bytes_per_draw": draw, "rates": [asdict(rate) for rate in rates]}

"""Data sets elsewhere: a server of files on this machine, a cache of its own for each test, and ranks that read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from pipeline.batch.batch import Batch
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.world import World
from shards.cache.folder import Cache
from shards.dataset import ShardDataset
from tests.builds import ROOT

MASKED: dict[str, Any] = {"gather": {"clip": "visible", "target": "masked"}}


def load(dataset: ShardDataset, world: World = World(), **config: Any) -> ShardLoader:  # noqa: B008
    """A loader of masked rows."""
    values = {"global_batch_size": 4, "drop_last": False, "window": 2, **MASKED, **config}
    return ShardLoader(dataset, LoaderConfig(**values), TubeMask(num_positions=16), world)


def rows_of(batch: Batch) -> list[tuple[int, str]]:
    """Sample number, and a digest of all else, of each valid row."""
    names = sorted(name for name in batch if name not in ("index", "valid"))
    found = []
    for row, (number, valid) in enumerate(zip(batch["index"].tolist(), batch["valid"].tolist(), strict=True)):
        if valid:
            data = b"".join(batch[name][row].contiguous().numpy().tobytes() for name in names)
            found.append((number, xxhash.xxh3_64_hexdigest(data)))
    return found


def epoch_of(loader: ShardLoader) -> list[list[tuple[int, str]]]:
    """The rows of every batch of an epoch."""
    return [rows_of(batch) for batch in loader]


def run_ranks(url: str, count: int, cache: Path, *, epochs: int = 1, **more: str) -> list[list[tuple[int, str]]]:
    """The global batches that ranks in processes of their own read."""
    processes = start_ranks(url, count, cache, epochs=epochs, **more)
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    parts = [json.loads(output) for output, _ in outputs]
    return [[(row, digest) for part in batch for row, digest in part] for batch in zip(*parts, strict=True)]


def start_ranks(url: str, count: int, cache: Path, *, epochs: int = 1, **more: str) -> Sequence[subprocess.Popen[str]]:
    """Begin to read."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "REELSHARD_CACHE": str(cache), **more}
    command = [sys.executable, "-m", "tests.remote_sets", url, str(epochs)]
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def open_cached(url: str, folder: Path, quota: str | None = None) -> ShardDataset:
    """A data set elsewhere with a cache of its own."""
    return ShardDataset.open(url, Cache(folder, quota))


if __name__ == "__main__":
    reader = load(ShardDataset.open(sys.argv[1]), World.from_env())
    print(json.dumps([batch for _ in range(int(sys.argv[2])) for batch in epoch_of(reader)]))
    reader.close()

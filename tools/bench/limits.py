"""What does not depend on the speed of memory: interpreter time, state, start-up with a million samples."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xxhash

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
from shards.format.extents import Extents
from shards.format.index import ShardIndex, ShardInfo, save_index
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tools.bench.contenders import Case, Reelshard
from tools.bench.synthesize import POSITIONS

NUM_SMALL_SAMPLES = 2048
NUM_SHARDS, SAMPLES_PER_SHARD = 3400, 295
SLOT_BYTES = 16384


def small_samples(directory: Path) -> ShardDataset:
    """A data set with the fields and positions of the reference geometry, but a few bytes a tube."""
    schema = Schema(
        (
            Field(name="clip", dtype="|u1", shape=(POSITIONS, 8), layout="tubes"),
            Field(name="target", dtype="<f2", shape=(POSITIONS, 4), layout="tubes"),
        )
    )
    infos = []
    for shard in range(8):
        with ShardWriter(directory / shard_name("train", shard, 8), schema) as writer:
            for number in range(shard, NUM_SMALL_SAMPLES, 8):
                clip, target = np.zeros((POSITIONS, 8), np.uint8), np.zeros((POSITIONS, 4), np.float16)
                writer.write(f"{number:06d}", {"clip": clip, "target": target})
        infos.append(writer.info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


def python_seconds_per_clip(case: Case) -> float:
    """Processor time per clip where there is next to nothing to copy: the interpreter's share; best of five epochs.

    On one core: threads that only run Python hand the interpreter's lock to and fro, and between two cores each time
    costs several microseconds. Threads that copy clips hold the lock too seldom for that.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # the reader threads start later and inherit it
    try:
        return min(_epochs_of_small_samples(case, count=5))
    finally:
        os.sched_setaffinity(0, cores)


def _epochs_of_small_samples(case: Case, count: int) -> Iterator[float]:
    with tempfile.TemporaryDirectory() as directory:
        contender = Reelshard(small_samples(Path(directory)), case, "mmap")
        for _ in range(count):
            began, clips = time.process_time(), 0
            for batch in contender.loader:
                clips += len(batch["index"])
            yield (time.process_time() - began) / clips


def synthesize_sidecars(directory: Path, num_shards: int = NUM_SHARDS) -> ShardDataset:
    """A data set of `num_shards` x 295 samples: real sidecars and manifest, sparse tars that hold nothing but zeros."""
    zeros = np.full(SAMPLES_PER_SHARD, xxhash.xxh3_64_intdigest(bytes(4096)), "<u8")
    schema = Schema((Field(name="clip", dtype="|u1", shape=(4096,)),))
    offsets = np.arange(SAMPLES_PER_SHARD, dtype="<u8") * SLOT_BYTES + SLOT_BYTES // 2
    extents = Extents(offsets, np.full(SAMPLES_PER_SHARD, 4096, "<u8"), zeros)
    infos = []
    for shard in range(num_shards):
        path = directory / shard_name("train", shard, num_shards)
        info = ShardInfo(path.name, SAMPLES_PER_SHARD, SAMPLES_PER_SHARD * SLOT_BYTES, f"{shard:032x}")
        with path.open("wb") as file:
            file.truncate(info.num_bytes)
        first = shard * SAMPLES_PER_SHARD
        keys = "\n".join(f"{number:08d}" for number in range(first, first + SAMPLES_PER_SHARD)).encode()
        save_index(ShardIndex(info, schema, keys, {"clip": extents}), path)
        infos.append(info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


def first_batch(directory: Path) -> dict[str, Any]:
    """Open a data set as a new process would and ask for one batch: seconds, sidecars read, and the state's cost."""
    began = perf_counter()
    dataset = ShardDataset.open(directory)
    loader = ShardLoader(dataset, LoaderConfig(fields=("clip",), slabs=2, threads=2))
    batch = next(iter(loader))
    seconds = perf_counter() - began
    del batch
    began = perf_counter()
    state = loader.state_dict()
    state_seconds = perf_counter() - began
    return {
        "samples": len(dataset),
        "shards": dataset.num_shards,
        "first_batch_seconds": seconds,
        "sidecars_read": dataset.num_open_sidecars,
        "state_seconds": state_seconds,
        "state_bytes": len(json.dumps(state)),
    }


def measure_limits(case: Case) -> dict[str, Any]:
    """All of the above, as JSON."""
    with tempfile.TemporaryDirectory() as directory:
        synthesize_sidecars(Path(directory))
        limits = first_batch(Path(directory))
    return limits | {"python_seconds_per_clip": python_seconds_per_clip(replace(case, threads=1))}

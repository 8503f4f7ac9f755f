"""How fast batches come of the same samples stored by each codec, as they are read and as they are once decoded."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.config import LoaderConfig
from shards.dataset import ShardDataset
from shards.exchange.reshard import Cut, encode_fields, plan_reshard, unchanged
from shards.exchange.selection import Selection
from shards.format.publish import publish_json
from shards.progress import Progress
from tools.bench.check import EVERY, Checker
from tools.bench.child import run_epoch
from tools.bench.contenders import Case, InSlab, Reelshard
from tools.bench.report import bytes_per_clip
from tools.progress import track

MEMORY_SHARE = 0.6  # of what is free, for all copies, which are read from the page cache, and the batches of a way
DISK_SHARE = 0.9  # of what is free there, for all copies
MOST_SAMPLES = 4096  # 45 GB of copies of the reference geometry, and minutes of encoding
CODECS: Mapping[str, Mapping[str, str | None]] = {
    "raw": {},
    "yuv420": {"clip": "yuv420"},
    "int8": {"target": "int8"},
    "both": {"clip": "yuv420", "target": "int8"},
}
MEASURED = ("clip", "target")
IN_SLAB, DECODED = "as stored", "decoded"  # for a GPU that decodes, and by the reader threads
WAYS: Mapping[str, type[Reelshard]] = {IN_SLAB: InSlab, DECODED: Reelshard}
NODE_BYTES_PER_SECOND, NUM_GPUS = 14e9, 8  # one PCIe 5 NVMe


@dataclass(kw_only=True)
class Measured:
    """One way to store samples.

    Attributes:
        name: of `CODECS`.
        clip_bytes: of clip and target that reach a batch.
        whole_bytes: of clip and target that lie in a shard.
        turns: (way, number of threads) -> of each turn clips/s, and clips in a second of a core.
        fidelity: field -> how near its codec comes, in words.
    """

    name: str
    clip_bytes: int
    whole_bytes: int
    turns: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)
    fidelity: dict[str, str] = field(default_factory=dict)

    def rates(self, way: str, threads: int) -> list[float]:
        """Clips/s, and clips in a second of a core: medians over the turns."""
        return [statistics.median(values) for values in zip(*self.turns[way, threads], strict=True)]

    def ratios(self, way: str, threads: int, raw: Measured) -> list[float]:
        """How many times those of `raw`: medians over the turns, each of which had its own share of the machine."""
        pairs = zip(self.turns[way, threads], raw.turns[way, threads], strict=True)
        ratios = [[mine / theirs for mine, theirs in zip(*pair, strict=True)] for pair in pairs]
        return [statistics.median(values) for values in zip(*ratios, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        sizes = {"clip_bytes": self.clip_bytes, "whole_bytes": self.whole_bytes}
        turns = {f"{way}, {threads} threads": found for (way, threads), found in self.turns.items()}
        return {"name": self.name, **sizes, "turns": turns, "fidelity": self.fidelity}


def run(args: argparse.Namespace, dataset: ShardDataset, machine: str) -> int:
    """Measure every codec in turn, and report."""
    if len(dataset) < args.batch_size:
        raise ValueError(f"{len(dataset)} samples do not fill one batch of {args.batch_size}")
    count = _num_samples(dataset, args.batch_size, args.mask)
    with tempfile.TemporaryDirectory(prefix=".codecs-", dir=dataset.directory.resolve().parent) as folder:
        with track("storing", total=len(CODECS) * count, unit="samples") as advance:
            how = {"count": count, "mask_ratio": args.mask, "progress": advance}
            stored = [_store(dataset, name, Path(folder), **how) for name in CODECS]
        with track("measuring", total=len(WAYS) * args.rounds * len(args.threads), unit="rounds") as advance:
            _measure(stored, args, advance)
    _report([measured for measured, _ in stored], args.mask, machine)
    if args.json:
        publish_json(args.json, {"machine": machine, "codecs": [measured.to_json() for measured, _ in stored]})
    return 0


def _num_samples(dataset: ShardDataset, batch_size: int, mask_ratio: float | None) -> int:
    """As many as fit: an epoch is to be long, since it begins with idle threads and ends with some.

    Raises:
        ValueError: the disk has no room for one batch.
    """
    fields = [replace(dataset.schema[name], codec=kept.get(name)) for kept in CODECS.values() for name in MEASURED]
    batches = len(CODECS) * LoaderConfig().slabs * batch_size * bytes_per_clip(dataset, mask_ratio)
    num_bytes = sum(field.num_bytes for field in fields)
    in_memory = int((MEMORY_SHARE * psutil.virtual_memory().available - batches) / num_bytes)
    folder = dataset.directory.resolve().parent
    free = shutil.disk_usage(folder).free
    if (on_disk := int(DISK_SHARE * free / num_bytes)) < batch_size:
        raise ValueError(
            f"--codecs stores at least a batch, here {batch_size} samples, in {len(CODECS)} ways beside the data set: "
            f"{batch_size * num_bytes / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB free. Make room there, or "
            "take a smaller --batch-size"
        )
    return min(len(dataset), on_disk, max(batch_size, min(MOST_SAMPLES, in_memory)))


def _store(
    dataset: ShardDataset, name: str, folder: Path, *, count: int, mask_ratio: float | None, progress: Progress
) -> tuple[Measured, ShardDataset]:
    """`count` samples of the data set, stored by the codecs of this name in shards as large as its own."""
    changes = encode_fields(unchanged(dataset), CODECS[name])
    rewrite = plan_reshard(dataset, Selection(sample=count), Cut(), changes)
    out = folder / name
    rewrite.run(out, progress=progress)
    copy = ShardDataset.open(out)
    clip_bytes, whole_bytes = bytes_per_clip(copy, mask_ratio), bytes_per_clip(copy, None)
    fidelity = {field: str(found) for part in rewrite.fidelity[:1] for field, found in part.items()}
    return Measured(name=name, clip_bytes=clip_bytes, whole_bytes=whole_bytes, fidelity=fidelity), copy


def _measure(stored: Sequence[tuple[Measured, ShardDataset]], args: argparse.Namespace, progress: Progress) -> None:
    """For each way every codec in turn, epoch by epoch: the speed of memory changes on a shared machine."""
    for way, make in WAYS.items():
        checkers = {one.name: Checker(data, as_stored=way == IN_SLAB) for one, data in stored}
        for threads in args.threads:
            case = Case(mask_ratio=args.mask, batch_size=args.batch_size, threads=threads)
            turns = [(one, make(data, case, "mmap")) for one, data in stored]
            for measured, contender in turns:
                run_epoch(contender, checkers[measured.name])  # to warm up
            for _ in range(args.rounds):
                deadline = perf_counter() + args.seconds * len(turns)
                while perf_counter() < deadline:
                    for measured, contender in turns:
                        used = process_time()
                        samples, spent, _ = run_epoch(contender, checkers[measured.name], EVERY)
                        found = (samples / spent, samples / (process_time() - used))
                        measured.turns.setdefault((way, threads), []).append(found)
                progress(1)
            for _, contender in turns:
                contender.loader.close()


def _report(measured: Sequence[Measured], mask_ratio: float | None, machine: str) -> None:
    console, raw = Console(), measured[0]
    what = "whole" if mask_ratio is None else f"masked at {mask_ratio:g}"
    columns = ("stored as", "batches", "bytes a clip", "clips/s", "to raw", "clips/s a core", "to raw")
    for threads in dict.fromkeys(threads for _, threads in raw.turns):
        table = Table(*columns, title=f"clips {what}, {threads} threads, on {machine}")
        for way in WAYS:
            for one in measured:
                pairs = zip(one.rates(way, threads), one.ratios(way, threads, raw), strict=True)
                cells = [cell for rate, ratio in pairs for cell in (f"{rate:,.0f}", f"{ratio:.2f} x")]
                table.add_row(one.name, way, f"{one.clip_bytes:,}", *cells)
        console.print(table)
    table = Table("stored as", "bytes of a whole clip", "clips/s from 14 GB/s", "each of 8 GPUs")
    for one in measured:
        node = NODE_BYTES_PER_SECOND / one.whole_bytes
        table.add_row(one.name, f"{one.whole_bytes:,}", f"{node:,.0f}", f"{node / NUM_GPUS:,.0f}")
    console.print(table)
    for name, found in measured[-1].fidelity.items():
        console.print(f"{name} as its codec stores it: {found}", markup=False)

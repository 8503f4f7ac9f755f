"""`reelshard bench --remote`: a data set in a store elsewhere, beside bare obstore and beside the same set here."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.read.prefetch import REQUESTS
from pipeline.reads import Reads
from shards.cache.fetch import into_runs, members_of
from shards.cache.folder import Cache
from shards.dataset import ShardDataset
from shards.store.urls import without_secrets
from shards.words import spell_bytes
from tools.bench.link import Link
from tools.bench.serve import served

FIELDS = ("clip", "target")
RATIOS = {"cold_of_bare": ("cold", "bare"), "cold_of_kept": ("cold", "kept"), "warm_of_local": ("warm", "local")}
Request = tuple[str, int, int]


def run_remote(args: argparse.Namespace) -> int:
    """Measure, in turn, and print; for each link that is given."""
    local = ShardDataset.open(args.data)
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1"]))
    results = []
    for rate in args.link or (None,):
        link = Link(math.inf if rate is None else rate * 1e6, (args.latency or 0.0) / 1e3)
        found = _measure(args, local, link)
        if args.remote == "serve":
            found |= {"link_mb_per_second": rate, "latency_milliseconds": args.latency or 0.0}
        results.append(found)
        print("\n".join(_lines(found, _spell_place(args, link), len(local))), flush=True)
    if args.json:
        from shards.format.publish import publish_json

        publish_json(args.json, results)
    return 0


def _measure(args: argparse.Namespace, local: ShardDataset, link: Link) -> dict[str, Any]:
    """Medians of all rounds, of rates and of the ratios in a round."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(served(local.directory, link)) if args.remote == "serve" else args.remote
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=local.directory.parent)))
        rounds = [_round(args, local, url, scratch / str(number)) for number in range(args.rounds)]
    found: dict[str, Any] = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for ratio, (name, beside) in RATIOS.items():
        found[ratio] = statistics.median(each[name] / each[beside] for each in rounds)
    return found


def _spell_place(args: argparse.Namespace, link: Link) -> str:
    if args.remote != "serve":
        return without_secrets(args.remote)
    rate = "" if math.isinf(link.bytes_per_second) else f" of {link.bytes_per_second / 1e6:,g} MB/s"
    if not rate and not link.latency_seconds:
        return "an HTTP server on this machine"
    return f"an HTTP server on this machine behind a link{rate} with {link.latency_seconds * 1e3:g} ms of latency"


def _round(args: argparse.Namespace, local: ShardDataset, url: str, folder: Path) -> dict[str, float]:
    """One measurement of each."""
    elsewhere = ShardDataset.open(url, Cache(folder, 2 * local.manifest.num_bytes))
    assert elsewhere.mirror is not None
    if elsewhere.digest != local.digest:
        raise ValueError(f"{url} is another data set than {local.directory}: give the same one")
    requests = list(_requests(elsewhere))
    num_bytes = sum(stop - start for _, start, stop in requests)
    payload = sum(int(local.sizes(name).sum()) for name in FIELDS)
    found = {"bare": num_bytes / _seconds(lambda: _fetch_bare(elsewhere, requests))}
    with tempfile.TemporaryFile(dir=elsewhere.directory) as file:
        found["kept"] = num_bytes / _seconds(lambda: _fetch_bare(elsewhere, requests, file.fileno()))
    with _loader(args, elsewhere) as cold:
        found["cold"] = num_bytes / _seconds(lambda: _epoch(cold))
    traffic = elsewhere.mirror.traffic
    found |= {"requests_per_sample": traffic.requests / len(local), "amplification": traffic.num_bytes / payload}
    with _loader(args, elsewhere) as warm, _loader(args, local) as here:
        for loader in (warm, here):
            _epoch(loader)
        times: dict[str, list[float]] = {"warm": [], "local": []}
        for _ in range(3):
            times["warm"].append(_seconds(lambda: _epoch(warm)))
            times["local"].append(_seconds(lambda: _epoch(here)))
    found |= {name: len(local) / min(each) for name, each in times.items()}
    shutil.rmtree(folder)
    return found


def _loader(args: argparse.Namespace, dataset: ShardDataset) -> ShardLoader:
    config = LoaderConfig(
        global_batch_size=args.batch_size,
        threads=args.threads[0],
        drop_last=False,
        window=16,
        reader="mmap",
        verify="never",
    )
    reads = Reads(fields=FIELDS)
    if args.mask is not None:
        mask = TubeMask(num_positions=dataset.schema["clip"].fixed_shape[0], ratio=args.mask)
        reads = Reads(fields=FIELDS, draws=(mask,), gather={"clip": "visible", "target": "masked"})
    return ShardLoader(dataset, config, reads=reads)


def _requests(dataset: ShardDataset) -> Iterator[Request]:
    """What the loader asks for in an epoch with an empty cache."""
    assert dataset.mirror is not None
    for shard in range(dataset.num_shards):
        tar = dataset.mirror.tar(dataset.index(shard))
        for chunk in np.unique(tar.chunks).tolist():
            for run in into_runs(members_of(tar, np.flatnonzero(tar.chunks == chunk).tolist(), FIELDS)):
                yield tar.index.info.name, run[0].start, run[-1].stop


def _fetch_bare(dataset: ShardDataset, requests: list[Request], keep: int | None = None) -> None:
    """The same requests by obstore alone, as many at a time; what comes is thrown away, or written to a file."""
    from shards.store.remote import RemoteStore

    assert dataset.mirror is not None
    store = dataset.mirror.store
    assert isinstance(store, RemoteStore)

    def fetch(request: Request, place: int) -> None:
        name, start, stop = request
        data = store.inner.get_range(name, start=start, end=stop)
        if keep is not None:
            os.pwrite(keep, data, place)

    places = itertools.accumulate((stop - start for _, start, stop in requests), initial=0)
    with ThreadPoolExecutor(REQUESTS) as pool:
        for _ in pool.map(fetch, requests, places):
            pass


def _epoch(loader: ShardLoader) -> None:
    for batch in loader:
        del batch


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _lines(found: dict[str, Any], where: str, num_samples: int) -> list[str]:
    shares = f"{found['cold_of_bare']:.2f} and {found['cold_of_kept']:.2f} of these"
    rates = {name: f"{spell_bytes(found[name])}/s" for name in ("bare", "kept", "cold")}
    return [
        f"{num_samples:,} samples from {where}, {REQUESTS} requests at a time",
        f"  bare obstore, thrown away       {rates['bare']}",
        f"  bare obstore, kept in a file    {rates['kept']}",
        f"  an epoch with an empty cache    {rates['cold']}, {shares}",
        f"  requests a sample               {found['requests_per_sample']:.3f}",
        f"  bytes fetched per byte read     {found['amplification']:.3f}",
        f"  an epoch from the cache         {found['warm']:,.0f} samples/s, {found['warm_of_local']:.3f} of local",
        f"  the same set here               {found['local']:,.0f} samples/s",
        json.dumps(found),
    ]

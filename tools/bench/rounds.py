"""Runs contenders in processes of their own, in turn, and keeps each one's best setting."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from tools.bench.child import Measured
from tools.bench.peers import PEERS
from tools.progress import track

SEARCH_SECONDS = 1.0
START_TOGETHER_SECONDS = 15.0
COLD_READERS = ("pread", "direct")


def measure_contenders(args: argparse.Namespace) -> tuple[list[tuple[str, Measured]], dict[str, str]]:
    """Best setting of each contender and its rates over all rounds; and why a peer could not be measured.

    Raises:
        ValueError: the loader itself cannot read the data set.
    """
    groups = {"reelshard": _own_settings(args)}
    groups |= {name: [(f"{name}:{setting}", 1) for setting in PEERS[name].settings] for name in args.against}
    skipped: dict[str, str] = {}
    best: dict[str, tuple[str, int]] = {}
    total = sum(map(len, groups.values()))
    with track("searching settings", total=total, unit="settings") as advance:
        for group, settings in groups.items():
            rates = {}
            for setting in settings:
                try:
                    rates[setting] = _run(args, setting, SEARCH_SECONDS)[0].rate
                    advance(1)
                except ChildProcessError as error:
                    skipped[group] = str(error)
                    advance(1, 1)
            if rates:
                best[group] = max(rates, key=lambda setting: rates[setting])
    if "reelshard" not in best:
        raise ValueError(
            f"{args.data} could not be read: {skipped['reelshard']}; `reelshard verify` lists what is wrong"
        )
    results: dict[str, Measured] = {}
    with track("measuring", total=args.rounds * len(best), unit="runs") as advance:
        for _ in range(args.rounds):
            for group, setting in best.items():
                for result in _run(args, setting, args.seconds, with_loops=group == "reelshard"):
                    _merge(results, _title(result.name, setting[1]), result)
                advance(1)
    return list(results.items()), {name: why for name, why in skipped.items() if name not in best}


def measure_ranks(args: argparse.Namespace) -> list[Measured]:
    """One loader process a rank, all at once on one data set."""
    begin_at = time.time() + START_TOGETHER_SECONDS
    processes = []
    for rank in range(args.ranks):
        task = _task(args, (_own_settings(args)[-1][0], 1), args.seconds * args.rounds)
        task |= {"rank": rank, "ranks": args.ranks, "begin_at": begin_at}
        processes.append(_start(task))
    return [_collect(process)[0] for process in processes]


def _own_settings(args: argparse.Namespace) -> list[tuple[str, int]]:
    readers = COLD_READERS if args.cold else ("mmap",)
    return [(f"reelshard:{reader}", threads) for reader in readers for threads in args.threads]


def _title(name: str, threads: int) -> str:
    kind, _, setting = name.partition(":")
    setting = setting.replace(":", ", verify ")
    if kind in PEERS:
        return f"{kind} ({setting} {'threads' if kind == 'dali' else 'workers'})"
    return f"{kind} ({setting + ', ' if setting else ''}{threads} threads)"


def _merge(results: dict[str, Measured], title: str, result: Measured) -> None:
    known = results.setdefault(title, Measured(name=result.name, startup_seconds=result.startup_seconds))
    known.rates += result.rates
    known.startup_seconds = min(known.startup_seconds, result.startup_seconds)
    known.memory_bytes = max(known.memory_bytes, result.memory_bytes)
    known.stats = result.stats or known.stats


def _task(args: argparse.Namespace, setting: tuple[str, int], seconds: float) -> dict[str, Any]:
    case = {"mask_ratio": args.mask, "batch_size": args.batch_size, "threads": setting[1]}
    return {"data": str(args.data), "contenders": [setting[0]], "case": case, "seconds": seconds, "cold": args.cold}


def _run(
    args: argparse.Namespace, setting: tuple[str, int], seconds: float, with_loops: bool = False
) -> list[Measured]:
    task = _task(args, setting, seconds)
    if not with_loops:
        return _collect(_start(task))
    verified = [f"{setting[0]}:{verify}" for verify in args.verify]
    if not args.cold:  # in turn, epoch by epoch: the speed of memory changes within seconds on a shared machine
        return _collect(_start(task | {"contenders": [setting[0], *verified, "bare", "copy"]}))
    own = [result for name in (setting[0], *verified) for result in _collect(_start(task | {"contenders": [name]}))]
    return own + _collect(_start(task | {"contenders": ["copy"], "cold": False}))


def _start(task: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "tools.bench.child", json.dumps(task)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _collect(process: subprocess.Popen[str]) -> list[Measured]:
    try:
        output, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise ChildProcessError((errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
    return [Measured(**record) for record in json.loads(output)]

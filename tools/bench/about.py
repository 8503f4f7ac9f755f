"""What stands beside every number: the machine, and the command that measures it again."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command(args: argparse.Namespace) -> str:
    """The command line that repeats this run."""
    words = ["reelshard bench", str(args.data)]
    defaults: Mapping[str, Any] = {"batch_size": 32, "ranks": 1, "seconds": 3.0, "rounds": 3, "threads": (1, 2, 4)}
    for name in ("synthesize", "mask", "threads", "batch_size", "against", "verify", "ranks", "seconds", "rounds"):
        value = getattr(args, name)
        if value not in (None, (), defaults.get(name)):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{name.replace('_', '-')} {text}")
    flags = [f"--{name}" for name in ("cold", "limits") if getattr(args, name)]
    return " ".join([*words, *flags])


def machine() -> str:
    """Processor, cores and memory in words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return json.dumps(f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB")[1:-1]

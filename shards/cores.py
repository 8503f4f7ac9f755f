"""How many cores this process may use: the machine may have more, and a container or a batch system fewer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Cores by this process's affinity, and by the quota of its control groups where that is less; at least one.

    Args:
        root: of the file system; /proc and /sys are read below it.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group around this process allows, of either version of control groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount, group = root / "sys/fs/cgroup" / controllers, Path(path.lstrip("/"))
        for place in (mount, root / "sys/fs/cgroup/cpu") if controllers else (mount,):
            for folder in (group, *group.parents):  # an outer group's quota counts for what is in it
                yield from _quota(place / folder)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one control group, if it has one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            if int(quota) > 0 and int(period) > 0:  # "max" and -1 are no quota
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue

"""A container's quota of cores: torch and numpy compute with no more threads than that."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from shards.cores import usable_cores

VARIABLE = "OMP_NUM_THREADS"  # is read once, when torch is imported


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Take the quota of a container into account, of which OpenMP knows nothing; it counts by affinity.

    With more threads than that, those that compute wait for those that the quota stops. A number that is given stays.
    """
    cores = usable_cores()
    if cores < len(os.sched_getaffinity(0)):
        environment.setdefault(VARIABLE, str(cores))

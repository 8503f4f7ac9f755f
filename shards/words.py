"""Sizes, durations and counts in words, for messages; each has one spelling everywhere."""

from __future__ import annotations

from collections.abc import Mapping

SHORTEST_SECONDS = 0.5  # of less, neither a duration nor a rate says anything


def spell_bytes(num_bytes: float) -> str:
    """A size in the largest decimal unit of which there is one at least, such as `1.2 MB`."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def spell_seconds(seconds: float) -> str:
    """A duration, such as `under a second`, `42 s`, `3 min 20 s`, `2 h 05 min` or `2 days 3 h`."""
    if seconds < SHORTEST_SECONDS:
        return "under a second"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def spell_counts(counts: Mapping[str, int]) -> str:
    """Counts by name, such as `empty_file 1, truncated 3`; "" where there are none."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())

"""A link of a stated rate and latency, which a server on this machine keeps to: what a store elsewhere is behind."""

from __future__ import annotations

import argparse
import math
import threading
import time
from dataclasses import dataclass

SLICE_SECONDS = 0.001  # of the link, for one connection at a time
LEAST_SLICE_BYTES, MOST_SLICE_BYTES = 16 << 10, 1 << 20
SLOWEST_MB_PER_SECOND, FASTEST_MB_PER_SECOND = 0.1, 100_000
MOST_LATENCY_MILLISECONDS = 10_000
BURST_SECONDS = 0.01  # by which a sender that slept too long may catch up


@dataclass(frozen=True)
class Link:
    """What lies between a store and whoever reads from it.

    Attributes:
        bytes_per_second: of all connections together; infinite where nothing but the machine limits them.
        latency_seconds: before the first byte of each answer.
    """

    bytes_per_second: float = math.inf
    latency_seconds: float = 0.0


def link_rates(text: str) -> tuple[float, ...]:
    """The rates of `--link`, in MB/s.

    Raises:
        argparse.ArgumentTypeError: one of them is none that can be kept to.
    """
    return tuple(_number(part, SLOWEST_MB_PER_SECOND, FASTEST_MB_PER_SECOND, "MB/s") for part in text.split(","))


def latency(text: str) -> float:
    """The milliseconds of `--latency`.

    Raises:
        argparse.ArgumentTypeError: they are none.
    """
    return _number(text, 0, MOST_LATENCY_MILLISECONDS, "milliseconds")


def _number(text: str, least: float, most: float, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g} of {unit}")
    return number


class Bucket:
    """Shares a rate among threads, slice by slice in the order in which they ask. Waiting is sleeping."""

    def __init__(self, bytes_per_second: float) -> None:
        """Take the rate."""
        self._rate, self._lock = bytes_per_second, threading.Lock()
        self._free_at = time.monotonic()
        slice_bytes = min(bytes_per_second * SLICE_SECONDS, MOST_SLICE_BYTES)
        self.slice_bytes = max(LEAST_SLICE_BYTES, int(slice_bytes))

    def take(self, num_bytes: int) -> None:
        """Wait until so many bytes have passed."""
        with self._lock:
            begin = max(self._free_at, time.monotonic() - BURST_SECONDS)
            passed_at = self._free_at = begin + num_bytes / self._rate
        time.sleep(max(0.0, passed_at - time.monotonic()))

"""Where the time of a step goes, measured without making anyone wait."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch

STAGES = ("data", "forward", "backward", "optimizer")


class StepClock:
    """Seconds per stage, added up over steps.

    On a GPU the kernels of a stage are timed there, between two events; the wait for data is the host's own, as on a
    CPU everything is.
    """

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._on_gpu = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs in here as part of stage `name`."""
        if self._on_gpu and name != "data":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        began = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """Seconds of each of `STAGES` so far; waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self._seconds[name] += begin.elapsed_time(end) / 1000
        self._events.clear()
        return {name: self._seconds[name] for name in STAGES}

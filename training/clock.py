"""Where the time of a step goes, measured without making anyone wait."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator

import torch

from pipeline.accelerator import Accelerator, Host, Stamp, accelerator_of

STAGES = ("data", "forward", "backward", "optimizer")


class StepClock:
    """Seconds per stage, added up over steps.

    On a GPU the kernels of a stage are timed there, between two events; the wait for data is the host's own, as on a
    CPU everything is.
    """

    def __init__(self, device: torch.device | str | Accelerator) -> None:
        """Start at zero."""
        self._accelerator: Accelerator = accelerator_of(device)
        self._host: Accelerator = Host(torch.device("cpu"))
        self._spans: list[tuple[Accelerator, str, Stamp, Stamp]] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs in here as part of stage `name`."""
        clock = self._host if name == "data" else self._accelerator
        begin = clock.stamp()
        yield
        self._spans.append((clock, name, begin, clock.stamp()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each of `STAGES` so far; waits for the device."""
        if self._spans:
            self._accelerator.synchronize()
        for clock, name, begin, end in self._spans:
            self._seconds[name] += clock.seconds_between(begin, end)
        self._spans.clear()
        return {name: self._seconds[name] for name in STAGES}

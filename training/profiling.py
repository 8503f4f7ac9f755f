"""A trace of some steps: every operation and kernel with its times, for https://ui.perfetto.dev or chrome://tracing."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

NUM_LEFT_OUT = 5  # steps in front of the trace, in which kernels are chosen and compiled
TRACE = "trace.json.gz"


@contextlib.contextmanager
def traced(
    num_steps: int, path: Path, *, steps_left: int, device: torch.device, report: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Trace `num_steps` of the steps to come and write the trace to `path` when they are done.

    The first few are left out where the run is long enough. A trace of what there was is also written when the run
    ends before its last traced step.

    Args:
        num_steps: 0 traces nothing.
        path: such as RUN/trace.json.gz.
        steps_left: of the run.
        device: whose kernels are traced beside the host's operations.
        report: takes a line for the terminal.

    Yields:
        To be called after every step.
    """
    if not num_steps:
        yield lambda: None
        return
    with contextlib.ExitStack() as running:
        trace = _Trace(path, min(NUM_LEFT_OUT, max(steps_left - num_steps, 0)), num_steps, running)
        trace.begin(device)
        yield trace.advance
        trace.end()
    if trace.whole is not None:
        report(f"trace    {trace.whole}: {path}; open it at https://ui.perfetto.dev")


class _Trace:
    """Begins, ends and is written by the number of steps that are done."""

    def __init__(self, path: Path, first: int, num_steps: int, running: contextlib.ExitStack) -> None:
        self._path, self._first, self._num_steps, self._running = path, first, num_steps, running
        self._done = 0
        self._profile: profile | None = None
        self.whole: str | None = None  # what is in it

    def begin(self, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._profile = profile(activities=activities)
        self._enter()

    def _enter(self) -> None:
        if self._profile is not None and self._done == self._first:
            self._running.enter_context(self._profile)

    def advance(self) -> None:
        self._done += 1
        self._enter()
        if self._done == self._first + self._num_steps:
            self.end()

    def end(self) -> None:
        """Write it, aside and renamed, so that the name stands for a whole one; once, and only if it has begun."""
        found, self._profile = self._profile, None
        if found is None or self._done <= self._first:
            return
        self._running.close()
        aside = self._path.with_name(f"tmp.{self._path.name}")
        found.export_chrome_trace(str(aside))
        aside.replace(self._path)
        self.whole = f"{self._done - self._first} steps behind the first {self._first}"

"""/dev/shm while something runs: a loader of worker processes fills it, and dies of a bus error when it is full."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SHARED_MEMORY = Path("/dev/shm")
INTERVAL_SECONDS = 0.002


class SharedMemoryWatch:
    """Remembers the most that was in use while the `with` block ran, looking every few milliseconds.

    Attributes:
        before_bytes: in use at the start.
        peak_bytes: the most in use since.
    """

    def __init__(self, folder: Path = SHARED_MEMORY) -> None:
        """Take the folder; where there is none, nothing is ever in use."""
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="shared-memory-watch", daemon=True)
        self.before_bytes = self.peak_bytes = self._used()

    @property
    def grown_bytes(self) -> int:
        """How much more was in use at the worst moment than at the start."""
        return self.peak_bytes - self.before_bytes

    def describe(self) -> str:
        """The peak and the room there is, in words."""
        if not self._folder.is_dir():
            return f"there is no {self._folder}, and none is needed"
        total = shutil.disk_usage(self._folder).total
        room = f"{self._folder} holds {total / 2**20:,.0f} MiB"
        if not self.grown_bytes:
            return f"{room}, unchanged throughout"
        return (
            f"{room} and grew by up to {self.grown_bytes / 2**20:,.1f} MiB meanwhile: this loader does not use it, "
            "another process or library does"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._used())

    def _look(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._used())

    def _used(self) -> int:
        return shutil.disk_usage(self._folder).used if self._folder.is_dir() else 0

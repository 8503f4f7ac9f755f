"""How long work says how far it is. Everything that takes long takes one of these."""

from __future__ import annotations

from threading import Lock
from typing import Protocol


class Progress(Protocol):
    """Told what was done since it was last told; any function of these two will do."""

    def __call__(self, done: int, failed: int = 0, /) -> None:
        """Count further items, of which `failed` could not be used."""


def untold(done: int, failed: int = 0) -> None:
    """Tell nobody."""


def one_at_a_time(progress: Progress) -> Progress:
    """The same for several threads, none of which meets another there."""
    lock = Lock()

    def told(done: int, failed: int = 0, /) -> None:
        with lock:
            progress(done, failed)

    return told

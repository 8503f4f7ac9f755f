"""How long work says how far it is. Everything that takes long takes one of these."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what was done since it was last told; any function of these two will do."""

    def __call__(self, done: int, failed: int = 0, /) -> None:
        """Count further items, of which `failed` could not be used."""


def untold(done: int, failed: int = 0) -> None:
    """Tell nobody."""

"""What a codec is, and how its loss is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class UnknownCodecError(ValueError):
    """A codec that this version does not have."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near decoded values are to those that were encoded, the more the nearer.

    Attributes:
        what: is measured, with its unit in words, such as "PSNR in dB".
        count: of clips, or of tokens.
        total: sum over them.
        least: the worst.
    """

    what: str
    count: int
    total: float
    least: float

    def __add__(self, other: Fidelity) -> Fidelity:
        least = min(self.least, other.least)
        return Fidelity(what=self.what, count=self.count + other.count, total=self.total + other.total, least=least)

    def __str__(self) -> str:
        return f"{self.what} {self.total / max(self.count, 1):.5g} in the mean, {self.least:.5g} at least"


def add_up(parts: Iterable[Mapping[str, Fidelity]]) -> dict[str, Fidelity]:
    """The same of several shards, by field."""
    found: dict[str, Fidelity] = {}
    for part in parts:
        for name, fidelity in part.items():
            found[name] = found[name] + fidelity if name in found else fidelity
    return found


class Codec(Protocol):
    """Turns arrays into bytes and back. Equal arrays give equal bytes, on every machine.

    The first axis stays what it is, so that single positions of the `tubes` layout are read alone.
    """

    @property
    def name(self) -> str:
        """As it stands in the manifest."""
        ...

    def stored_shape(self, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what is stored, u8, of an array.

        Raises:
            ValueError: it does not store such arrays; says which it does.
        """
        ...

    def encode(self, array: NDArray[Any]) -> Bytes:
        """What is stored of an array.

        Raises:
            ValueError: it holds values that cannot be stored.
        """
        ...

    def decode(self, stored: Bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The array again, of this dtype and shape; of any number of positions where the axes before allow it."""
        ...

    def measure(self, array: NDArray[Any], decoded: NDArray[Any]) -> Fidelity:
        """How near an array that was encoded and decoded is to what it was."""
        ...

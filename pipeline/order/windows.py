"""Windows: a query row and the rows before it, out of a sample of any length; and a choice of a few things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.order.bits import derive_key, mix
from pipeline.order.draws import Positions

STREAM = int.from_bytes(b"windows", "little")  # apart from the order, the masks and the checks of the same seed
CHOICES = int.from_bytes(b"choices", "little")


@dataclass(frozen=True)
class Window:
    """Draws a query row and the `num_context` rows before it, in ascending order.

    Every row that has so many before it is equally likely to be the query. Of a shorter sample the last row is, and the
    context begins with its first row as often as is needed. A sample without rows gets -1 throughout.

    Attributes:
        field: the rows or packed field whose lengths count; others of the same lengths can be gathered by it, too.
        num_context: T, rows of context; with 0 there is only a query.
    """

    num_positions: ClassVar[None] = None

    field: str
    num_context: int

    def __post_init__(self) -> None:
        if self.num_context < 0:
            raise ValueError(f"a window has no fewer than 0 rows of context, got num_context={self.num_context}")

    @property
    def length_of(self) -> str:
        """The field whose lengths are needed."""
        return self.field

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`query [1]` and, where there is any, `context [T]`."""
        return {"query": (1,), **({"context": (self.num_context,)} if self.num_context else {})}

    def draw(
        self, seed: int, epoch: int, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, Positions]:
        """The windows of some samples.

        Args:
            seed: any integer.
            epoch: from 0 on.
            samples: i64 `[B]`, sample numbers.
            lengths: i64 `[B]`, rows of each.

        Returns:
            `query` i64 `[B, 1]` and, where there is any, `context` i64 `[B, T]`.

        Raises:
            ValueError: there are no lengths.
        """
        if lengths is None:
            raise ValueError(f"a window needs the lengths of {self.field}")
        streams = mix(samples.astype(np.uint64) ^ derive_key(seed, epoch, STREAM))
        first = np.maximum(np.minimum(self.num_context, lengths - 1), 0)
        choices = np.maximum(lengths - first, 1).astype(np.uint64)
        query = (first + (streams % choices).astype(np.int64))[:, None]
        empty = (lengths == 0)[:, None]
        drawn = {"query": np.where(empty, -1, query)}
        if self.num_context:
            context = np.maximum(query + np.arange(-self.num_context, 0), 0)
            drawn["context"] = np.where(empty, -1, context)
        return drawn


@dataclass(frozen=True)
class Choice:
    """Draws one of `count` equally likely things, such as prompts: its number.

    Attributes:
        name: of its output.
        count: things to choose from.
    """

    num_positions: ClassVar[None] = None
    length_of: ClassVar[None] = None

    name: str
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"{self.name} is drawn of one thing or more, got count={self.count}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A single number."""
        return {self.name: ()}

    def draw(
        self, seed: int, epoch: int, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, Positions]:
        """The numbers of some samples, i64 `[B]`; see `Window.draw`."""
        del lengths
        streams = mix(samples.astype(np.uint64) ^ derive_key(seed, epoch, CHOICES))
        return {self.name: (streams % np.uint64(self.count)).astype(np.int64)}

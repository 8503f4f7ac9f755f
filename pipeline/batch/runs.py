"""Rows and pieces that are drawn of a sample, as runs that are read at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shards.format.errors import DamagedShardError

NOTHING, AGAIN = -1, -2


def runs(positions: Sequence[int], length: int) -> Iterator[tuple[int, int, int]]:
    """Cut what is drawn of a sample into runs that are read at once.

    Args:
        positions: rows or pieces of the sample; -1 for none.
        length: how many it has.

    Yields:
        Start and stop among the positions, and the first of the rows or pieces that follow each other there; NOTHING
        where none is drawn, AGAIN for one that is the same as the one before.

    Raises:
        DamagedShardError: the sample has no such row.
    """
    start = 0
    while start < len(positions):
        first, stop = positions[start], start + 1
        if first < NOTHING or first >= length:
            raise DamagedShardError(f"row {first} is drawn, and there are {length}", shard="")
        if first == NOTHING:
            yield start, stop, NOTHING
        elif start and positions[start - 1] == first:
            yield start, stop, AGAIN
        else:
            while stop < len(positions) and positions[stop] == positions[stop - 1] + 1 < length:
                stop += 1
            yield start, stop, first
        start = stop

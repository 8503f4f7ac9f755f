"""A share of a plan, for jobs that do not talk to each other: partition i of n builds each n-th one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """Which share of the shards a job builds. Finished shards are marked singly, so `count` may change between runs.

    Raises:
        ValueError: the index is not below the count.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"the partition is {self.index}/{self.count}; I/N needs N of at least 1 and I from 0 to N - 1"
            )

    @classmethod
    def parse(cls, text: str) -> Partition:
        """Read `I/N`.

        Raises:
            ValueError: the text is something else.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ValueError(f"the partition is {text!r}; give I/N, such as 0/8 for the first of eight")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def shards(self, num_shards: int) -> range:
        """Return this share's shards; there may be none."""
        return range(self.index, num_shards, self.count)

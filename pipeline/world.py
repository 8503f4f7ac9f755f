"""Which of how many processes this is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class World:
    """The rank of this process, the number of processes, and both on this machine.

    Nothing else in the project reads RANK, WORLD_SIZE, LOCAL_RANK or LOCAL_WORLD_SIZE.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must be in [0, {self.size}), got {self.rank}")
        if self.local_size < 1:
            raise ValueError(f"local_size must be at least 1, got {self.local_size}")

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> World:
        """Read what `torchrun` sets; a single process where it sets nothing.

        Raises:
            ValueError: a variable is not a number, or the rank is not in the world.
        """
        values = os.environ if environment is None else environment
        numbers = {}
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")):
            text = values.get(name, default)
            if not text.isdigit():
                raise ValueError(f"the environment variable {name} must be a whole number, got {text!r}")
            numbers[name] = int(text)
        return cls(
            rank=numbers["RANK"],
            size=numbers["WORLD_SIZE"],
            local_rank=numbers["LOCAL_RANK"],
            local_size=numbers["LOCAL_WORLD_SIZE"],
        )

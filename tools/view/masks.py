"""Which patches of a clip a recipe's student does not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.order.draws import Draw
from shards.dataset import ShardDataset

HIDDEN = "masked"  # how draws that hide positions call them


@dataclass(frozen=True, kw_only=True)
class MaskView:
    """A recipe's mask over the clips of a data set.

    Attributes:
        draw: draws `masked`: positions of a frame, or of the whole clip.
        seed: the recipe's.
        grid: rows and columns of patches in a frame.
        num_times: patches in time.
    """

    draw: Draw
    seed: int
    grid: tuple[int, int]
    num_times: int

    def hidden(self, number: int, epoch: int) -> list[str]:
        """Of each time a text of `0` and `1`, a character a patch, row by row; `1` is hidden."""
        positions = self.draw.draw(self.seed, epoch, np.array([number], np.int64))[HIDDEN][0]
        num_positions = self.grid[0] * self.grid[1]
        hidden = np.zeros(self.draw.num_positions or 0, np.uint8)
        hidden[positions] = 1
        rows = np.broadcast_to(hidden.reshape(-1, num_positions), (self.num_times, num_positions))
        return ["".join(map(str, row)) for row in rows.tolist()]

    def to_json(self, number: int, epoch: int) -> dict[str, Any]:
        """What the page draws."""
        return {"rows": self.grid[0], "columns": self.grid[1], "hidden": self.hidden(number, epoch)}


def mask_view(recipe_name: str, overrides: Sequence[str], dataset: ShardDataset, source: str) -> MaskView:
    """The mask of a recipe's student.

    Raises:
        ValueError: there is no such recipe, the data set is not what it is about, or its student sees all of a clip.
    """
    from tools.recipe import load_recipe
    from tools.systems import system_of

    recipe: Any = load_recipe(recipe_name, overrides)
    system = system_of(recipe)
    draws = [draw for draw in system.feed(recipe, dataset, source).reads.draws if HIDDEN in draw.shapes]
    if not draws:
        raise ValueError(f"nothing is hidden from the student of {recipe_name} ({system.title}): leave --recipe out")
    grid = recipe.model
    side = grid.image_size // grid.patch
    return MaskView(draw=draws[0], seed=recipe.data.seed, grid=(side, side), num_times=grid.num_times)

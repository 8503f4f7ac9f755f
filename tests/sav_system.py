"""A system of SA-V without a student: what is built, and what is read of it."""

from __future__ import annotations

from torch import nn

from tools.systems.sav_sets import SavRecipe, SavSystem


class Sav(SavSystem[SavRecipe]):
    """What all systems of SA-V share."""

    name = title = "sav"
    recipe = SavRecipe

    def make_objective(self, recipe: SavRecipe) -> nn.Module:
        raise ValueError("it has no student")


SYSTEM = Sav()

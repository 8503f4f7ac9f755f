"""ST-JEPA: a hybrid space-time student regresses a teacher's tokens where a tube mask hides them.

The objective is one minus the cosine between prediction and teacher, over the masked tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from model.st_jepa import STJEPA, STJEPAConfig, take_positions
from model.tubelets import video_or_tubes
from pipeline.order.draws import TubeMask
from tools.systems.clips import ClipRecipe, ClipSystem


@dataclass(frozen=True, kw_only=True)
class STJEPAObjectiveConfig:
    """What is hidden from the student.

    Attributes:
        mask_ratio: share of the spatial positions that a tube mask hides over the whole clip.
    """

    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio={self.mask_ratio} is not between 0 and 1 (both excluded)")


class STJEPAObjective(nn.Module):
    """Student and loss in one module, so that a distributed wrapper sees a single forward."""

    # What the loader has to deliver, and which part of it a tube mask leaves to be read.
    fields: ClassVar[tuple[str, ...]] = ("clip", "target")
    gather: ClassVar[dict[str, str]] = {"clip": "visible", "target": "masked"}

    def __init__(self, student: STJEPA) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a batch, sample by sample.

        Args:
            batch: `clip` (u8, or normalised float; any layout of the loader), `target`, `visible`, `masked`.

        Returns:
            f32 `[B]` each: `loss`, the one that is trained, the mean of 1 - cos over the masked tokens (in [0, 2]).
        """
        return self.score(self.predict(batch), batch)

    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the student makes of the masked tokens, `[B, T', S_m, D]`, of a batch as above."""
        predicted: Tensor = self.student(video_or_tubes(batch["clip"]), batch["visible"], batch["masked"])
        return predicted

    def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a prediction of the masked tokens, whoever made it."""
        target = self._masked_target(batch["target"], batch["masked"])
        with torch.autocast(prediction.device.type, enabled=False):
            cosine = F.cosine_similarity(prediction.float(), target.float(), dim=-1)  # [B, T', S_m]
            return {"loss": 1 - cosine.mean(dim=(1, 2))}

    def _masked_target(self, target: Tensor, masked: Tensor) -> Tensor:
        """Teacher tokens at the masked positions, `[B, T', S_m, D]`, from whichever layout was read."""
        if target.ndim == 3:  # [B, T'*S, D]
            grid = rearrange(target, "b (t s) d -> b t s d", t=self.student.config.num_times)
        else:  # tubes [B, S', T', D]
            grid = target.transpose(1, 2)
        return grid if grid.shape[2] == masked.shape[1] else take_positions(grid, masked)


@dataclass(frozen=True, kw_only=True)
class STJEPARecipe(ClipRecipe):
    """A resolved recipe of ST-JEPA.

    Attributes:
        model: the student.
        objective: what it is trained to do.
    """

    system: str = "st_jepa"
    model: STJEPAConfig = field(default_factory=STJEPAConfig)
    objective: STJEPAObjectiveConfig = field(default_factory=STJEPAObjectiveConfig)


class STJEPASystem(ClipSystem[STJEPARecipe]):
    """Clips and targets under a tube mask."""

    name, title = "st_jepa", "ST-JEPA"
    loss = "one minus the cosine to the teacher's tokens"
    recipe = STJEPARecipe

    def make_objective(self, recipe: STJEPARecipe) -> STJEPAObjective:
        """The student in its objective."""
        return STJEPAObjective(STJEPA(recipe.model))

    def mask(self, recipe: STJEPARecipe) -> TubeMask:
        """Spatial positions, hidden over the whole clip."""
        return TubeMask(num_positions=recipe.model.num_positions, ratio=recipe.objective.mask_ratio)

    def gather(self, recipe: STJEPARecipe) -> Mapping[str, str]:
        """Visible tubes of the clip, masked ones of the target."""
        return STJEPAObjective.gather


SYSTEM = STJEPASystem()

"""SALT: a ViT regresses a teacher's tokens where they are hidden, by their distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.salt import SALT, SALTConfig, take_tokens
from model.teacher import TeacherConfig
from model.tubelets import video_or_tubes
from pipeline.order.draws import Mask, MultiBlockMask, RandomMask, TubeMask
from tools.systems.clips import ClipRecipe, ClipSystem

MaskKind = Literal["random", "tube", "multiblock"]
Loss = Literal["mse", "l1"]
TargetNorm = Literal["none", "layer_norm"]


@dataclass(frozen=True, kw_only=True)
class SALTObjectiveConfig:
    """What is hidden from the student, and how far off its guess is.

    Attributes:
        mask: "random" hides tokens anywhere, "tube" positions over the whole clip, "multiblock" rectangles over the
            whole clip. Of tubes in the tubes layout, the last two read only what is needed.
        mask_ratio: share of what is hidden.
        loss: "mse", or "l1" as the SALT paper has it; the mean over a token's values.
        target_norm: "none" takes the teacher's values as they are, "layer_norm" normalises each token (V-JEPA).
    """

    mask: MaskKind = "random"
    mask_ratio: float = 0.75
    loss: Loss = "mse"
    target_norm: TargetNorm = "none"

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio={self.mask_ratio} is not between 0 and 1 (both excluded)")
        for name, allowed in (("mask", MaskKind), ("loss", Loss), ("target_norm", TargetNorm)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed are {', '.join(get_args(allowed))}")

    @property
    def gather(self) -> dict[str, str]:
        """Which part of a field the mask leaves to be read; a random mask cuts through tubes and leaves all."""
        return {} if self.mask == "random" else {"clip": "visible", "target": "masked"}


class SALTObjective(nn.Module):
    """Student and loss in one module, so that a distributed wrapper sees a single forward."""

    fields: ClassVar[tuple[str, ...]] = ("clip", "target")

    def __init__(self, student: SALT, config: SALTObjectiveConfig) -> None:
        super().__init__()
        self.student, self.config = student, config

    @property
    def gather(self) -> dict[str, str]:
        """Which part of a field the mask leaves to be read."""
        return self.config.gather

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a batch, sample by sample.

        Args:
            batch: `clip` (u8, or normalised float; any layout of the loader), `target`, `visible` and `masked`: numbers
                of tokens, or of positions where the mask hides tubes.

        Returns:
            f32 `[B]` each: `loss`, the mean over the masked tokens.
        """
        return self.score(self.predict(batch), batch)

    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the student makes of the masked tokens, `[B, M, D]`, of a batch as above."""
        visible, masked = self._tokens(batch["visible"]), self._tokens(batch["masked"])
        predicted: Tensor = self.student(video_or_tubes(batch["clip"]), visible, masked)
        return predicted

    def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a prediction of the masked tokens, whoever made it."""
        target = self._masked_target(batch["target"], self._tokens(batch["masked"]))
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, target = prediction.float(), target.float()
            if self.config.target_norm == "layer_norm":
                target = F.layer_norm(target, target.shape[-1:])
            distance = F.mse_loss if self.config.loss == "mse" else F.l1_loss
            return {"loss": distance(prediction, target, reduction="none").mean(dim=(1, 2))}

    def _tokens(self, positions: Tensor) -> Tensor:
        """Numbers of tokens: a position stands for its tube, one token at each time; i64 `[B, T' * K]`."""
        if self.config.mask == "random":
            return positions
        grid = self.student.config
        starts = torch.arange(grid.num_times, device=positions.device) * grid.num_positions
        return (starts[:, None] + positions[:, None, :]).flatten(1)

    def _masked_target(self, target: Tensor, masked: Tensor) -> Tensor:
        """Teacher tokens at the masked places, `[B, M, D]`, from whichever layout was read."""
        tokens = target if target.ndim == 3 else target.transpose(1, 2).flatten(1, 2)  # [B, T' * S', D]
        return tokens if tokens.shape[1] == masked.shape[1] else take_tokens(tokens, masked)


@dataclass(frozen=True, kw_only=True)
class SALTRecipe(ClipRecipe):
    """A resolved recipe of SALT.

    Attributes:
        teacher: who makes the targets.
        model: the student.
        objective: what it is trained to do.
    """

    system: str = "salt"
    teacher: TeacherConfig = field(
        default_factory=lambda: TeacherConfig(id="MCG-NJU/videomae-huge", projection_dim=None)
    )
    model: SALTConfig = field(default_factory=SALTConfig)
    objective: SALTObjectiveConfig = field(default_factory=SALTObjectiveConfig)


def make_mask(model: SALTConfig, objective: SALTObjectiveConfig) -> Mask:
    """The mask of an objective over a model's grid."""
    if objective.mask == "random":
        return RandomMask(num_positions=model.num_tokens, ratio=objective.mask_ratio)
    if objective.mask == "multiblock":
        side = model.image_size // model.patch
        return MultiBlockMask(grid=(side, side), ratio=objective.mask_ratio)
    return TubeMask(num_positions=model.num_positions, ratio=objective.mask_ratio)


class SALTSystem(ClipSystem[SALTRecipe]):
    """Clips and targets under a mask of tokens or of tubes."""

    name, title = "salt", "SALT"
    loss = "the distance to the teacher's tokens where they are masked"
    recipe = SALTRecipe

    def make_objective(self, recipe: SALTRecipe) -> SALTObjective:
        """The student in its objective."""
        return SALTObjective(SALT(recipe.model), recipe.objective)

    def mask(self, recipe: SALTRecipe) -> Mask:
        """As the objective has it."""
        return make_mask(recipe.model, recipe.objective)

    def gather(self, recipe: SALTRecipe) -> Mapping[str, str]:
        """As the mask has it."""
        return recipe.objective.gather


SYSTEM = SALTSystem()

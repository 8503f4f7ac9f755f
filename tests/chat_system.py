"""A system of chats in a file of the user's own, whose model is as small as can be: what is read, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tools.systems.chats import ChatRecipe, ChatSystem


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The student.

    Attributes:
        width: of its hidden layer.
    """

    width: int = 8


@dataclass(frozen=True, kw_only=True)
class GuessRecipe(ChatRecipe):
    """A resolved recipe.

    Attributes:
        model: the student.
    """

    model: ModelConfig = field(default_factory=ModelConfig)


class Guess(nn.Module):
    """Scores each token of an answer by the one before, and by the mean colour of the frames where there are any."""

    uses_all = False  # text leaves the eye without a gradient

    def __init__(self, width: int) -> None:
        super().__init__()
        self.eye, self.words, self.head = nn.Linear(3, width), nn.Embedding(512, width), nn.Linear(width, 512)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tokens, answer = batch["tokens"].long(), batch["answer"].bool()
        hidden = self.words(nn.functional.pad(tokens, (1, 0))[:, :-1])  # [B, L, D]
        if "frames" in batch:
            seen = self.eye(batch["frames"].float().mean(dim=(3, 4)) / 255)  # [B, T, D]
            here = torch.arange(seen.shape[1]) < batch["frames_length"][:, None]
            hidden = hidden + (seen * here[..., None]).sum(dim=1, keepdim=True)
        costs = nn.functional.cross_entropy(self.head(hidden).transpose(1, 2), tokens, reduction="none")
        count = answer.sum(dim=1)
        return {"loss": (costs * answer).sum(dim=1) / count.clamp(min=1), "weight": count.float()}


class Guesses(ChatSystem[GuessRecipe]):
    """Guesses of answers."""

    name, title = "chat_system", "guesses"
    recipe = GuessRecipe

    def make_objective(self, recipe: GuessRecipe) -> Guess:
        return Guess(recipe.model.width)


SYSTEM = Guesses()

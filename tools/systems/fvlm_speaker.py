"""A trained foveated VLM that is asked about videos and images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.speaker import Likelihood, Message, Pictures
from model.foveated import FoveatedVLM, Mode
from model.generate import generate, weigh
from model.likelihood import shared_beginning
from model.pretrained import weights_sha256
from tools.systems.asking import Words, pictures_of

if TYPE_CHECKING:
    from tools.systems.fvlm import FoveatedRecipe


class FoveatedSpeaker:
    """Answers in the precision of the run, by the template of its recipe; see `evaluation.speaker.Speaker`."""

    def __init__(self, recipe: FoveatedRecipe, model: nn.Module, name: str) -> None:
        """Take a model in evaluation mode.

        Raises:
            ValueError: there is no such tokenizer.
        """
        assert isinstance(model, FoveatedVLM)
        self.name, self.prompt = name, recipe.chat.prompt
        self._model, self._recipe, self._words = model, recipe, Words(recipe)
        self._device = model.q_static.device
        self._dtype = recipe.train.autocast_dtype(self._device)
        self._mode: Mode = "coarse_only" if recipe.objective.mode == "coarse_only" else "autoregressive"

    @cached_property
    def digest(self) -> str:
        """Of all weights, sha256."""
        return weights_sha256(self._model)

    def read(self, path: Path) -> Pictures:
        """Frames as the run was trained on.

        Raises:
            ValueError: the file cannot be read.
        """
        recipe = self._recipe
        return pictures_of(path, recipe.view, recipe.chat.quality, recipe.build.decoder)

    def write(self, pictures: Pictures, messages: Sequence[Message], max_new_tokens: int) -> Iterator[str]:
        """Word by word."""
        asked, said = torch.tensor(self._words.asked(messages), device=self._device), list[int]()
        with self._precision():
            for token in generate(
                self._model, self._frames(pictures), asked, max_new_tokens=max_new_tokens, mode=self._mode
            ):
                if token in self._words.ends:
                    return
                said.append(token)
                yield self._words.text(said)

    def weigh(
        self, pictures: Pictures, messages: Sequence[Message], begun: str, options: Sequence[str]
    ) -> list[Likelihood]:
        """Question and answer are tokenised apart, as in training."""
        asked = self._words.asked(messages)
        start = asked + self._words.encode(begun)
        whole = [asked + self._words.encode(begun + option) for option in options]
        count = shared_beginning(start, whole)
        rest, context = [each[count:] for each in whole], torch.tensor(start[:count], device=self._device)
        with self._precision():
            found = weigh(self._model, self._frames(pictures), context, rest, mode=self._mode)
        return [Likelihood(log, len(tokens)) for log, tokens in zip(found, rest, strict=True)]

    def facts(self) -> Mapping[str, Any]:
        """View, template, and how frames are looked at."""
        chat = self._recipe.chat
        return {
            "checkpoint": self.name,
            "model": "foveated VLM",
            "frames": self._recipe.view.to_json() | {"jpeg_quality": chat.quality},
            "looked_at": self._mode,
            "chat_template": chat.template,
            "tokenizer": chat.name,
            "precision": str(self._dtype or torch.float32).removeprefix("torch."),
        }

    def _frames(self, pictures: Pictures) -> Tensor:
        return torch.from_numpy(np.stack(pictures.frames)).movedim(-1, 1).to(self._device)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._dtype or torch.bfloat16, enabled=self._dtype is not None)

"""A question about a video or an image, as a student of chats was trained to see both."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.chat_media import read_frames
from shards.builder.samples.chat_tokens import ChatTokenizer
from shards.builder.samples.pictures import JpegWriter
from shards.builder.sources.folder import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor

    from tools.systems.chats import ChatRecipe


def frames_of(path: Path, recipe: ChatRecipe) -> Tensor:
    """The frames of a video, or an image as one, u8 `[T, 3, H, W]`: through JPEGs, as those of data sets.

    Raises:
        ValueError: it cannot be decoded.
    """
    import numpy as np
    import torch
    from PIL import Image

    extra = {} if path.suffix.lower() in VIDEO_SUFFIXES else {"images": [path.name]}
    writer = JpegWriter(view=recipe.view, quality=recipe.chat.quality)
    try:
        frames, _ = read_frames(
            path.parent, Item(id=path.stem, path=path.name, extra=extra), writer, recipe.build.decoder
        )
    except BuildFailure as failure:
        raise ValueError(f"{path} cannot be read ({failure.reason}): {failure}") from None
    assert frames is not None
    pictures = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in frames.jpegs]
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1)


class Words:
    """The tokenizer of a recipe, with its template."""

    def __init__(self, recipe: ChatRecipe) -> None:
        """Read it.

        Raises:
            ValueError: there is no such tokenizer.
        """
        self._tokenizer = ChatTokenizer.load(recipe.chat.tokenizer, recipe.chat.template)
        self._prompt = recipe.chat.prompt

    def asked(self, question: str | None) -> list[int]:
        """The tokens up to where the assistant is to begin; None asks what the recipe asks."""
        messages = [{"role": "user", "content": self._prompt if question is None else question}]
        return self._tokenizer.encode(self._tokenizer.render(messages, ask=True))

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer."""
        return set(self._tokenizer.encode(self._tokenizer.special.get("eos_token", "")))

    def text(self, tokens: list[int]) -> str:
        """What tokens say, without the special ones."""
        return self._tokenizer.decode(tokens).strip()

"""A question about a video or an image, as a student of chats was trained to see both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.speaker import Message, Pictures
from shards.builder.decode.decoders import VideoDecoder
from shards.builder.decode.view import ViewSpec
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.chat_media import read_frames
from shards.builder.samples.chat_tokens import ChatTokenizer
from shards.builder.samples.pictures import JpegWriter
from shards.builder.sources.folder import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from tools.systems.chats import ChatRecipe


def pictures_of(path: Path, view: ViewSpec, quality: int, decoder: VideoDecoder) -> Pictures:
    """The frames of a video, or an image as one: through JPEGs, as those of data sets.

    Raises:
        ValueError: it cannot be decoded.
    """
    moving = path.suffix.lower() in VIDEO_SUFFIXES
    extra = {} if moving else {"images": [path.name]}
    writer = JpegWriter(view=view, quality=quality)
    try:
        frames, _ = read_frames(path.parent, Item(id=path.stem, path=path.name, extra=extra), writer, decoder)
    except BuildFailure as failure:
        raise ValueError(f"{path} cannot be read ({failure.reason}): {failure.message}") from None
    assert frames is not None
    return Pictures(frames=tuple(map(decode_jpeg, frames.jpegs)), seconds=frames.seconds, moving=moving)


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """A frame as data sets keep it, u8 [H, W, 3]."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as opened:
        return np.asarray(opened.convert("RGB"))


class Words:
    """The tokenizer of a recipe, with its template."""

    def __init__(self, recipe: ChatRecipe) -> None:
        """Read it.

        Raises:
            ValueError: there is no such tokenizer.
        """
        self._tokenizer = ChatTokenizer.load(recipe.chat.tokenizer, recipe.chat.template)

    def asked(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a chat up to where the assistant is to begin."""
        return self.encode(self._tokenizer.render(messages, ask=True))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._tokenizer.encode(text)

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer."""
        return set(self._tokenizer.encode(self._tokenizer.special.get("eos_token", "")))

    def text(self, tokens: list[int]) -> str:
        """What tokens say, without the special ones."""
        return self._tokenizer.decode(tokens).strip()

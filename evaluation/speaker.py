"""A model that sees pictures and answers in words, as evaluators ask one, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is asked about.

    Attributes:
        frames: u8 `[H, W, 3]` each, in their order.
        seconds: when each is shown; 0 of images.
        moving: whether they are frames of a video.
    """

    frames: tuple[NDArray[np.uint8], ...]
    seconds: tuple[float, ...]
    moving: bool


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds an answer.

    Attributes:
        log: sum over its tokens, in nats.
        num_tokens: how many they are.
    """

    log: float
    num_tokens: int


class Speaker(Protocol):
    """A model that is asked about pictures.

    Attributes:
        name: where it came from.
        prompt: what it is asked where nobody says what.
    """

    name: str
    prompt: str

    @property
    def digest(self) -> str:
        """Of its weights."""
        ...

    def read(self, path: Path) -> Pictures:
        """Decode a video or an image as this model is shown them; several threads may do so at once.

        Raises:
            ValueError: it cannot be read.
        """
        ...

    def write(self, pictures: Pictures, messages: Sequence[Message], max_new_tokens: int) -> Iterator[str]:
        """Answer, always with the likeliest token: all of it so far, each time more is known.

        Args:
            pictures: what is asked about.
            messages: the turns so far, the last one the user's.
            max_new_tokens: the most that are written.

        Raises:
            ValueError: it does not take these turns or pictures.
        """
        ...

    def weigh(
        self, pictures: Pictures, messages: Sequence[Message], begun: str, options: Sequence[str]
    ) -> list[Likelihood]:
        """How likely each of several answers is.

        Args:
            pictures: what is asked about.
            messages: as of `write`.
            begun: with what the answer has begun.
            options: how it may go on.

        Raises:
            ValueError: as of `write`.
        """
        ...

    def facts(self) -> Mapping[str, Any]:
        """What a result says of how it is shown pictures and asked."""
        ...

"""What a probe makes of videos, for people: a table, a picture of frames with the top predictions, a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tools.pages.elements import callout, facts, heading, more, paragraph, picture, spell_percent, table
from tools.pages.html import Html, tag, write_page
from tools.pages.strips import strip
from tools.png import png_of
from tools.terminal import clean

NUM_FRAMES = 4  # of a video, in pictures
MAX_DRAWN = 24  # videos in the picture and on the page; the others are in the table


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a probe makes of one video.

    Attributes:
        path: of the file.
        top: the most probable classes with their probabilities, best first.
        known: its class, where the folder that it lies in is called as one.
        frames: u8 `[NUM_FRAMES, H, W, 3]` of what the encoder saw; None of a video that is not drawn.
    """

    path: str
    top: Sequence[tuple[str, float]]
    known: str | None = None
    frames: NDArray[np.uint8] | None = None

    @property
    def is_right(self) -> bool:
        """Whether the first class is the known one."""
        return self.known == self.top[0][0]

    def to_json(self) -> dict[str, Any]:
        """All but the frames."""
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return {"path": self.path, "predictions": top, "folder_class": self.known}


def some_frames(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames `[NUM_FRAMES, H, W, 3]` from the whole of a clip `[T, H, W, 3]`."""
    frames: NDArray[np.uint8] = clip[np.linspace(0, len(clip) - 1, NUM_FRAMES).round().astype(int)]
    return frames


def spell_table(guesses: Sequence[Guess]) -> list[str]:
    """A line a video, the first prediction beside it and the next ones after it."""
    width = max((len(clean(guess.path)) for guess in guesses), default=0)
    lines = []
    for guess in guesses:
        first, *others = (f"{clean(name)} {probability:.1%}" for name, probability in guess.top)
        mark = "" if guess.known is None else "  right" if guess.is_right else f"  lies in {clean(guess.known)}"
        rest = f"  ({', '.join(others)})" if others else ""
        lines.append(f"{clean(guess.path):<{width}}  {first}{rest}{mark}")
    return lines


def spell_hits(guesses: Sequence[Guess]) -> str | None:
    """How many first predictions are the folder's name; None where no folder is called as a class."""
    known = [guess for guess in guesses if guess.known is not None]
    if not known:
        return None
    right = sum(guess.is_right for guess in known)
    return f"{right} of {len(known)} videos lie in a folder of their first prediction's name ({right / len(known):.1%})"


def draw(guesses: Sequence[Guess]) -> bytes:
    """The picture: frames of each video in a row, with its path and top predictions as bars. A PNG."""
    drawn = [guess for guess in guesses if guess.frames is not None]
    figure = Figure(figsize=(1.25 * NUM_FRAMES + 3.6, 1.55 * len(drawn)), layout="constrained")
    rows = figure.subplots(len(drawn), 2, squeeze=False, width_ratios=[1.25 * NUM_FRAMES, 3.6])
    for (shown, bars), guess in zip(rows, drawn, strict=True):
        assert guess.frames is not None
        shown.imshow(np.concatenate(list(guess.frames), axis=1))
        shown.set_xticks([])
        shown.set_yticks([])
        shown.set_title(_shortened(clean(guess.path)), fontsize=8, loc="left", parse_math=False)
        bars.barh(range(len(guess.top)), [value for _, value in guess.top], color="#8db4e2")
        for place, (name, value) in enumerate(guess.top):
            bars.text(0.01, place, f"{clean(name)}  {value:.1%}", va="center", fontsize=8, parse_math=False)
        bars.set_xlim(0, 1)
        bars.set_ylim(len(guess.top) - 0.5, -0.5)
        bars.axis("off")
    return png_of(figure)


def write_guesses_page(
    path: Path, guesses: Sequence[Guess], problems: Sequence[Mapping[str, str]], about: Mapping[str, str]
) -> None:
    """Write the page: frames and predictions of the first videos, all of them in a table, and what could not be read.

    Args:
        path: of the file.
        guesses: of the videos that could be read.
        problems: path and problem of the others.
        about: encoder and probe, in words.
    """
    hits = spell_hits(guesses)
    rows = [[Path(guess.path).name, *_best(guess)] for guess in guesses]
    parts: list[Html] = [
        tag("h1", "What these videos show"),
        paragraph(f"{len(guesses):,} videos classified, {len(problems):,} that could not be read.", class_="lead"),
    ]
    if hits:
        parts.append(callout(f"{hits}."))
    for guess in guesses:
        if guess.frames is not None:
            spelled = ", ".join(f"{name} {spell_percent(value)}" for name, value in guess.top)
            caption = f"{guess.path}: {spelled}"
            parts.append(picture(strip(guess.frames), f"frames of {guess.path}", caption=caption, wide=True))
    parts.append(more("All videos", table(rows, head=["video", "first prediction", "probability"], numbers=[2])))
    if problems:
        wrong = [[problem["path"], problem["problem"]] for problem in problems]
        parts += [heading("Could not be read"), table(wrong, head=["file", "why"])]
    parts += [heading("Made with"), facts(about.items())]
    write_page(path, "What these videos show", *parts)


def _best(guess: Guess) -> tuple[str, str]:
    name, value = guess.top[0]
    return name, spell_percent(value)


def _shortened(text: str, most: int = 70) -> str:
    return text if len(text) <= most else f"...{text[3 - most :]}"

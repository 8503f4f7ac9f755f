"""Pictures of a student at work: what it is shown, what the teacher says of the rest, and what the student says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.demo.student import Guess
from tools.figures import TokenColours
from tools.pages.strips import LEAST_SIDE, strip

HATCH = (150, 158, 168)  # what is hidden, between a light page and a dark one
FAINT = 70  # of 255: how opaque the teacher's tokens are where the student was shown the clip


def colours_of(guesses: Sequence[Guess]) -> TokenColours:
    """One set of colours for all that the teacher says of these clips."""
    targets = [guess.sample.target for guess in guesses if guess.sample.target is not None]
    return TokenColours.of(np.concatenate([target.reshape(-1, target.shape[-1]) for target in targets]))


def strips_of(guess: Guess, colours: TokenColours) -> dict[str, bytes]:
    """A clip as rows of frames, one frame a time step of the tokens.

    Returns:
        PNGs: the "clip", what is "seen" of it, what the "teacher" says (faint where the clip is seen), and what the
        "student" says where it is hidden.
    """
    sample, hidden = guess.sample, guess.hidden
    assert sample.target is not None
    frames = sample.clip[:: len(sample.clip) // len(hidden)]  # the first of each tubelet
    shade = np.kron(hidden, np.ones((1, frames.shape[1] // hidden.shape[1], frames.shape[2] // hidden.shape[2])))
    seen = np.where(shade[..., None] > 0, np.array(HATCH, dtype=np.uint8), frames)
    target = _rgba(colours.paint(sample.target), np.where(hidden, 255, FAINT))
    said = _rgba(colours.paint(guess.predicted), np.where(hidden, 255, 0))
    return {
        "clip": strip(frames),
        "seen": strip(seen),
        "teacher": strip(target, _side_of(frames)),
        "student": strip(said, _side_of(frames)),
    }


def _side_of(frames: NDArray[np.uint8]) -> int:
    return max(LEAST_SIDE, len(frames[0]))


def _rgba(colours: NDArray[np.floating], opaque: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Colours [T, h, w, 3] in [0, 1] with how opaque they are, u8 [T, h, w, 4]."""
    return np.concatenate([np.rint(255 * colours), opaque[..., None]], axis=-1).astype(np.uint8)

"""Subtitles in SubRip's form: those that are shown while certain frames are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TIMES = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")
_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Subtitle:
    """A piece of text.

    Attributes:
        start, stop: when it is shown, in seconds.
        text: in one line, without tags.
    """

    start: float
    stop: float
    text: str


def read_subtitles(path: Path) -> list[Subtitle]:
    """All of a file, in its order.

    Raises:
        ValueError: it is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    found: list[Subtitle] = []
    times: tuple[float, float] | None = None
    words: list[str] = []
    for line in [*lines, ""]:
        if match := _TIMES.search(line):
            numbers = [int(number) for number in match.groups()]
            times, words = (_seconds(numbers[:4]), _seconds(numbers[4:])), []
        elif line.strip():
            words.append(line)
        elif times is not None:
            text = " ".join(_TAGS.sub("", " ".join(words)).split())
            found += [Subtitle(*times, text)] if text else []
            times = None
    if any(line.strip() for line in lines) and not any(_TIMES.search(line) for line in lines):
        raise ValueError(f"{path} holds no subtitles in SubRip's form")
    return found


def shown_at(subtitles: Sequence[Subtitle], seconds: Sequence[float]) -> str:
    """What is shown at any of these times, each piece once, a line each."""
    return "\n".join(each.text for each in subtitles if any(each.start <= second < each.stop for second in seconds))


def _seconds(numbers: Sequence[int]) -> float:
    hours, minutes, seconds, thousandths = numbers
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000

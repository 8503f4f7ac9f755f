"""COCO's official tokenizer and METEOR, which are Java programs: used where they run, and done without where not."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from evaluation.caption_words import caption_words

_EXTRA = "pip install 'reelshard[captions]'"
_STANDARD_ERROR = 2
Captions = Mapping[str, Sequence[str]]


class ToolFailedError(Exception):
    """An official program did not do what it is for; the message says how in a few words."""


def missing_for_meteor() -> str:
    """What is not there; empty if all is."""
    import importlib.util

    if shutil.which("java") is None:
        return "there is no Java"
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        return f"pycocoevalcap is not installed ({_EXTRA})"
    folder = Path(package.submodule_search_locations[0]) / "tokenizer"
    if " " in str(folder):
        return f"METEOR does not find its files in a folder with a blank in its name, {folder}"
    return "" if os.access(folder, os.W_OK) else f"its tokenizer keeps a file in {folder}, which cannot be written to"


def official_words(captions: Captions) -> dict[str, list[str]]:
    """Captions with their words apart, by the official tool; what it says meanwhile is told only where it failed.

    Raises:
        ToolFailedError: it gave nothing, or not all.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    wrapped = {name: [{"caption": " ".join(each.split())} for each in some] for name, some in captions.items()}
    with tempfile.TemporaryFile() as said:
        try:
            with _programs_say_it_to(said):
                found: dict[str, list[str]] = PTBTokenizer().tokenize(wrapped)
        except (OSError, ValueError) as error:
            raise ToolFailedError(f"the official tokenizer failed: {_in_short(error)}{_reason(said)}") from None
        if {name: len(some) for name, some in found.items()} != {name: len(some) for name, some in captions.items()}:
            raise ToolFailedError(f"the official tokenizer did not split all captions{_reason(said)}")
        some_words = any(caption_words(each) for some in captions.values() for each in some)
        if some_words and not any(map(any, found.values())):
            raise ToolFailedError(f"the official tokenizer found no words{_reason(said)}")
    return found


def meteor(captions: Captions, references: Captions) -> tuple[float, Sequence[float]]:
    """METEOR of the set and of each caption, by the official tool, a process of its own that is ended here.

    Raises:
        ToolFailedError: it gave no numbers.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        scorer = Meteor()
    except OSError as error:
        raise ToolFailedError(f"METEOR's program does not start: {_in_short(error)}") from None
    failure: Exception | None = None
    try:
        score, each = scorer.compute_score({name: references[name] for name in captions}, captions)
    except (OSError, ValueError) as error:
        failure = error
    finally:
        scorer.lock = threading.Lock()  # its own may be held for good, and its end would wait for it
        scorer.meteor_p.kill()
        _, said = scorer.meteor_p.communicate()  # closes its pipes
    if failure is not None:
        raise ToolFailedError(f"METEOR's program failed: {_in_short(failure)}{_reason(io.BytesIO(said))}")
    return float(score), [float(value) for value in each]


@contextlib.contextmanager
def _programs_say_it_to(file: BinaryIO) -> Iterator[None]:
    """Give programs that are started meanwhile a file for what they say on standard error, and this process as well."""
    terminal = os.dup(_STANDARD_ERROR)
    os.dup2(file.fileno(), _STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(terminal, _STANDARD_ERROR)
        os.close(terminal)


def _reason(said: BinaryIO) -> str:
    """How what a program said begins, behind a colon."""
    said.seek(0)
    found = _in_short(said.read(4096).decode(errors="replace"))
    return f": {found}" if found else ""


def _in_short(said: object) -> str:
    return " ".join(str(said).split())[:200]

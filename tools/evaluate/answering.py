"""A model asked about one file after another: decoded ahead, kept as they are answered, and gone on with when stopped.

With `--out DIR` each answer is a line of `DIR/NAME.answers.jsonl` as soon as it is known. The same command finds them
there and asks the rest; once all are answered and the result is written, the file goes.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from shards.format.errors import ShardError
from shards.format.publish import canonical_json

if TYPE_CHECKING:
    from evaluation.result import Result
    from evaluation.speaker import Message, Pictures, Speaker

Way = TypeVar("Way")
READERS = 2  # files that are decoded at once
AHEAD = 2  # files that are decoded while one is asked about
FAILED = "failed"  # the table of what could not be read
NAMED = 3  # of those that failed


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about a file.

    Attributes:
        name: of the question, unique.
        about: of what is looked at; those that follow each other with the same one share its pictures.
        messages: the turns, the last one the user's.
    """

    name: str
    about: Hashable
    messages: Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of it.

    Attributes:
        found: by the question's name.
        problems: why there is no answer, by the name of what could not be read.
        num_failed: questions without an answer.
    """

    found: Mapping[str, Any] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    num_failed: int = 0

    def table(self) -> dict[str, list[dict[str, str]]]:
        """All that could not be read, as a table of a result; none where there is nothing."""
        rows = [{"name": name, "problem": problem} for name, problem in self.problems.items()]
        return {FAILED: rows} if rows else {}

    def notes(self, advice: str = "") -> list[str]:
        """A line on what failed, and its first names; none where nothing did."""
        if not self.problems:
            return []
        named = "; ".join(list(self.problems.values())[:NAMED])
        more = f"; and {len(self.problems) - NAMED} more" if len(self.problems) > NAMED else ""
        what = f"failed: {self.num_failed}, for want of {len(self.problems)} videos or images"
        return [f"{what}: {named}{more}{advice and f'. {advice}'}"]


def spell_tables(result: Result) -> list[str]:
    """The accuracies of a result's tables, a line each."""
    return [
        f"  {kind} {row['name']}: {row['accuracy']:.2%} of {row['count']}"
        for kind, table in result.tables.items()
        if kind != FAILED
        for row in table
    ]


Found = tuple["Result", str, Callable[[], None]]  # with the page's title, and what is done once it is written


def add_answering_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Declare how long an answer may be, beside the model itself."""
    from tools.speakers import add_speaker_arguments

    add_speaker_arguments(parser)
    parser.add_argument(
        "--max-new-tokens", type=int, default=max_new_tokens, help=f"of an answer at most (default {max_new_tokens})"
    )


def choose_way(args: argparse.Namespace, ways: Mapping[tuple[str, ...], Way]) -> Way:
    """Which of the ways to score the arguments describe: those whose names are given, and no other.

    Raises:
        ValueError: they describe none, or an answer is to have no token.
    """
    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {args.max_new_tokens}; give 1 or more")
    known = {name for names in ways for name in names}
    given = {name for name in known if getattr(args, name) is not None}
    for names, way in ways.items():
        if set(names) == given:
            return way
    wanted = ", or ".join(" ".join(f"--{name}" for name in names) for names in ways)
    has = " ".join(f"--{name}" for name in sorted(given)) or "nothing of it"
    raise ValueError(f"`evaluate {args.name}` needs {wanted}; given is {has}")


def written(speaker: Speaker, most: int) -> Callable[[Question, Pictures], str]:
    """How a question is answered in words of the model's own."""

    def answer(question: Question, pictures: Pictures) -> str:
        said = deque(speaker.write(pictures, question.messages, most), maxlen=1)
        return said[0] if said else ""

    return answer


def ask(
    args: argparse.Namespace,
    questions: Sequence[Question],
    read: Callable[[Any], Pictures],
    answer: Callable[[Question, Pictures], Any],
    asked: Mapping[str, Any],
) -> tuple[Answers, Kept]:
    """Ask all, with a bar.

    Args:
        args: with `out` and the command's `name`.
        questions: whatever is looked at twice stands together.
        read: gives the pictures of `about`; what it raises as ValueError is a failure of that file.
        answer: gives what JSON can hold.
        asked: names all that decides the answers: models, files, prompts; those of others are not gone on with.

    Returns:
        What came of it, and where it is kept: to be dropped once the result is written.

    Raises:
        ValueError: unfinished answers of something else lie in `--out`.
    """
    from tools.progress import track

    kept = Kept(None if args.out is None else args.out / f"{args.name}.answers.jsonl", asked)
    problems: dict[str, str] = {}
    num_failed = 0
    left = [question for question in questions if question.name not in kept.found]
    with track("answering", total=len(questions), unit="questions") as advance, kept:
        if len(left) < len(questions):
            advance(len(questions) - len(left))
        for group, pictures in _with_pictures(left, read):
            if isinstance(pictures, ValueError):
                problems[str(group[0].about)] = str(pictures)
                num_failed += len(group)
                advance(len(group), len(group))
                continue
            for question in group:
                kept.add(question.name, answer(question, pictures))
                advance(1)
    return Answers(found=kept.found, problems=problems, num_failed=num_failed), kept


def _with_pictures(
    questions: Iterable[Question], read: Callable[[Any], Pictures]
) -> Iterator[tuple[list[Question], Pictures | ValueError]]:
    """Questions about the same thing, with its pictures, or why there are none."""
    groups = (list(group) for _, group in groupby(questions, key=lambda question: question.about))
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="reelshard-read")
    try:
        ahead: deque[tuple[list[Question], Future[Pictures | ValueError]]] = deque()
        while True:
            for group in islice(groups, 1 + AHEAD - len(ahead)):
                ahead.append((group, pool.submit(_read, read, group[0].about)))
            if not ahead:
                return
            group, pictures = ahead.popleft()
            yield group, pictures.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(read: Callable[[Any], Pictures], about: Hashable) -> Pictures | ValueError:
    try:
        return read(about)
    except (ValueError, ShardError) as error:
        return ValueError(str(error))


class Kept:
    """Answers in a file, a line each, of which the first says what was asked; without a file, in memory alone."""

    def __init__(self, path: Path | None, asked: Mapping[str, Any]) -> None:
        """Find what was answered before.

        Raises:
            ValueError: it is of something else.
        """
        self.found: dict[str, Any] = {}
        self._path = path
        self._file: BinaryIO | None = None
        self._header, self._length = canonical_json({"asked": asked}) + b"\n", 0
        if path is None or not path.is_file():
            return
        content = path.read_bytes()
        self._length = content.rfind(b"\n") + 1  # a line that was cut short is asked again
        lines = content[: self._length].splitlines(keepends=True)
        if lines and lines[0] != self._header:
            raise ValueError(
                f"{path} holds answers that were not finished, of another model, file or question: give another --out, "
                "or delete it"
            )
        try:
            self.found = dict(json.loads(line) for line in lines[1:])
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged: delete it, and all is asked again") from None

    def add(self, name: str, answer: Any) -> None:
        """Keep one more."""
        self.found[name] = answer
        self._write(json.dumps([name, answer]).encode() + b"\n")

    def drop(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Kept:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("r+b" if self._length else "wb")
            self._file.truncate(self._length)
            self._file.seek(self._length)
            if not self._length:
                self._write(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, line: bytes) -> None:
        if self._file is not None:
            self._file.write(line)
            self._file.flush()

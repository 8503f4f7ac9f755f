"""How a command ends: what goes wrong is one line on stderr and an exit status, a traceback only with `--debug`.

| status | meaning |
|---:|---|
| 0 | done |
| 1 | an error in data, files or arguments; `verify` found damage; a check of `preflight` failed |
| 2 | wrong arguments |
| 70 | an error that was not expected |
| 75 | `train` stopped by SIGTERM, with a checkpoint |
| 130, 143 | Ctrl-C, SIGTERM |
| 141 | the reader of the output has left, as `head` does |
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from shards.format.errors import ShardError
from tools.signals import exit_status, spell_stop, work_is_done
from tools.terminal import clean

EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
EXIT_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE has ended
EXPECTED = (ShardError, ValueError, OSError, ImportError, FloatingPointError)
PACKAGES = ("shards", "pipeline", "model", "training", "evaluation", "tools")
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
LONGEST_TEXT = 1000


def leave_cleanly(work: Callable[[], int], *, debug: bool = False) -> int:
    """Do the work of a command, and turn whatever ends it into an exit status.

    Args:
        work: does it; the result is the exit status.
        debug: print the traceback of an error too.
    """
    try:
        status = _work(work, debug)
    except KeyboardInterrupt as stop:
        work_is_done()
        return _fail(spell_stop(stop), exit_status(stop), debug)
    work_is_done()
    return status


def _work(work: Callable[[], int], debug: bool) -> int:
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what the terminal's encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status = work()
        except SystemExit as exit_:  # argparse has said what there is to say
            status = exit_.code if isinstance(exit_.code, int) else 1
        if sys.stdout:
            sys.stdout.flush()
    except EXPECTED as error:
        reader_has_left = isinstance(error, BrokenPipeError) and _reader_has_left()
        lost = _drop_output_that_cannot_be_written()
        if reader_has_left:
            return EXIT_BROKEN_PIPE
        return _fail(f"error: {lost or _describe(error)}", 1, debug)
    except Exception as error:
        line = f"unexpected error: {type(error).__name__}: {_describe(error)}; --debug shows where it came from"
        return _fail(line, EXIT_UNEXPECTED, debug)
    return status


def _fail(line: str, status: int, debug: bool) -> int:
    if sys.stderr:
        with contextlib.suppress(OSError):  # whoever would read it has left
            if debug:
                traceback.print_exc()
            print(f"reelshard: {line}", file=sys.stderr, flush=True)
    return status


def _describe(error: Exception) -> str:
    """The error in one line that a terminal can show, with the file where it is known."""
    text, where = str(error), ""
    if isinstance(error, OSError) and error.strerror:
        text, named = error.strerror, error.filename
        text = text if named is None else f"{os.fsdecode(named)}: {text}"
    if not isinstance(error, EXPECTED) or (isinstance(error, OSError) and error.filename is None):
        path = _path_in_hand(error)
        where = "" if path is None else f" (at work on {path})"
    text = " ".join(" ".join([text, *getattr(error, "__notes__", [])]).split()) or type(error).__name__
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]} ..."
    return clean(text + where)


def _path_in_hand(error: Exception) -> Path | None:
    """The path that the innermost of our functions which had one was at work on."""
    path = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] in PACKAGES:
            path = next((value for value in frame.f_locals.values() if isinstance(value, Path)), path)
    return path


def _reader_has_left() -> bool:
    """Whether nobody reads what we print: a pipe to a worker may be broken instead, which is an error."""
    poll = select.poll()
    for number in (STANDARD_OUTPUT, STANDARD_ERROR):
        poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _drop_output_that_cannot_be_written() -> str | None:
    """Keep the interpreter from writing it once more when it shuts down, with a traceback; says why it could not."""
    reason = None
    for stream, number in ((sys.stdout, STANDARD_OUTPUT), (sys.stderr, STANDARD_ERROR)):
        try:
            if stream:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            reason = f"the output could not be written: {error.strerror}"
    return reason

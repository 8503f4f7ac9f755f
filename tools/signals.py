"""Ctrl-C and SIGTERM end a command in one line, with status 130 or 143, at whatever moment they come.

While modules are imported and nothing has been begun, the process ends at once: an exception in the middle of an import
goes through code that does not expect it, which prints a traceback, takes it for another error, or swallows it. From
then on they are exceptions, so that what was begun is put away.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import CodeType, FrameType

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop as for Ctrl-C, with the exit status of a terminated process."""


def answer_signals() -> None:
    """Install the answers for the rest of the process; what it was told to ignore (`nohup`, `&`) stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _answer)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _answer)
    sys.unraisablehook = _raise_again


def work_is_done() -> None:
    """Let a signal that comes while the interpreter shuts down end the process without a word."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _answer:
            signal.signal(number, signal.SIG_DFL)


def spell_stop(stop: KeyboardInterrupt) -> str:
    """What a command that was stopped has to say."""
    return str(stop) or ("terminated" if isinstance(stop, Terminated) else "interrupted")


def exit_status(stop: KeyboardInterrupt) -> int:
    """The status of a command that was stopped."""
    return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


def _answer(number: int, frame: FrameType | None) -> None:
    stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if _importing(frame) and _nothing_begun():
        os.write(2, f"reelshard: {spell_stop(stop)}\n".encode())
        os._exit(exit_status(stop))
    if number == signal.SIGTERM:  # only once: putting things away is not to be stopped half-way
        signal.signal(number, signal.SIG_IGN)
    raise stop


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _nothing_begun() -> bool:
    """Whether this process has neither threads nor children of its own."""
    if threading.active_count() > 1:
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a signal again that fell into a destructor, which cannot raise: it would print a traceback and be lost."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = signal.SIGINT
    if isinstance(unraisable.exc_value, Terminated):
        number = signal.SIGTERM
        signal.signal(number, _answer)
    threading.Thread(target=_send_later, args=(number, threading.get_ident()), daemon=True).start()


def _send_later(number: int, thread: int) -> None:
    """Send a signal once `_raise_again` is left, however long this machine takes for that: inside of it, it is lost."""
    while _runs(_raise_again.__code__, thread):
        time.sleep(0.001)
    os.kill(os.getpid(), number)


def _runs(code: CodeType, thread: int) -> bool:
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False

"""Work of the demo in several processes, which end with it: on Ctrl-C, and when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Part = TypeVar("Part")
Found = TypeVar("Found")
LOOK_SECONDS = 1.0


def in_processes(
    work: Callable[[Part], Found], parts: Sequence[Part], *, workers: int, look: Callable[[], None] = lambda: None
) -> Iterator[Found]:
    """Do the parts of some work in processes.

    Args:
        work: does a part; it is pickled, with what it gives back.
        parts: of the work.
        workers: processes at once.
        look: called about once a second while there is nothing new.

    Yields:
        What came of the parts, in the order in which they are done. Where one fails, or the work is stopped, all
        processes are ended at once, whatever they are doing.
    """
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        with _signals_blocked():  # the workers inherit it: what a terminal sends to all is this process's business
            futures = {pool.submit(work, part) for part in parts}
        try:
            while futures:
                done, futures = wait(futures, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                look()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.kill()  # it waits for no signal, and what it does may take minutes
            raise


def _end_with_parent() -> None:
    """Have this worker end when the process that started it was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Threads for work that is queued all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def thread_pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that begins nothing more once the block has failed or was interrupted; it waits for what has begun.

    An executor alone would first do all that is still queued, and Ctrl-C would seem to do nothing.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

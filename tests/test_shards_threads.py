"""Threads for work that is queued all at once."""

import threading

import pytest

from shards.threads import thread_pool


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_pool_whose_block_fails_ends_what_has_begun_and_begins_nothing_more(error: type[BaseException]) -> None:
    begun, may_end, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        may_end.wait(10)
        done.append("first")

    with pytest.raises(error), thread_pool(1) as pool:
        pool.submit(first)
        for _ in range(100):
            pool.submit(done.append, "queued")
        begun.wait(10)
        threading.Timer(0.1, may_end.set).start()
        raise error
    assert done == ["first"]

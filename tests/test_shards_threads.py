"""Threads for work that is queued all at once."""

import threading

import pytest

from shards.threads import thread_pool


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_pool_whose_block_fails_ends_what_has_begun_and_begins_nothing_more(error: type[BaseException]) -> None:
    begun, last_is_settled, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        last_is_settled.wait(5)
        done.append("first")

    def fail() -> None:
        with thread_pool(1) as pool:
            pool.submit(first)
            queued = [pool.submit(done.append, "queued") for _ in range(100)]
            queued[-1].add_done_callback(lambda _: last_is_settled.set())
            begun.wait(5)
            raise error

    with pytest.raises(error):
        fail()
    assert done == ["first"]

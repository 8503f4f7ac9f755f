"""Decoders in processes of their own: one that hangs is ended by its time limit, one that crashes costs one video.

The decoder process takes items over a pipe and leaves what it made of them in memory that it shares with the builder.
Its time limit is a kernel timer set for each item, which ends the process whatever the decoder is doing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from shards.builder.decode.crossing import Message, SharedMemory, memory_file
from shards.builder.failure import BuildFailure, Reason
from shards.builder.item import Item
from shards.builder.plan import Plan
from shards.builder.prepare import Outcome, failure_record, prepare_item
from shards.builder.samples.base import SampleKind
from shards.format.errors import ShardError

BLOCKED = {signal.SIGINT, signal.SIGTERM}  # helpers end when their builder does, not with what a terminal sends to all
_PROGRAM = "from shards.builder.decode.isolate import main; main()"
_ATTEMPTS = 2  # a decoder that was killed may have been killed by accident


class DecodePool:
    """Decodes items in `num_workers` decoders: processes with a time limit, or threads where the plan sets none."""

    def __init__(self, plan: Plan, num_workers: int) -> None:
        """Start nothing yet: decoders start with the first items."""
        self._plan = plan
        self._local = threading.local()
        self._decoders: list[DecoderProcess] = []
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
        self._closed = False

    def submit(self, shard: int, item: Item) -> Future[Outcome]:
        """Decode an item; whatever is wrong with the video ends up in the outcome.

        The future raises ShardError where no decoder process can be started.
        """
        if self._plan.config.time_limit_seconds is None or item.problem is not None:
            return self._threads.submit(prepare_item, self._plan.kind, self._plan.root, shard, item)
        return self._threads.submit(self._decode, shard, item)

    def _decode(self, shard: int, item: Item) -> Outcome:
        decoder: DecoderProcess | None = getattr(self._local, "decoder", None)
        if decoder is None:
            signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # of this thread: the process inherits it
            decoder = self._local.decoder = DecoderProcess(self._plan)
            self._decoders.append(decoder)
        return decoder.decode(shard, item, lambda: self._closed)

    def shutdown(self) -> None:
        """End the decoders, also in the middle of an item, and wait for their threads."""
        self._closed = True
        for decoder in list(self._decoders):
            decoder.kill()
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()


class DecoderProcess:
    """One decoder in a process of its own, started again when it has ended. Used by one thread."""

    def __init__(self, plan: Plan) -> None:
        """Take the plan; the process starts with the first item."""
        assert plan.config.time_limit_seconds is not None
        self._plan, self._limit = plan, plan.config.time_limit_seconds
        self._file = memory_file()
        self._memory = SharedMemory(self._file)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def decode(self, shard: int, item: Item, closed: Callable[[], bool]) -> Outcome:
        """Decode one item; `closed` tells whether a lost decoder is no news because the pool has ended it."""
        start = time.perf_counter()
        for attempt in range(_ATTEMPTS):
            if closed():
                raise ShardError("the build was stopped")
            pipe = self._pipe if self._pipe is not None else self._start()
            if closed():  # a process that was not yet there when the pool ended them
                raise ShardError("the build was stopped")
            try:
                pipe.send((shard, item))
                message: Message = pipe.recv()
            except (EOFError, OSError):
                status = self._end()
                if not closed() and (status == -signal.SIGALRM or attempt == _ATTEMPTS - 1):
                    failure = failure_record(item, shard, _ended(status, self._limit))
                    seconds = time.perf_counter() - start
                    return Outcome(item=item, shard=shard, prepared=None, failure=failure, seconds=seconds)
                continue
            outcome: Outcome = self._memory.take(message)
            return replace(outcome, seconds=time.perf_counter() - start)
        raise ShardError("the build was stopped")

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        paths = [str(Path(__file__).parents[3]), *filter(None, sys.path)]  # a kind of sample may come from anywhere
        command = [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), str(self._file)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._file),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        self._pipe = ours
        try:
            ours.send((self._plan.kind, self._plan.root, self._limit))
            ours.recv()
        except (EOFError, OSError):
            raise ShardError(f"a decoder process could not start: it ended with status {self._end()}") from None
        return ours

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()

    def _end(self) -> int:
        assert self._process is not None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        return self._process.wait()

    def close(self) -> None:
        """End the process and give its memory back."""
        if self._process is not None:
            self._process.kill()
            self._end()
        self._memory.close()


def _ended(status: int, limit_seconds: float) -> BuildFailure:
    if status == -signal.SIGALRM:
        return BuildFailure("timeout", f"the decoder did not finish in {limit_seconds:g} s and was stopped")
    reason: Reason = "decode_error"
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return BuildFailure(reason, f"the decoder process ended with {how}, {_ATTEMPTS} times")


def _serve(pipe: Connection, memory: SharedMemory) -> None:
    """Decode items until the builder is gone."""
    start: tuple[SampleKind, Path, float] = pipe.recv()
    kind, root, limit = start
    pipe.send("ready")
    while True:
        shard, item = pipe.recv()
        signal.setitimer(signal.ITIMER_REAL, limit)
        outcome = prepare_item(kind, root, shard, item)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(memory.put(outcome))


def main() -> None:
    """Run a decoder process; its arguments are the numbers of the pipe and of the shared memory."""
    with contextlib.suppress(EOFError, OSError):
        _serve(Connection(int(sys.argv[1])), SharedMemory(int(sys.argv[2])))

"""One worker process for each device, each with a teacher of its own. Workers ask for their next shard when they can
take it, so fast ones build more."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from shards.builder.config import Teacher, TeacherDescription
from shards.builder.decode.isolate import BLOCKED
from shards.builder.journal import ShardReport
from shards.builder.plan import Plan, differences
from shards.builder.worker import Deliver, ShardWorker
from shards.format.errors import ShardError
from shards.progress import Progress

MakeTeacher = Callable[[str], Teacher | None]  # device -> teacher; sent to the worker, so a function of a module
_spawn = multiprocessing.get_context("spawn")  # never fork: a decoder or a CUDA context does not survive it


@dataclass
class _Member:
    number: int
    device: str
    process: BaseProcess
    pipe: Connection
    facts: TeacherDescription | None


class ProcessPool:
    """An engine of worker processes on this machine; a context manager.

    A worker that dies takes the shards in its hands with it; it is started again when `run` is called again.
    """

    def __init__(self, devices: Sequence[str], make_teacher: MakeTeacher, deliver: Deliver | None = None) -> None:
        """Take the devices, one process each, what makes a teacher there, and what takes finished shards elsewhere."""
        self._devices, self._make_teacher, self._deliver = devices, make_teacher, deliver
        self._members: dict[int, _Member] = {}  # by place in `devices`

    def __enter__(self) -> ProcessPool:
        try:
            self._start_missing()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def facts(self) -> TeacherDescription | None:
        """Return what the teachers say about themselves, the same in each process.

        Raises:
            ShardError: they differ, as on devices of different models.
        """
        self._start_missing()
        first, *others = self._members.values()
        for other in others:
            if first.facts and other.facts and (found := differences(first.facts.provenance, other.facts.provenance)):
                raise ShardError(
                    f"the teachers on {first.device} and {other.device} differ: {'; '.join(found)}. Use devices of one "
                    "model, so that a shard has the same bytes whoever builds it"
                )
        return first.facts

    def run(
        self, plan: Plan, out: Path, shards: Sequence[int], progress: Progress
    ) -> Generator[ShardReport, None, None]:
        """Build shards; those in the hands of a process that dies are missing from what comes back."""
        self._start_missing()
        remaining = deque(shards)
        per_worker = max(1, plan.config.num_workers // len(self._devices))
        busy = {member.pipe: member for member in self._members.values()}
        for member in busy.values():
            with suppress(OSError):  # of a process that has just died: seen below
                member.pipe.send((plan, out, per_worker))
        try:
            while busy:
                for pipe in wait(list(busy)):
                    assert isinstance(pipe, Connection)
                    try:
                        kind, value = pipe.recv()
                        if kind == "next":
                            pipe.send(remaining.popleft() if remaining else None)
                    except (EOFError, OSError):
                        self._bury(busy.pop(pipe))
                        continue
                    if kind == "progress":
                        progress(*value)
                    elif kind == "report":
                        yield value
                    elif kind == "error":
                        raise value
                    elif kind == "done":
                        del busy[pipe]
        finally:  # stopped in the middle: what is still at work must not go on
            for member in busy.values():
                self._bury(member)

    def _start_missing(self) -> None:
        started = []
        for number, device in enumerate(self._devices):
            if number not in self._members:
                ours, theirs = _spawn.Pipe()
                process = _spawn.Process(
                    target=_work, args=(theirs, device, self._make_teacher, self._deliver), name=device
                )
                old = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
                try:
                    process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, old)
                theirs.close()
                self._members[number] = _Member(number, device, process, ours, None)
                started.append(self._members[number])
        for member in started:
            try:
                kind, value = member.pipe.recv()
            except (EOFError, OSError):
                self._bury(member)
                raise ShardError(
                    f"the worker process on {member.device} ended with status {member.process.exitcode} before it began"
                ) from None
            if kind == "error":
                raise value
            member.facts = value

    def _bury(self, member: _Member) -> None:
        del self._members[member.number]
        member.pipe.close()
        member.process.kill()
        member.process.join()

    def close(self) -> None:
        """End all processes; a shard in hand is dropped."""
        for member in list(self._members.values()):
            self._bury(member)


def _work(pipe: Connection, device: str, make_teacher: MakeTeacher, deliver: Deliver | None) -> None:
    """Serve one engine: say what the teacher is, then build what it hands out until it is gone."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            teacher = make_teacher(device)
            pipe.send(("facts", None if teacher is None else TeacherDescription.of(teacher)))
            while True:
                plan, out, num_decoders = pipe.recv()
                worker = ShardWorker(
                    plan,
                    out,
                    teacher,
                    num_decoders,
                    progress=lambda done, failed=0: pipe.send(("progress", (done, failed))),
                    deliver=deliver,
                )
                for report in worker.build_all(_requested(pipe)):
                    pipe.send(("report", report))
                pipe.send(("done", None))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            pipe.send(("error", portable_error(error, device)))


def _requested(pipe: Connection) -> Iterator[int]:
    while True:
        pipe.send(("next", None))
        shard: int | None = pipe.recv()
        if shard is None:
            return
        yield shard


def portable_error(error: Exception, device: str) -> Exception:
    """The error as the builder shall raise it: messages for people as they are, others with the device."""
    if isinstance(error, ShardError | ValueError):
        return ShardError(str(error)) if isinstance(error, ShardError) else ValueError(str(error))
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    details: Any = " ".join(str(error).split())
    return ShardError(f"the worker on {device} stopped: {type(error).__name__}: {details}")

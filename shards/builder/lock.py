"""Who may build in a folder: one whole build, or several partitions of one.

The kernel drops a lock with the process that holds it, so the file that a killed build leaves behind is no lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shards.builder.journal import WORK_FOLDER
from shards.builder.partition import Partition
from shards.format.errors import ShardError

_NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def build_lock(out: Path, partition: Partition | None = None) -> Iterator[bool]:
    """Hold the right to build in `out` while the block runs.

    On a file system without locks everyone may build: two builders of one shard publish the same bytes.

    Args:
        out: the data set's folder, which must exist.
        partition: None for a whole build, which tolerates nobody else; partitions tolerate other partitions.

    Yields:
        Whether nobody else was building when this build began.

    Raises:
        ShardError: another process builds here.
    """
    with ExitStack() as stack:
        folder = out / WORK_FOLDER
        if partition is None:
            stack.callback(os.close, _acquire(folder / "lock", fcntl.LOCK_EX, f"{out}"))
            yield True
            return
        try:
            shared, alone = _acquire(folder / "lock", fcntl.LOCK_EX, f"{out}"), True
            fcntl.flock(shared, fcntl.LOCK_SH)
        except ShardError:
            shared, alone = _acquire(folder / "lock", fcntl.LOCK_SH, f"{out}"), False
        stack.callback(os.close, shared)
        own = folder / f"partition-{partition.index}-of-{partition.count}.lock"
        stack.callback(os.close, _acquire(own, fcntl.LOCK_EX, f"partition {partition} of {out}"))
        yield alone


def _acquire(path: Path, mode: int, what: str) -> int:
    """Open and lock a file; opened again where a build that just ended has removed it in between."""
    while True:
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            raise ShardError(
                f"another process{f' ({holder})' if holder else ''} is building into {what}; wait for it or stop it"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                os.close(file)
                raise
        if _is_at(file, path):
            os.ftruncate(file, 0)
            os.write(file, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

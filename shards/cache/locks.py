"""Locks on bytes of an open file, between processes: they end with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
import struct
import time

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process
LONGEST_PAUSE_SECONDS = 0.02


def try_lock(descriptor: int, place: int, *, shared: bool = False) -> bool:
    """Take a lock that belongs to this opening of the file (OFD), if nobody holds one against it.

    Args:
        descriptor: of a file opened for reading and writing.
        place: which byte; it need not be there.
        shared: together with others who share it.
    """
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock(descriptor: int, place: int, *, shared: bool = False) -> None:
    """Wait for a lock that others hold briefly."""
    pause = 0.0005
    while not try_lock(descriptor, place, shared=shared):
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def unlock(descriptor: int, place: int) -> None:
    """Give a lock back."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, place, 1, 0))

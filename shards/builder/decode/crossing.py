"""How what a decoder process made gets to the builder: a few bytes through the pipe, the rest in shared memory.

Pickle's protocol 5 keeps large buffers apart from what describes them. They are laid one behind the other into a file
of memory that both processes map, and which grows with the largest sample so far.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from typing import Any, NamedTuple

import numpy as np

_ALIGNMENT = 64  # of each buffer, so that arrays are aligned


class Message(NamedTuple):
    """What goes through the pipe.

    Attributes:
        head: describes the object; small.
        sizes: bytes of each buffer in shared memory, in order.
    """

    head: bytes
    sizes: tuple[int, ...]


class SharedMemory:
    """A file of memory that needs no room in /dev/shm, mapped by both sides. Holds one object at a time."""

    def __init__(self, file: int) -> None:
        """Take the file; it may be empty."""
        self._file = file
        self._map: mmap.mmap | None = None

    def put(self, value: Any) -> Message:
        """Lay an object's buffers into the memory, which grows where it is too small."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        pieces = [buffer.raw() for buffer in buffers]
        places, num_bytes = _places([piece.nbytes for piece in pieces])
        if num_bytes > os.fstat(self._file).st_size:
            os.ftruncate(self._file, num_bytes)
        memory = self._mapped(num_bytes)
        for place, piece in zip(places, pieces, strict=True):
            memory[place : place + piece.nbytes] = piece
        return Message(head, tuple(piece.nbytes for piece in pieces))

    def take(self, message: Message) -> Any:
        """Return the object that the other side has put; it is a copy, so that the next one may come."""
        places, num_bytes = _places(message.sizes)
        copy = np.frombuffer(self._mapped(num_bytes), np.uint8, num_bytes).copy()
        pieces = [copy[place : place + size].data for place, size in zip(places, message.sizes, strict=True)]
        return pickle.loads(message.head, buffers=pieces)

    def _mapped(self, num_bytes: int) -> memoryview:
        """The file, mapped anew where it has grown."""
        if self._map is None or len(self._map) < num_bytes:
            self.unmap()
            self._map = mmap.mmap(self._file, 0)
        return memoryview(self._map)

    def unmap(self) -> None:
        """Give the mapping back."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def close(self) -> None:
        """Give the memory back."""
        self.unmap()
        os.close(self._file)


def memory_file() -> int:
    """Return a file descriptor of memory, of no bytes yet."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("reelshard-sample")
    with tempfile.TemporaryFile() as temporary:
        return os.dup(temporary.fileno())


def _places(sizes: list[int] | tuple[int, ...]) -> tuple[list[int], int]:
    """Return where each buffer begins, and where the last one ends."""
    places, end = [], 1  # a file of no bytes cannot be mapped
    for size in sizes:
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        places.append(begin)
        end = begin + size
    return places, end

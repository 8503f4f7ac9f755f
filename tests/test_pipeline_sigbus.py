"""A mapped file that is cut or overwritten is an error, never a signal; and the signals of others stay theirs."""

from __future__ import annotations

import faulthandler
import os
import shlex
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, PAGESIZE, mmap
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.read.gather import COMPILED, NO_LIBRARY, copy_bytes, gather

CC = shlex.split(os.environ.get("CC", "cc"))
COMPILER = shutil.which(CC[0])
pytestmark = pytest.mark.skipif(not COMPILED, reason=NO_LIBRARY)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
ROOT = Path(__file__).parent.parent

NUM_PIECES, PIECE_BYTES = 3, PAGESIZE
ROW_BYTES = NUM_PIECES * PIECE_BYTES


class Mapped:
    """A mapped file of some payloads, of which the last ones were cut off."""

    def __init__(self, path: Path, num_rows: int, num_kept: float) -> None:
        self.content = np.random.default_rng(0).integers(0, 256, (num_rows, NUM_PIECES, PIECE_BYTES), np.uint8)
        path.write_bytes(self.content.tobytes())
        with path.open("rb") as file:
            self._map = mmap(file.fileno(), 0, access=ACCESS_READ)
        first = np.frombuffer(self._map, np.uint8).ctypes.data
        self.addresses = np.arange(num_rows, dtype=np.uint64) * ROW_BYTES + np.uint64(first)
        os.truncate(path, round(num_kept * ROW_BYTES))

    def gather(self, positions: NDArray[np.int64] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        count = NUM_PIECES if positions is None else positions.shape[1]
        out = np.full((len(self.addresses), count, PIECE_BYTES), 7, np.uint8)
        return out, gather(out, self.addresses, positions, NUM_PIECES)


@pytest.mark.parametrize("masked", [False, True])
def test_rows_whose_pages_are_gone_are_lost_and_the_others_arrive(
    tmp_path: Path, masked: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert faulthandler.is_enabled()  # pytest's
    mapped = Mapped(tmp_path / "file", num_rows=4, num_kept=2)
    mapped.addresses = mapped.addresses[[0, 3, 1, 2]]
    positions = np.array([[2, 0]] * 4) if masked else None
    for _ in range(3):
        out, lost = mapped.gather(positions)
        assert lost.tolist() == [False, True, False, True]
        for place, row in ((0, 0), (2, 1)):
            assert np.array_equal(out[place], mapped.content[row][[2, 0]] if masked else mapped.content[row])
    assert "Fatal" not in "".join(capfd.readouterr())


def test_bytes_that_are_to_be_checked_are_all_there_or_not(tmp_path: Path) -> None:
    mapped = Mapped(tmp_path / "file", num_rows=4, num_kept=2)
    out = np.empty(2 * ROW_BYTES, np.uint8)
    assert copy_bytes(out, int(mapped.addresses[0]))
    assert np.array_equal(out, mapped.content[:2].reshape(-1))
    assert not copy_bytes(out, int(mapped.addresses[1]))
    assert not copy_bytes(out, int(mapped.addresses[2]))
    assert copy_bytes(out[: 2 * ROW_BYTES], int(mapped.addresses[0]))


def test_a_page_that_the_mask_does_not_ask_for_is_not_missed(tmp_path: Path) -> None:
    mapped = Mapped(tmp_path / "file", num_rows=1, num_kept=2 / 3)
    out, lost = mapped.gather(np.array([[1, 0]]))
    assert not lost.any()
    assert np.array_equal(out[0], mapped.content[0][[1, 0]])


def test_many_threads_lose_rows_at_once_without_harm_to_each_other(tmp_path: Path) -> None:
    files = [Mapped(tmp_path / str(number), num_rows=8, num_kept=number) for number in range(9)]
    with ThreadPoolExecutor(9) as pool:
        for mapped, (out, lost) in zip(files * 50, pool.map(Mapped.gather, files * 50), strict=True):
            kept = ~lost
            assert kept.sum() == files.index(mapped)
            assert np.array_equal(out[kept], mapped.content[kept])


def test_it_holds_in_a_thread_that_has_all_signals_blocked(tmp_path: Path) -> None:
    mapped = Mapped(tmp_path / "file", num_rows=4, num_kept=2)

    def lose() -> tuple[int, set[signal.Signals | int]]:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        _, lost = mapped.gather()
        return int(lost.sum()), signal.pthread_sigmask(signal.SIG_BLOCK, ())

    with ThreadPoolExecutor(1) as pool:
        num_lost, blocked = pool.submit(lose).result()
    assert num_lost == 2
    assert signal.SIGBUS in blocked

"""The compiled copy yields what numpy yields, whatever the sizes and the alignment."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import LoaderConfig, Reader
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.read.auto import choose_reader
from pipeline.read.gather import COMPILED, NO_LIBRARY, WAYS, gather
from shards.dataset import ShardDataset
from tests.datasets import POSITIONS, make_dataset

COMPILER = shutil.which(shlex.split(os.environ.get("CC", "cc"))[0])
GATHER = {"clip": "visible", "target": "masked"}
needs_library = pytest.mark.skipif(not COMPILED, reason=NO_LIBRARY)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("set"))


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
def test_installing_compiled_it() -> None:
    assert COMPILED


@needs_library
@given(
    num_rows=st.integers(1, 4),
    num_pieces=st.integers(1, 9),
    piece_bytes=st.one_of(st.integers(1, 300), st.sampled_from([4096, 6144, 8200, 12288, 16384, 16448, 24576])),
    shift=st.one_of(st.integers(0, 65), st.just(-1)),
    seed=st.integers(0, 2**32 - 1),
    masked=st.booleans(),
    way=st.sampled_from([None, *WAYS]),
)
def test_it_equals_numpy(
    num_rows: int, num_pieces: int, piece_bytes: int, shift: int, seed: int, masked: bool, way: str | None
) -> None:
    random = np.random.default_rng(seed)
    payloads = random.integers(0, 256, (num_rows, num_pieces, piece_bytes), np.uint8)
    left_out = random.random(num_rows) < 0.3
    addresses = np.array([0 if out else p.ctypes.data for out, p in zip(left_out, payloads, strict=True)], np.uint64)
    num_chosen = int(random.integers(1, 2 * num_pieces)) if masked else num_pieces
    positions = random.integers(0, num_pieces, (num_rows, num_chosen)) if masked else None
    if positions is not None and random.random() < 0.5:
        positions.sort(axis=1)  # as masks are, so that some lie side by side
    memory = np.full(128 + num_rows * num_chosen * piece_bytes + 64, 7, np.uint8)
    shift = -memory.ctypes.data % 64 if shift < 0 else shift  # also where every store is aligned
    end = shift + num_rows * num_chosen * piece_bytes
    out = memory[shift:end].reshape(num_rows, num_chosen, piece_bytes)

    assert not gather(out, addresses, positions, num_pieces, way=way).any()

    for row in range(num_rows):
        expected = payloads[row] if positions is None else payloads[row][positions[row]]
        assert np.array_equal(out[row], np.full_like(out[row], 7) if left_out[row] else expected)
    assert (memory[:shift] == 7).all()
    assert (memory[end:] == 7).all()


@needs_library
def test_the_ways_to_copy_are_those_of_this_cpu_the_widest_first() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    widths = {"avx512": "avx512f", "avx2": "avx2", "sse2": "sse2"}
    assert list(WAYS) == [*(name for name, flag in widths.items() if flag in flags), "memcpy"]


@needs_library
@pytest.mark.parametrize("position", [-1, 5, 2**40, 2**63 - 1])
def test_a_position_that_does_not_exist_is_refused(position: int) -> None:
    payload = np.zeros((5, 64), np.uint8)
    positions = np.array([[0, position, 4]])
    with pytest.raises(ValueError, match="outside 0 to 4"):
        gather(np.zeros((1, 3, 64), np.uint8), np.array([payload.ctypes.data], np.uint64), positions, 5)


@needs_library
def test_neighbours_that_run_beyond_the_last_piece_are_refused() -> None:
    payload = np.zeros((5, 64), np.uint8)
    with pytest.raises(ValueError, match="outside 0 to 4"):
        gather(np.zeros((1, 3, 64), np.uint8), np.array([payload.ctypes.data], np.uint64), np.array([[3, 4, 5]]), 5)


class _Beyond(TubeMask):
    """Names a position that the field does not have."""

    def draw(
        self, seed: int, epoch: int, samples: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        return {name: rows + 1 for name, rows in super().draw(seed, epoch, samples).items()}


@pytest.mark.parametrize("reader", ["mmap", "pread"])
def test_a_mask_that_names_a_position_too_many_is_refused(dataset: ShardDataset, reader: Reader) -> None:
    config = LoaderConfig(global_batch_size=20, gather=GATHER, reader=reader)
    with pytest.raises(ValueError, match="outside 0 to 15"):
        list(ShardLoader(dataset, config, _Beyond(num_positions=POSITIONS)))


def test_without_the_compiled_copy_nothing_is_mapped_and_the_loader_says_so(
    dataset: ShardDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for compiled, num_warnings in ((True, 0), (False, 1)):
        monkeypatch.setattr("pipeline.read.files.COMPILED", compiled)
        loader = ShardLoader(dataset, LoaderConfig(global_batch_size=5, reader="mmap"))
        for _ in range(2):
            for batch in loader:
                assert (str(dataset.tar_path(0)) in Path("/proc/self/maps").read_text()) == compiled
                del batch
        loader.close()
        assert sum("reading with pread instead of mmap" in record.message for record in caplog.records) == num_warnings


def test_auto_does_not_choose_a_mapping_without_the_compiled_copy(
    dataset: ShardDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(dataset.num_shards):
        dataset.tar_path(shard).read_bytes()  # now in the page cache
    assert choose_reader(dataset)[0] == "mmap"
    monkeypatch.setattr("pipeline.read.auto.COMPILED", False)
    reader, reason = choose_reader(dataset)
    assert reader == "pread"
    assert "not compiled" in reason

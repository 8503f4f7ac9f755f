"""The compiled copy yields what numpy yields, whatever the sizes and the alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gather import COMPILED, NO_LIBRARY, gather

needs_library = pytest.mark.skipif(not COMPILED, reason=NO_LIBRARY)


@needs_library
@given(
    num_rows=st.integers(1, 4),
    num_pieces=st.integers(1, 9),
    piece_bytes=st.one_of(st.integers(1, 300), st.sampled_from([4096, 6144])),
    shift=st.integers(0, 33),
    seed=st.integers(0, 2**32 - 1),
    masked=st.booleans(),
)
def test_it_equals_numpy(num_rows: int, num_pieces: int, piece_bytes: int, shift: int, seed: int, masked: bool) -> None:
    random = np.random.default_rng(seed)
    payloads = random.integers(0, 256, (num_rows, num_pieces, piece_bytes), np.uint8)
    left_out = random.random(num_rows) < 0.3
    addresses = np.array([0 if out else p.ctypes.data for out, p in zip(left_out, payloads, strict=True)], np.uint64)
    num_chosen = int(random.integers(1, 2 * num_pieces)) if masked else num_pieces
    positions = random.integers(0, num_pieces, (num_rows, num_chosen)) if masked else None
    memory = np.full(shift + num_rows * num_chosen * piece_bytes + 64, 7, np.uint8)
    out = memory[shift:-64].reshape(num_rows, num_chosen, piece_bytes)

    gather(out, addresses, positions, num_pieces)

    for row in range(num_rows):
        expected = payloads[row] if positions is None else payloads[row][positions[row]]
        assert np.array_equal(out[row], np.full_like(out[row], 7) if left_out[row] else expected)
    assert (memory[:shift] == 7).all()
    assert (memory[-64:] == 7).all()


@needs_library
@pytest.mark.parametrize("position", [-1, 5, 2**40])
def test_a_position_that_does_not_exist_is_refused(position: int) -> None:
    payload = np.zeros((5, 64), np.uint8)
    positions = np.array([[0, position, 4]])
    with pytest.raises(ValueError, match="outside 0 to 4"):
        gather(np.zeros((1, 3, 64), np.uint8), np.array([payload.ctypes.data], np.uint64), positions, 5)

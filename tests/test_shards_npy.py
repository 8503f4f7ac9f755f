"""Our reading of `.npy` files against numpy's own: the same of all that numpy writes, and never anything else."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from shards.format.npy import MAGIC, decode_array, encode_header, parse_header

arrays = hnp.arrays(
    st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?"),
        hnp.complex_number_dtypes(endianness="?"),
        hnp.unicode_string_dtypes(endianness="?", max_len=3),
        hnp.byte_string_dtypes(max_len=3),
        hnp.datetime64_dtypes(max_period="D"),
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def saved(array: NDArray[np.generic], version: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an old version would do, or a new one is needed to read
        npy_format.write_array(buffer, np.asanyarray(array), version, allow_pickle=False)
    return buffer.getvalue()


@given(array=arrays, version=st.sampled_from([(1, 0), (2, 0), (3, 0)]), fortran=st.booleans())
def test_whatever_numbers_numpy_writes_are_read_as_numpy_reads_them(
    array: NDArray[np.generic], version: tuple[int, int], fortran: bool
) -> None:
    data = saved(np.asfortranarray(array) if fortran else array, version)
    expected = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.kind == "M":  # a unit in brackets: no number or text, and no field's dtype
        with pytest.raises(ValueError, match="is not one"):
            parse_header(data)
        return
    found = decode_array(data)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


TOKENS = ["{", "'descr'", ": ", "'<f4'", ", ", "'fortran_order'", ": ", "False", ", ", "'shape'", ": ", "(", "3,", " 4"]
TOKENS += [")", ", ", "}", "\n"]
OTHERS = [
    "(3,)",
    "(3)",
    "()",
    "(,)",
    "01",
    "-1",
    "0",
    "L",
    "[",
    "]",
    '"<i8"',
    "'>u2'",
    "'V0'",
    "'<U0'",
    "'|O'",
    "'descr\"",
    " ",
]
OTHERS += ["True", "not ", "\\", "\xa0", "\x85", "\f", "\r", "#", "'a' ", "3", ", ", "'shape'"]


@st.composite
def headers(draw: st.DrawFn) -> str:
    """What numpy writes, with some of its words exchanged, doubled, left out or new ones between them."""
    words = list(TOKENS)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(words)))
        words[start : start + draw(st.integers(0, 2))] = draw(st.lists(st.sampled_from(TOKENS + OTHERS), max_size=2))
    return "".join(words)


@given(text=st.one_of(st.text(max_size=60), headers()), shift=st.integers(0, 40))
@example(text="{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", shift=0)
@example(text="{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }", shift=0)
@example(text="{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1,2,)}", shift=0)
@example(text="{'descr': '<f4', 'fortran_order': False, 'shape': (3)}", shift=0)
@settings(max_examples=1000, deadline=None)
def test_a_header_that_is_read_is_one_that_numpy_reads_alike(text: str, shift: int) -> None:
    encoded = text.encode("utf-8", "replace")
    data = MAGIC + b"\x01\x00" + len(encoded).to_bytes(2, "little") + encoded + bytes(shift)
    try:
        found = parse_header(data)
    except ValueError:
        return
    stream = io.BytesIO(data[8:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape, fortran_order, dtype = npy_format.read_array_header_1_0(stream)
    assert (found.shape, found.fortran_order, np.dtype(found.dtype)) == (shape, fortran_order, dtype)
    assert found.num_bytes == 8 + stream.tell()


@given(shape=hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=9))
def test_our_own_header_fills_a_page_and_is_read_by_numpy(shape: tuple[int, ...]) -> None:
    header = encode_header("<f2", shape)
    assert len(header) == 4096
    stream = io.BytesIO(header)
    assert npy_format.read_magic(stream) == (1, 0)
    assert npy_format.read_array_header_1_0(stream) == (shape, False, np.dtype("<f2"))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:20]])
def test_an_array_that_is_not_whole_is_refused(change: object) -> None:
    data = saved(np.arange(6, dtype=np.float32).reshape(2, 3), (1, 0))
    assert callable(change)
    with pytest.raises(ValueError, match=r"announces 24|cut short"):
        decode_array(change(data))

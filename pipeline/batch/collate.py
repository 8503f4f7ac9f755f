"""Values of samples, one by one in memory, to the tensors that a batch has of them: the plain way, without a slab.

It says in few lines what `pipeline.batch.parts` makes of a field at speed, and is what streams use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.read.decoders import Decoder
from shards.format.errors import ShardError

Pieces = Sequence[memoryview]
Tensors = dict[str, torch.Tensor]


def stack(name: str, arrays: Sequence[NDArray[Any]]) -> Tensors:
    """Arrays of one shape: `[B, ...]`.

    Raises:
        ShardError: their shapes differ.
    """
    if len({array.shape for array in arrays}) > 1:
        raise ShardError(f"field {name}: arrays of different shapes cannot form a batch; rows have to be in the schema")
    return {name: torch.from_numpy(np.stack(arrays))}


def pad(name: str, arrays: Sequence[NDArray[Any]]) -> Tensors:
    """Rows `[n, ...]`: `[B, L, ...]` with L the longest and zeros behind each end, and `NAME_length`."""
    return {name: _padded(arrays), **_lengths(name, arrays)}


def join(name: str, payloads: Sequence[bytes]) -> Tensors:
    """Bytes one after another, and `NAME_offsets`, i64 `[B + 1]`."""
    sizes = [len(payload) for payload in payloads]
    data = np.frombuffer(bytearray().join(payloads), np.uint8)
    return {name: torch.from_numpy(data), f"{name}_offsets": torch.tensor([0, *np.cumsum(sizes, dtype=int).tolist()])}


def decode_pieces(name: str, samples: Sequence[Pieces], decoder: Decoder, keys: Sequence[int]) -> Tensors:
    """Packed pieces, decoded: each output `[B, L, ...]` with zeros behind each end, and `NAME_length`.

    Raises:
        ValueError: a piece does not decode.
    """
    tensors = _lengths(name, samples)
    rows = [_decoded(pieces, decoder, key) for pieces, key in zip(samples, keys, strict=True)]
    return tensors | {output: _padded([row[output] for row in rows]) for output in decoder.outputs}


def decode_bytes(payloads: Sequence[bytes], decoder: Decoder, keys: Sequence[int]) -> Tensors:
    """Bytes that are one piece each, decoded: each output `[B, ...]`.

    Raises:
        ValueError: one does not decode.
    """
    rows = [_decoded([memoryview(data)], decoder, key) for data, key in zip(payloads, keys, strict=True)]
    return {output: torch.from_numpy(np.concatenate([row[output] for row in rows])) for output in decoder.outputs}


def _decoded(pieces: Pieces, decoder: Decoder, key: int) -> dict[str, NDArray[Any]]:
    arrays = {name: np.zeros((len(pieces), *shape), dtype) for name, (dtype, shape) in decoder.outputs.items()}
    for number, piece in enumerate(pieces):
        try:
            decoder(piece, {name: array[number, ...] for name, array in arrays.items()}, key)
        except ValueError as error:
            raise ValueError(f"piece {number} does not decode: {error}") from None
    return arrays


def _padded(arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
    longest = max(map(len, arrays))
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def _lengths(name: str, values: Sequence[Pieces] | Sequence[NDArray[Any]]) -> Tensors:
    return {f"{name}_length": torch.tensor([len(value) for value in values], dtype=torch.int64)}

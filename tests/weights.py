"""The weights in a file of safetensors, without the header, which says how they came about."""

from __future__ import annotations

from pathlib import Path


def stored_weights(path: Path) -> bytes:
    """The bytes of all tensors."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]

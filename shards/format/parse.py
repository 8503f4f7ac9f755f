"""Typed reading of what others may have written: each value is checked where it is read, and named where it is wrong.

Every function raises ValueError with the value's name, what it has to be and what was got, cut short.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_NAME_BYTES = 200
HEX = frozenset("0123456789abcdef")
PICKLE_SUFFIXES = frozenset({"pkl", "pickle", "pyd", "pt", "pth", "joblib"})


def parse_json(data: bytes) -> Any:
    """Read JSON: UTF-8, at most `MAX_DEPTH` levels, no NaN and no infinity."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    check_plain(value)
    return value


def check_plain(value: Any) -> None:
    """Refuse what is nested too deeply, and numbers that are not finite."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise ValueError("holds a number that is not finite")
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinity, which `json` would take."""
    raise ValueError(f"{name} is no JSON")


def mapping(value: object, what: str) -> dict[str, Any]:
    """An object whose keys are text."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} has to be an object, got {spell(value)}")
    return value


def entry(record: dict[str, Any], name: str, what: str) -> Any:
    """What `record` has under `name`."""
    if name not in record:
        raise ValueError(f"{what} has no {name!r}")
    return record[name]


def sequence(value: object, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise ValueError(f"{what} has to be a list, got {spell(value)}")
    return value


def text(value: object, what: str) -> str:
    """Text."""
    if not isinstance(value, str):
        raise ValueError(f"{what} has to be text, got {spell(value)}")
    return value


def binary(value: object, what: str) -> bytes:
    """Bytes."""
    if not isinstance(value, bytes):
        raise ValueError(f"{what} has to be bytes, got {type(value).__name__}")
    return value


def count(value: object, what: str, most: int = (1 << 63) - 1) -> int:
    """A whole number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{what} has to be a whole number from 0 to {most}, got {spell(value)}")
    return value


def hex_digest(value: object, what: str, digits: int) -> str:
    """A digest in lower-case hexadecimal."""
    if not isinstance(value, str) or len(value) != digits or not HEX.issuperset(value):
        raise ValueError(f"{what} has to be {digits} hexadecimal digits, got {spell(value)}")
    return value


def check_name(value: object, what: str) -> str:
    """A name that becomes (part of) a file name: of a split, a group, a shard, a file beside the shards.

    It must not leave its folder, hide, or do anything to a terminal.
    """
    if (
        not isinstance(value, str)
        or not value
        or not value.isprintable()
        or value.startswith(".")
        or any(character in value for character in "/\\")
        or len(value.encode()) > MAX_NAME_BYTES
    ):
        raise ValueError(
            f"{what} {spell(value)} is not allowed: give printable text without slashes and backslashes, not "
            f"beginning with a dot, of at most {MAX_NAME_BYTES} bytes"
        )
    return value


def check_field_name(name: str) -> None:
    """A field's name, which follows the key in a member's name."""
    parts = name.split(".")
    if (
        not all(parts)
        or not name.isprintable()
        or any(character in name for character in "/\\ ")
        or len(name.encode()) > MAX_NAME_BYTES
    ):
        raise ValueError(
            f"field name {spell(name)} is not allowed: use words joined by dots, such as 'clip' or 'caption.txt'"
        )
    if parts[-1].lower() in PICKLE_SUFFIXES:
        raise ValueError(
            f"field name {name!r} is not allowed: pickled data can run code when read; store arrays or JSON"
        )


def spell(value: object) -> str:
    """A value as it looks in Python, cut short."""
    return reprlib.repr(value)

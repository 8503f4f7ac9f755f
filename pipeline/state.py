"""The position in a loader's state, checked: a state may come from a file that somebody edited, or from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUM_EPOCHS = 2**63


def refuse_other(state: Mapping[str, Any], identity: Mapping[str, Any], what: str) -> None:
    """Compare what must agree for a state to mean the same batches.

    Raises:
        ValueError: it is no state, or of another `what`; both values are named.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{what}'s state must be a mapping, as state_dict() returns it, got {shown(state)}")
    for name, mine in identity.items():
        got = state.get(name)
        if type(got) is not type(mine) or got != mine:
            raise ValueError(f"{what}'s state does not fit: {name} is {shown(got)} in the state and {mine!r} here")


def whole_number(state: Mapping[str, Any], name: str, below: int, what: str) -> int:
    """An entry of a state, from 0 to `below - 1`.

    Raises:
        ValueError: it is not there, or something else.
    """
    value = state.get(name)
    if type(value) is not int or not 0 <= value < below:
        got = shown(value) if name in state else "none"
        raise ValueError(f"{what}'s state needs a whole number from 0 to {below - 1} as {name}, got {got}")
    return value


def shown(value: object) -> str:
    """A value in a message: on one line, not endless, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:77]}..."

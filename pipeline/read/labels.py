"""The class of a sample, from its JSON member."""

from __future__ import annotations

import json

from pipeline.state import shown

LABELS = range(-(2**63), 2**63)  # what a batch of i64 holds


def label_of(data: bytes) -> int:
    """The whole number under `label`; -1 where there is none.

    Raises:
        ValueError: the member is no JSON object, or its label is not a whole number of 64 bits.
    """
    try:
        record = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"it is a {type(record).__name__}, not an object")
    label = record.get("label")
    if label is None:
        return -1
    if type(label) is not int or label not in LABELS:
        raise ValueError(f"the label must be a whole number of 64 bits or null, got {shown(label)}")
    return label

"""Hypothesis strategies for what the format can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.format.schema import Field, Kind, Schema
from shards.writer import Value

DTYPES = ("|u1", "|i1", "|b1", "<i2", "<u2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8")

KINDS: tuple[Kind, ...] = ("array", "rows", "packed", "bytes")

keys = st.text(
    st.characters(codec="utf-8", exclude_characters="./\\ ", exclude_categories=("C", "Z")), min_size=1, max_size=12
)


@st.composite
def schemas(draw: st.DrawFn, kinds: Sequence[Kind] = KINDS) -> Schema:
    """One to three fields of any kind."""
    names = draw(
        st.lists(st.sampled_from(("clip", "target", "x", "a.b", "json", "jpg")), min_size=1, max_size=3, unique=True)
    )
    fields = []
    for name in names:
        kind = draw(st.sampled_from(kinds))
        shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
        if kind == "array":
            fields.append(Field(name=name, dtype=draw(st.sampled_from(DTYPES)), shape=shape))
        elif kind == "rows":
            fields.append(Field(name=name, dtype=draw(st.sampled_from(DTYPES)), shape=(None, *shape)))
        else:
            fields.append(Field(name=name, layout="packed" if kind == "packed" else "plain"))
    return Schema(tuple(fields))


@st.composite
def values(draw: st.DrawFn, field: Field) -> Value:
    """A value that fits the field."""
    if field.is_packed:
        return draw(st.lists(st.binary(max_size=300), max_size=6))
    if not field.is_npy:
        return draw(st.binary(max_size=2000))
    shape = (draw(st.integers(0, 5)), *field.row_shape) if field.is_rows else field.fixed_shape
    array = draw(hnp.arrays(np.dtype(field.dtype), shape))
    assert isinstance(array, np.ndarray)
    return array


@st.composite
def shard_contents(draw: st.DrawFn) -> tuple[Schema, dict[str, dict[str, Value]]]:
    """A schema and some samples of it by key."""
    schema = draw(schemas())
    sample = st.fixed_dictionaries({field.name: values(field) for field in schema})
    return schema, draw(st.dictionaries(keys, sample, min_size=1, max_size=5))

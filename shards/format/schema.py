"""What every sample of a data set consists of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from shards.format.field import Field, Kind, Layout

MAX_MEMBER_NAME_BYTES = 100
FORMATS = (1, 2, 3)
__all__ = ["FORMATS", "MAX_MEMBER_NAME_BYTES", "Field", "Kind", "Layout", "Schema", "check_format", "check_key"]


@dataclass(frozen=True)
class Schema:
    """The fields of every sample, in the order in which they stand in the tar."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("a schema needs at least one field")
        suffixes = [field.suffix for field in self.fields]
        if len(set(suffixes)) < len(suffixes) or len({field.name for field in self.fields}) < len(suffixes):
            raise ValueError(f"field names must be unique, got {', '.join(field.name for field in self.fields)}")

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise ValueError(f"no field {name!r}; there are {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Field names in order."""
        return tuple(field.name for field in self.fields)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the tar series, the main one ("") first where it has fields."""
        names = dict.fromkeys(field.group for field in self.fields)
        return tuple(sorted(names, key=bool))

    @property
    def format(self) -> int:
        """The format that files of these fields have: 3 where one has a codec, else 2 where there are rows or packed
        pieces, else 1."""
        if any(field.codec is not None for field in self.fields):
            return 3
        return 2 if any(field.has_lengths for field in self.fields) else 1

    def with_codecs(self, codecs: Mapping[str, str]) -> Schema:
        """The same fields, some of them stored by a codec: field -> its name.

        Raises:
            ValueError: there is no such field or codec, or the one does not store the other.
        """
        for name in codecs:
            self[name]
        return Schema(tuple(replace(one, codec=codecs.get(one.name, one.codec)) for one in self.fields))

    def of_group(self, group: str) -> Schema:
        """The fields of one tar series."""
        return Schema(tuple(field for field in self.fields if field.group == group))


def check_format(found: int, schema: Schema) -> None:
    """Compare the format that a file says it has with the one that its fields need.

    Raises:
        ValueError: they differ.
    """
    if found != schema.format:
        raise ValueError(f"it says format {found}, its fields are those of format {schema.format}")


def check_key(key: str) -> str:
    """Return the key, or raise.

    Raises:
        ValueError: a key must be non-empty text without dots, slashes, backslashes and control characters, so that
            every reader splits `KEY.field` the same way and no member leaves its folder.
    """
    if not key or not key.isprintable() or any(character in key for character in "./\\"):
        raise ValueError(
            f"key {key!r} is not allowed: it must be non-empty, without dots, slashes or control characters"
        )
    return key

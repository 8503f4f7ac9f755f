"""What there is to build: items, and the source they come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from shards.builder.failure import Reason
from shards.format.publish import canonical_json

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is to become one sample: one video, as a rule.

    Attributes:
        id: the data set's name for it.
        path: the file, relative to the source's root; "" where there is none.
        label: class number, or None.
        label_name: class name, or None.
        text: free text about the clip (a caption), or None.
        problem: what is known to be wrong before the file is opened: a reason and a message.
        extra: further annotations for kinds of samples that use them: anything that JSON holds.
        exact_key: the sample's key where it is not made of the id, as that of a sample which is there already.
    """

    id: str
    path: str
    label: int | None = None
    label_name: str | None = None
    text: str | None = None
    problem: tuple[Reason, str] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    exact_key: str | None = None

    @property
    def key(self) -> str:
        """The sample's key: the id with everything but letters, digits, "_" and "-" replaced by "_"."""
        return _NOT_IN_KEYS.sub("_", self.id) if self.exact_key is None else self.exact_key

    def to_json(self) -> dict[str, Any]:
        """All that the item says; what came later than the first plans only where it says something."""
        record = dict(vars(self))
        for name in ("extra", "exact_key"):
            if not record[name]:
                del record[name]
        return record


@dataclass(frozen=True, kw_only=True)
class Source:
    """The items of one split of one data set.

    Attributes:
        kind: such as "ssv2" or "folder".
        root: folder that the items' paths are relative to.
        items: in the source's own order.
        label_names: name of each class, by number.
        provenance: further facts for the manifest; no absolute paths, so that a copy builds the same bytes.
        notes: lines that whoever builds it should read.
    """

    kind: str
    root: Path
    items: tuple[Item, ...]
    label_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def items_digest(items: tuple[Item, ...]) -> str:
    """Return the xxh3-128 (hex) of all that the items say, in their order.

    Raises:
        ValueError: an item's `extra` holds what JSON does not.
    """
    digest = xxhash.xxh3_128()
    for item in items:
        try:
            digest.update(canonical_json(item.to_json()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"item {item.id!r}: its annotations are not JSON: {error}") from None
        digest.update(b"\n")
    return digest.hexdigest()

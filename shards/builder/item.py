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
    """One video that is to become one sample.

    Attributes:
        id: the data set's name for it.
        path: the file, relative to the source's root.
        label: class number, or None.
        label_name: class name, or None.
        text: free text about the clip (a caption), or None.
        problem: what is known to be wrong before the file is opened: a reason and a message.
    """

    id: str
    path: str
    label: int | None = None
    label_name: str | None = None
    text: str | None = None
    problem: tuple[Reason, str] | None = None

    @property
    def key(self) -> str:
        """The sample's key: the id with everything but letters, digits, "_" and "-" replaced by "_"."""
        return _NOT_IN_KEYS.sub("_", self.id)


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
    """Return the xxh3-128 (hex) of all that the items say, in their order."""
    digest = xxhash.xxh3_128()
    for item in items:
        digest.update(canonical_json(vars(item)))
        digest.update(b"\n")
    return digest.hexdigest()

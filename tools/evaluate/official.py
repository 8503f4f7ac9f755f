"""Files in the forms in which others publish them: what is said of what is wrong, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def entries_of(record: Any, path: Path, *, name: str, texts: Sequence[str], form: str) -> list[dict[str, Any]]:
    """The entries of a list, each with an id and certain texts.

    Args:
        record: the list, as JSON gave it.
        path: of the file, for messages.
        name: of the entry's id.
        texts: names of what has to be text.
        form: how it should look, for messages.

    Raises:
        ValueError: it is no such list.
    """
    if not isinstance(record, list):
        raise ValueError(f"{path} is not in the official form; it has to be {form}")
    for number, entry in enumerate(record):
        missing = [name] if not isinstance(entry, dict) or not isinstance(entry.get(name), int | str) else []
        missing += [each for each in texts if not isinstance(entry, dict) or not isinstance(entry.get(each), str)]
        if missing:
            raise ValueError(f"{path}: entry {number} has no {' or no '.join(missing)}; the form is {form}")
    return record


def sha256_of(path: Path) -> str:
    """Digest (hex) of a file, by which a result names what it was measured on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

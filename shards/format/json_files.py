"""JSON that others wrote, with care: annotations, answers, results and settings as people get them from elsewhere."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.parse import check_plain, refuse_constant, spell

AGAIN = "download it again"


def read_json(path: Path, advice: str = AGAIN) -> Any:
    """What a file of JSON holds.

    Args:
        path: of a file, not of a folder or a pipe.
        advice: what to do where it cannot be used.

    Raises:
        MissingDataError: there is no such file.
        ShardError: it cannot be read, or `json_of` refuses what is in it.
    """
    try:
        data = read_small(path)
    except FileNotFoundError:
        raise MissingDataError(f"there is no file {path}") from None
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from None
    return json_of(data, str(path), advice)


def json_of(data: bytes | str, name: str, advice: str = AGAIN) -> Any:
    """What a text of JSON holds: UTF-8, with or without a byte order mark.

    No name stands twice in an object, nothing is nested more than 64 levels deep, and every number is finite.

    Args:
        data: the text.
        name: of the file, for messages.
        advice: what to do where it cannot be used.

    Raises:
        ShardError: it is something else.
    """
    try:
        text = data if isinstance(data, str) else data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        found = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=_object)
        check_plain(found)
    except UnicodeDecodeError as error:
        raise ShardError(f"{name} is not text in UTF-8: {error}; {advice}") from None
    except RecursionError:
        raise ShardError(f"{name} is not JSON that can be read: it is nested too deeply; {advice}") from None
    except ValueError as error:
        raise ShardError(f"{name} is not JSON: {error}; {advice}") from None
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{spell(twice)} stands twice in an object")
    return found

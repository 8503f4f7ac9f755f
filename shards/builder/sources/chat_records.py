"""Records of chats in the shapes in which they are published, to items."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from shards.builder.item import Item

_PLACEHOLDER = re.compile(r"<(?:image|video)>\n?")  # where others put visual tokens; ours stand before the text
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SHAPES = (
    'a record of a chat is {"id", "video": path or "images": [paths] or neither, "messages": [{"role", "content"}] or '
    '"caption": text, "source"}; LLaVA\'s {"id", "image" or "video", "conversations": [{"from", "value"}]} is read, too'
)


def item_of(record: Any, default_id: str) -> Item:
    """The item of a record; of one that cannot be used, an item that says what is wrong with it.

    Args:
        record: as JSON gave it.
        default_id: where it has none.
    """
    name = str(record.get("id", default_id)) if isinstance(record, Mapping) else default_id
    try:
        if not isinstance(record, Mapping):
            raise ValueError(f"it is a {type(record).__name__}; {SHAPES}")
        return _item(record, name)
    except ValueError as error:
        return Item(id=name, path="", problem=("bad_annotation", str(error)))


def _item(record: Mapping[str, Any], name: str) -> Item:
    """Raises: ValueError: the record is not what it should be."""
    extra: dict[str, Any] = {}
    if (source := record.get("source", record.get("data_source"))) is not None:
        extra["source"] = str(source)
    images, videos = _paths(record, "images", "image"), _paths(record, "video", "videos")
    if len(videos) + bool(images) > 1:
        what = f"{len(videos)} video(s) and {len(images)} image(s)"
        raise ValueError(f"a chat is about one video, or about images; this one names {what}")
    if images:
        extra["images"] = images
    text = record.get("caption")
    messages = messages_of(record)
    if messages is not None:
        extra["messages"] = messages
    elif not isinstance(text, str):
        raise ValueError(f"it has neither messages nor a caption; {SHAPES}")
    num_places, num_named = _places(record), len(images) + len(videos)
    if num_places and num_named and num_places != num_named:
        what = f"{len(videos)} video(s) and {len(images)} image(s)"
        raise ValueError(f"its turns have places for {num_places} pictures or videos, and it names {what}")
    path = (*videos, *images, "")[0]
    return Item(id=name, path=path, text=text if messages is None else None, extra=extra)


def _places(record: Mapping[str, Any]) -> int:
    """Where its turns say that a picture or video stands, as LLaVA's do."""
    turns = record.get("conversations")
    said = [turn.get("value") for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    return sum(len(_PLACEHOLDER.findall(text)) for text in said if isinstance(text, str))


def _paths(record: Mapping[str, Any], *names: str) -> list[str]:
    """Raises: ValueError: it is neither a path nor a list of paths, or one leaves its folder."""
    found: Any = next((record[name] for name in names if record.get(name)), [])
    paths = [found] if isinstance(found, str) else found
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{names[0]} is a path, or a list of paths, got {str(found)[:80]!r}")
    for path in paths:
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ValueError(f"{names[0]} is {path!r}; paths are relative to the folder of videos and stay inside it")
    return paths


def messages_of(record: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The turns of a record, `{"role", "content"}` each; None where it has none.

    Raises:
        ValueError: they are not what turns should be.
    """
    if "messages" in record:
        return [_turn(turn) for turn in _list(record, "messages")]
    if "conversations" in record:
        turns = [_llava_turn(turn) for turn in _list(record, "conversations")]
        system = record.get("system_prompt")
        return [{"role": "system", "content": str(system)}, *turns] if system else turns
    if "texts" in record:
        return [turn for pair in _list(record, "texts") for turn in _cauldron_turns(pair)]
    if "instruction" in record and "output" in record:
        return [
            {"role": "user", "content": _text(record, "instruction")},
            {"role": "assistant", "content": _text(record, "output")},
        ]
    return None


def _list(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = record[name]
    if not isinstance(found, list) or not found or not all(isinstance(turn, Mapping) for turn in found):
        raise ValueError(f"{name} is a list of turns, got {str(found)[:80]!r}")
    return found


def _text(record: Mapping[str, Any], name: str) -> str:
    found = record.get(name)
    if not isinstance(found, str):
        raise ValueError(f"{name} is text, got {str(found)[:80]!r}")
    return found


def _turn(turn: Mapping[str, Any]) -> dict[str, str]:
    """A turn whose content is text, or parts of which some are text and the others say where pictures were."""
    role, content = _text(turn, "role"), turn.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        content = "".join(_text(part, "text") for part in parts if part.get("type") == "text")
    if role not in _ROLES.values() or not isinstance(content, str):
        raise ValueError(f"a turn has the role {role!r} and the content {str(content)[:40]!r}; {SHAPES}")
    return {"role": role, "content": content}


def _llava_turn(turn: Mapping[str, Any]) -> dict[str, str]:
    speaker = _text(turn, "from")
    if speaker not in _ROLES:
        raise ValueError(f"a turn is from {speaker!r}; known are {', '.join(_ROLES)}")
    return {"role": _ROLES[speaker], "content": _PLACEHOLDER.sub("", _text(turn, "value")).strip()}


def _cauldron_turns(pair: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": _text(pair, "user")},
        {"role": "assistant", "content": _text(pair, "assistant")},
    ]

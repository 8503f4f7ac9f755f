"""Field groups: further tar series beside the main one, with the same keys in the same order and other fields.

`SPLIT.GROUP-00003-of-00660.tar` belongs to `SPLIT-00003-of-00660.tar`. A sidecar says which group its shard is of; the
name says it where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shards.format.beside_group import group_provenance
from shards.format.errors import ShardError
from shards.format.index import ShardIndex, ShardInfo, index_path, load_index
from shards.format.manifest import Manifest
from shards.format.schema import Field, Schema

_NAME = re.compile(r"(?P<series>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.tar")


@dataclass(frozen=True)
class Group:
    """One further series: its fields, its shards in order, and what is known of where it came from."""

    name: str
    fields: tuple[Field, ...]
    shards: tuple[ShardInfo, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def with_groups(manifest: Manifest, groups: Iterable[Group]) -> Manifest:
    """The manifest of a main series with further series added.

    Raises:
        ValueError: a field is there already, or the numbers of samples differ.
    """
    added = list(groups)
    if not added:
        return manifest
    about = {name: dict(manifest.about(name)) for name in manifest.groups}
    about |= {group.name: dict(group.provenance) for group in added}
    about = {name: known for name, known in about.items() if known}
    return replace(
        manifest,
        schema=Schema((*manifest.schema.fields, *(one for group in added for one in group.fields))),
        groups={**manifest.groups, **{group.name: group.shards for group in added}},
        provenance={**manifest.provenance, **({"groups": about} if about else {})},
    )


def without_group(manifest: Manifest, name: str) -> Manifest:
    """The manifest without one of its further series."""
    about = {group: dict(manifest.about(group)) for group in manifest.groups if group != name}
    about = {group: known for group, known in about.items() if known}
    others = {key: value for key, value in manifest.provenance.items() if key != "groups"}
    return replace(
        manifest,
        schema=Schema(tuple(field for field in manifest.schema if field.group != name)),
        groups={group: series for group, series in manifest.groups.items() if group != name},
        provenance={**others, **({"groups": about} if about else {})},
    )


def series_of_names(names: Iterable[str]) -> dict[str, list[str]]:
    """Sort tars into series by their names alone.

    `P-00000-of-00002.tar` is the main series and `P.dino-00000-of-00002.tar` the group `dino` if both have the same
    numbers. Names of any other kind are all of the main series.

    Returns:
        Group, "" for the main series -> names in order.
    """
    everything = sorted(names)
    series: dict[str, dict[tuple[int, int], str]] = {}
    for name in everything:
        if (found := _NAME.fullmatch(name)) is None:
            return {"": everything}
        series.setdefault(found["series"], {})[int(found["number"]), int(found["count"])] = name
    main = min(series, key=len, default="")
    if not all(other == main or other.startswith(f"{main}.") for other in series):
        return {"": everything}
    if any(set(numbers) != set(series[main]) for numbers in series.values()):
        return {"": everything}
    return {
        other[len(main) + 1 :]: [numbers[place] for place in sorted(numbers)]
        for other, numbers in sorted(series.items())
    }


def split_of_name(name: str) -> str | None:
    """The split (with its group, if any) that a tar's name begins with, or None if it is named in another way."""
    found = _NAME.fullmatch(name)
    return found["series"] if found else None


def refuse_other_keys(group: str, index: ShardIndex, main: ShardIndex) -> None:
    """Compare the keys of a group's shard with those of the main series.

    Raises:
        ShardError: they differ.
    """
    if not index.has_keys_of(main):
        raise ShardError(
            f"the field group {group!r} was made for other samples: the keys of {index.info.name} are not those of "
            f"{main.info.name}, or in another order"
        )


def kept_groups(
    directory: Path, main: Sequence[ShardIndex], known: Manifest | None, stored_bytes: Callable[[Path], int]
) -> list[Group]:
    """The groups of a data set whose manifest is about to be written anew.

    Args:
        directory: the data set.
        main: the sidecars of the main series, in order.
        known: the manifest that was there before, which says what has to be here. None if there is none: then all
            groups count that are complete, by their names and sidecars.
        stored_bytes: the size of a tar, by its path.

    Raises:
        ShardError: a group of the manifest is not whole, or was made for other samples.
    """
    if known is not None:
        return [_known_group(directory, name, main, known, stored_bytes) for name in known.groups]
    found = (
        _discover(directory, group, main, names, stored_bytes)
        for group, names in _complete(directory, [index.info.name for index in main]).items()
    )
    return [group for group in found if group is not None]


def names_of_groups(directory: Path, main: Sequence[str], known: Manifest | None) -> list[str]:
    """The groups that a data set has; complete ones only where there is no manifest to say which."""
    return list(known.groups) if known is not None else list(_complete(directory, main))


def how_to_drop(directory: Path, group: str) -> str:
    """What to do to go on without a group."""
    return f"to go on without it, `reelshard drop-field {directory} --name {group}`; it can be added again afterwards"


def _known_group(
    directory: Path,
    name: str,
    main: Sequence[ShardIndex],
    known: Manifest,
    stored_bytes: Callable[[Path], int],
) -> Group:
    for info, other in zip(known.groups[name], main, strict=False):  # as many as there are shards, or the plan differs
        tar = directory / info.name
        try:
            index = load_index(index_path(tar))
            if index.info != info or stored_bytes(tar) != info.num_bytes:
                raise ShardError(f"{info.name} is not the shard of the manifest")
            refuse_other_keys(name, index, other)
        except (ShardError, OSError) as error:
            raise ShardError(
                f"the field group {name!r} cannot be kept: {error}. Restore it; or, {how_to_drop(directory, name)}"
            ) from None
    return Group(name, known.schema.of_group(name).fields, known.groups[name], known.about(name))


def _complete(directory: Path, main: Sequence[str]) -> dict[str, list[str]]:
    """Groups by name for which every shard of the main series has its counterpart with a sidecar."""
    split = split_of_name(main[0])
    if split is None:
        return {}
    candidates: dict[str, set[str]] = {}
    for path in directory.glob("*.idx"):
        tar = f"{path.stem}.tar"
        series = split_of_name(tar)
        if series is not None and series.startswith(f"{split}."):
            candidates.setdefault(series[len(split) + 1 :], set()).add(tar)
    wanted = {group: [f"{split}.{group}{name[len(split) :]}" for name in main] for group in sorted(candidates)}
    return {group: names for group, names in wanted.items() if candidates[group].issuperset(names)}


def _discover(
    directory: Path,
    group: str,
    main: Sequence[ShardIndex],
    names: Sequence[str],
    stored_bytes: Callable[[Path], int],
) -> Group | None:
    """A group by its sidecars; None if they do not make one, as after an import that was stopped."""
    try:
        indices = [load_index(index_path(directory / name)) for name in names]
        sizes = [stored_bytes(directory / name) for name in names]
    except (ShardError, OSError):
        return None
    fields = indices[0].schema.fields
    fits = all(
        index.group == group
        and index.schema.fields == fields
        and (index.info.name, index.info.num_bytes) == (name, size)
        and index.has_keys_of(other)
        for index, other, name, size in zip(indices, main, names, sizes, strict=True)
    )
    about = group_provenance(directory, group) or {}
    return Group(group, fields, tuple(index.info for index in indices), about) if fits else None

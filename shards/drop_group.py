"""Take a field group out of a data set, also one whose making was stopped half-way."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from shards.builder.journal import WORK_FOLDER, clear_work
from shards.builder.lock import build_lock
from shards.format.beside import PLAN_NAME
from shards.format.beside_group import beside_group, files_of_group, read_group_plan
from shards.format.errors import MissingDataError, ShardError
from shards.format.manifest import MANIFEST_NAME, Manifest, check_folder
from shards.format.parse import check_name
from shards.groups import without_group


def drop_group(directory: Path, name: str) -> int:
    """Take a field group out of a data set; its samples and all other fields stay as they are.

    The manifest goes first, so that whatever stops this in between leaves a data set that opens; dropping again then
    removes what is left of the group's files. In a folder whose build was stopped, the manifest that waits in `.build`
    is changed.

    Returns:
        The number of bytes that were freed.

    Raises:
        ValueError: the name is not one of a group.
        ShardError: there is no such group and nothing is left of one, or a build is running.
    """
    check_name(name, "the group's name")
    check_folder(directory)
    _manifest(directory, name)  # before a lock leaves its folder where no data set is
    with build_lock(directory):
        folder, manifest = _manifest(directory, name)
        files = _files(directory, manifest, name)
        if manifest is not None and name not in manifest.groups and not files:
            _clear(directory, manifest)
            there = f"its groups are {', '.join(manifest.groups)}" if manifest.groups else "it has none"
            raise ShardError(f"{directory} has no field group {name!r}; {there}")
        if manifest is not None and name in manifest.groups:
            manifest = without_group(manifest, name)
            manifest.write(folder)
        freed = 0
        for path in files:
            freed += path.lstat().st_size
            path.unlink()
        _clear(directory, manifest)
    return freed


def _manifest(directory: Path, name: str) -> tuple[Path, Manifest | None]:
    """The manifest and where it is; None where there is none, but a group was begun.

    Raises:
        ShardError: there is neither.
    """
    for folder in (directory, directory / WORK_FOLDER):
        with contextlib.suppress(MissingDataError):
            return folder, Manifest.read(folder)
    if (directory / beside_group(PLAN_NAME, name)).exists():
        return directory, None
    return directory, Manifest.read(directory)


def _clear(directory: Path, manifest: Manifest | None) -> None:
    """Take the working files away where no build waits to go on."""
    if manifest is not None and (directory / MANIFEST_NAME).exists():
        clear_work(directory, manifest)


def _files(directory: Path, manifest: Manifest | None, name: str) -> list[Path]:
    """All files of a group: sidecars first, as a tar without one is nothing; the plan last: it says what was begun."""
    split = read_group_plan(directory / beside_group(PLAN_NAME, name))["split"] if manifest is None else manifest.split
    series = re.compile(rf"{re.escape(split)}\.{re.escape(name)}-\d+-of-\d+")
    listed, kept = set[str](), set[str]()
    if manifest is not None:
        listed = {Path(info.name).stem for info in manifest.groups.get(name, ())}
        kept = {Path(info.name).stem for group in manifest.schema.groups for info in manifest.series(group)} - listed
    shards = [
        path
        for path in directory.iterdir()
        if path.suffix in (".idx", ".tar")
        and path.stem not in kept
        and (path.stem in listed or series.fullmatch(path.stem))
    ]
    working = directory.joinpath(WORK_FOLDER).glob("*.tar.failures.jsonl")
    lines = [path for path in working if series.fullmatch(path.name.removesuffix(".tar.failures.jsonl"))]
    shards.sort(key=lambda path: (path.suffix != ".idx", path.name))
    return [*shards, *lines, *files_of_group(directory, name)]

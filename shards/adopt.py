"""`reelshard index`: sidecars and a manifest for tars made elsewhere, which stay as they are.

A sample is a run of members whose names agree up to the first dot, as in stock WebDataset. A `.npy` member whose dtype
and shape are the same in every sample becomes an array field; every other member is ragged bytes. In a folder that has
a manifest already, sidecars that are lost or unreadable are made again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import xxhash

from shards.errors import DamagedShardError, MissingDataError, ShardError, UnsafeMemberError
from shards.index import ShardIndex, ShardInfo, index_path, load_index, save_index
from shards.manifest import MANIFEST_NAME, Manifest
from shards.npy import PAGE_BYTES, NpyHeader, parse_header
from shards.schema import PICKLE_SUFFIXES, Field, Schema, check_key
from shards.tar import Member, open_tar, scan

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class _Found:
    """A member, and its npy header if it is an array of a kind that can be read in place."""

    member: Member
    header: NpyHeader | None


@dataclass(frozen=True)
class _ScannedShard:
    path: Path
    keys: list[str]
    rows: list[dict[str, _Found]]


def index_directory(
    directory: Path, *, split: str = "train", progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """Give every `*.tar` in `directory` a sidecar, and the folder a manifest.

    Args:
        directory: where the tars are, and where sidecars and manifest go.
        split: the split's name in the manifest.
        progress: called with (shards done, 0).

    Returns:
        The manifest, already written.

    Raises:
        MissingDataError: no tars there.
        DamagedShardError: a tar is damaged; nothing is made of a damaged one.
        UnsafeMemberError: a link, a path outside of the archive, a pickle.
        ShardError: samples differ in their members.
    """
    paths = sorted(directory.glob("*.tar"))
    if not paths:
        raise MissingDataError(f"no .tar files in {directory}: give the folder that holds the shards")
    if (directory / MANIFEST_NAME).exists():
        return _restore_sidecars(Manifest.read(directory), directory)
    scanned = []
    for done, path in enumerate(paths, start=1):
        scanned.append(_scan_shard(path))
        if progress:
            progress(done, 0)
    schema = _common_schema(scanned)
    infos = []
    for shard in scanned:
        index = _index(shard, schema)
        save_index(index, shard.path)
        infos.append(index.info)
    manifest = Manifest(split=split, schema=schema, shards=tuple(infos), provenance={"source": "indexed tars"})
    manifest.write(directory)
    return manifest


def _restore_sidecars(manifest: Manifest, directory: Path) -> Manifest:
    """Make the missing sidecars of a data set, if its tars are those of the manifest."""
    for group in manifest.schema.groups:
        for info in manifest.series(group):
            path = directory / info.name
            try:
                if load_index(index_path(path)).info == info:
                    continue
            except (MissingDataError, DamagedShardError):
                pass
            index = _index(_scan_shard(path), manifest.schema.of_group(group))
            if index.info != info:
                raise DamagedShardError(
                    f"the tar is not the one of the manifest: digest {index.info.digest}, expected {info.digest}; "
                    "restore it, or build it again",
                    shard=path.name,
                )
            save_index(index, path)
    return manifest


def _scan_shard(path: Path) -> _ScannedShard:
    keys: list[str] = []
    rows: list[dict[str, _Found]] = []
    with open_tar(path) as file:
        for member in scan(file, path.name):
            key, suffix = _split_name(member, path.name)
            if not keys or keys[-1] != key:
                keys.append(key)
                rows.append({})
            if suffix in rows[-1]:
                raise ShardError(f"shard {path.name}, key {key}: member {suffix!r} is there twice")
            rows[-1][suffix] = _Found(member, _npy_header(file, member, path.name, key))
    if len(set(keys)) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ShardError(f"shard {path.name}: the members of sample {twice!r} do not stand together")
    if not keys:
        raise ShardError(f"shard {path.name} has no samples")
    return _ScannedShard(path, keys, rows)


def _split_name(member: Member, shard: str) -> tuple[str, str]:
    """Key and suffix of `dir/KEY.suffix`; a folder becomes a part of the key, joined by `--`."""
    folder, _, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    key = "--".join(part for part in (*folder.split("/"), stem) if part)
    if not suffix:
        raise ShardError(f"shard {shard}: member {member.name!r} has no suffix, so it belongs to no field")
    if suffix.rpartition(".")[2].lower() in PICKLE_SUFFIXES:
        raise UnsafeMemberError(f"shard {shard}: member {member.name!r} is a pickle, which can run code when read")
    try:
        return check_key(re.sub(r"\\", "-", key)), suffix
    except ValueError as error:
        raise ShardError(f"shard {shard}: member {member.name!r}: {error}") from None


def _npy_header(file: BinaryIO, member: Member, shard: str, key: str) -> NpyHeader | None:
    if not member.name.endswith(".npy"):
        return None
    file.seek(member.offset)
    try:
        header = parse_header(file.read(min(member.size, 4 * PAGE_BYTES)))
        field = Field(name="npy", dtype=header.dtype, shape=header.shape)
    except ValueError as error:
        if "pickle" in str(error):
            raise UnsafeMemberError(f"shard {shard}, key {key}: member {member.name!r}: {error}") from None
        return None
    in_place = not header.fortran_order and header.num_bytes + field.num_bytes == member.size
    return header if in_place else None


def _common_schema(scanned: Sequence[_ScannedShard]) -> Schema:
    first = scanned[0].rows[0]
    headers = {suffix: found.header for suffix, found in first.items()}
    for shard in scanned:
        for key, row in zip(shard.keys, shard.rows, strict=True):
            if set(row) != set(first):
                raise ShardError(
                    f"shard {shard.path.name}, key {key}: has members {sorted(row)}, the first sample has "
                    f"{sorted(first)}; every sample needs the same members"
                )
            for suffix, found in row.items():
                known = headers[suffix]
                if known is None or found.header is None or _kind(found.header) != _kind(known):
                    headers[suffix] = None
    return Schema(tuple(_field(suffix, header) for suffix, header in headers.items()))


def _kind(header: NpyHeader) -> tuple[str, tuple[int, ...]]:
    return header.dtype, header.shape


def _field(suffix: str, header: NpyHeader | None) -> Field:
    if header is None:
        return Field(name=suffix)
    return Field(name=suffix.removesuffix(".npy"), dtype=header.dtype, shape=header.shape)


def _index(shard: _ScannedShard, schema: Schema) -> ShardIndex:
    table: dict[str, list[tuple[int, int, int]]] = {field.name: [] for field in schema}
    digest = xxhash.xxh3_128()
    with open_tar(shard.path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        total = file.tell()
        for row in shard.rows:
            for field in schema:
                found = row[field.suffix]
                skip = found.header.num_bytes if field.is_array and found.header else 0
                member = replace(found.member, offset=found.member.offset + skip, size=found.member.size - skip)
                file.seek(member.offset)
                data = file.read(member.size)
                if len(data) < member.size:
                    raise DamagedShardError("the file became shorter while it was read", shard=shard.path.name)
                table[field.name].append((member.offset, member.size, xxhash.xxh3_64_intdigest(data)))
    info = ShardInfo(shard.path.name, len(shard.keys), total, digest.hexdigest())
    return ShardIndex.build(info, schema, shard.keys, table)

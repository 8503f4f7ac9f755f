"""Stock tars as samples that can be written: scanned strictly, read where they lie, given keys of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from shards.exchange.foreign_fields import ImportedField, Members, Tubes, field_name, imported_fields
from shards.exchange.names import some
from shards.exchange.origin import Origin
from shards.exchange.reshard import HISTORY
from shards.exchange.rewrite import Rewrite, cut_by_size, cut_evenly, digest_of_keys
from shards.foreign import Found, ScannedShard, scan_shard
from shards.format.errors import DamagedShardError, MissingDataError, ShardError
from shards.format.npy import MAX_HEADER_BYTES, PAGE_BYTES, NpyHeader, parse_header
from shards.format.schema import Schema
from shards.format.tar import open_tar
from shards.threads import thread_pool
from shards.writer import Value

THREADS = 8
SAMPLE_BYTES = 2 * PAGE_BYTES  # of headers and padding, for each member
Say = Callable[[str], None]


@dataclass(frozen=True)
class ForeignSample:
    """Where a sample's members lie."""

    tar: Path
    key: str
    members: dict[str, Found]


@dataclass(frozen=True)
class Imported:
    """The samples of stock tars."""

    samples: Sequence[ForeignSample]
    keys: Sequence[str]
    fields: dict[str, ImportedField]

    def value(self, place: int, field: str) -> Value:
        """One field of one sample.

        Raises:
            ShardError: the tar has changed since it was scanned, or the member is not what its header says.
        """
        sample, imported = self.samples[place], self.fields[field]
        with open_tar(sample.tar) as file:
            data = [_read(file, sample.members[suffix], sample) for suffix in imported.suffixes(list(sample.members))]
        try:
            return imported.make(data)
        except ValueError as error:
            raise ShardError(f"shard {sample.tar.name}, key {sample.key}, field {field}: {error}") from None


def _read(file: BinaryIO, found: Found, sample: ForeignSample) -> bytes:
    file.seek(found.member.offset)
    data = file.read(found.member.size)
    if len(data) < found.member.size:
        raise DamagedShardError("the file became shorter meanwhile", shard=sample.tar.name, key=sample.key)
    return data


def plan_import(
    tars: Sequence[Path],
    *,
    source: str,
    split: str = "train",
    keep: Sequence[str] = (),
    tubes: Tubes | None = None,
    samples_per_shard: int | None = None,
    shard_bytes: int | None = None,
    say: Say = lambda line: None,
) -> Rewrite:
    """A data set of the samples of stock tars, in their order; `Rewrite.run` writes it.

    Args:
        tars: the files.
        source: how the user has named them, without secrets.
        split: the split's name.
        keep: fields to take; all members of a sample that are of others are left out. None is all.
        tubes: how clips are cut; None leaves them as they are.
        samples_per_shard: the last shard may have fewer; None is as in the largest of the tars.
        shard_bytes: most bytes of a shard instead.
        say: takes a line for the user: which keys met.

    Raises:
        ValueError: a name is no field's, or a size is none.
        ShardError: a tar is damaged or unsafe, or samples differ in their members.
        MissingDataError: a tar is not there, or there is no sample.
    """
    with thread_pool(THREADS) as pool:
        scanned = list(pool.map(scan_shard, tars))
    samples = [
        ForeignSample(shard.path, key, row)
        for shard in scanned
        for key, row in zip(shard.keys, shard.rows, strict=True)
    ]
    if not samples:
        raise MissingDataError(f"there is no sample in {source}: every tar is empty")
    fields = imported_fields(_members(samples, keep), tubes)
    keys = _unique_keys([sample.key for sample in samples], say)
    if shard_bytes is not None:
        sizes = (_size(sample, keep) for sample in samples)
        counts = cut_by_size(sizes, shard_bytes)
    else:
        counts = cut_evenly(len(samples), samples_per_shard or max(len(shard.keys) for shard in scanned))
    done = {"command": "import", "tars": source, "num_tars": len(tars), "contents": _fingerprint(scanned)}
    origin = Origin(
        split=split,
        schema=Schema(tuple(one.field for one in fields)),
        provenance={"source": "imported tars", HISTORY: [done]},
        samples=counts,
        keys=digest_of_keys(keys),
    )
    return Rewrite(origin=origin, samples=Imported(samples, keys, {one.field.name: one for one in fields}))


def _fingerprint(scanned: Sequence[ScannedShard]) -> str:
    """xxh3-128 (hex) of all members' names, places and sizes."""
    digest = xxhash.xxh3_128()
    for shard in scanned:
        for row in shard.rows:
            for found in row.values():
                digest.update(f"{found.member.name}\n{found.member.offset} {found.member.size}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _members(samples: Sequence[ForeignSample], keep: Sequence[str]) -> dict[str, Members]:
    """What is seen of each field to be.

    Raises:
        ShardError: a sample lacks one that the first has, or has a further one; numbered members may be none.
    """
    seen: dict[str, Members] = {}
    names_of_first: set[str] = set()
    for number, sample in enumerate(samples):
        found: Counter[str] = Counter()
        for suffix, member in sample.members.items():
            name, pieces = field_name(suffix)
            if keep and not _is_kept(name, keep):
                continue
            seen.setdefault(name, Members(name, pieces)).see(_header(sample, suffix, member))
            if seen[name].pieces != pieces:
                raise ShardError(
                    f"shard {sample.tar.name}, key {sample.key}: its members are numbered and not, both are {name!r}"
                )
            found[name] += 1
        single = {name for name in found if not seen[name].pieces}
        if not number:
            names_of_first = single
        if single != names_of_first:
            raise ShardError(
                f"shard {sample.tar.name}, key {sample.key}: has members {sorted(single)}, the first sample has "
                f"{sorted(names_of_first)}; every sample needs the same: name those that all have with --fields"
            )
    if unknown := [name for name in keep if not any(_is_kept(one, [name]) for one in seen)]:
        raise ShardError(f"no sample has a member {unknown[0]!r}; the first has {sorted(samples[0].members)}")
    return seen


def _is_kept(name: str, keep: Sequence[str]) -> bool:
    return name in keep or (name.endswith(".npy") and name.removesuffix(".npy") in keep)


def _header(sample: ForeignSample, suffix: str, found: Found) -> NpyHeader | None:
    """The header of an array, also of one that cannot be read in place: big-endian, or in Fortran order."""
    if found.header is not None or not suffix.endswith("npy"):
        return found.header
    with open_tar(sample.tar) as file, suppress(ValueError):
        file.seek(found.member.offset)
        return parse_header(file.read(min(found.member.size, 2 * MAX_HEADER_BYTES)))
    return None


def _unique_keys(keys: Sequence[str], say: Say) -> list[str]:
    """Keys as they are, those that were there before with -2, -3, ... behind them."""
    reserved, taken, next_of = set(keys), set[str](), Counter[str]()
    unique, renamed = [], []
    for key in keys:
        name = key
        if key in taken:
            renamed.append(key)
            next_of[key] = max(next_of[key], 1)
            while name in taken or name in reserved:
                next_of[key] += 1
                name = f"{key}-{next_of[key]}"
        taken.add(name)
        unique.append(name)
    if renamed:
        say(f"{some(renamed, 'key')} of earlier samples, in other tars: they have -2, -3, ... behind them")
    return unique


def _size(sample: ForeignSample, keep: Sequence[str]) -> int:
    """Bytes of a sample in a shard, rather more than fewer."""
    kept = [found for suffix, found in sample.members.items() if not keep or _is_kept(field_name(suffix)[0], keep)]
    return sum(found.member.size + SAMPLE_BYTES for found in kept)

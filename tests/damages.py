"""Changes of a data set's files by somebody who computes all digests anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np
import xxhash

Record = dict[str, Any]
HUGE = 10**30
COLUMNS = ("offsets", "sizes", "checksums")
ALL_COLUMNS = (*COLUMNS, "pieces")


def write_manifest(directory: Path, change: Callable[[Record], object]) -> None:
    """Change the manifest and give it the digest that belongs to it."""
    path = directory / "dataset.json"
    record = json.loads(path.read_bytes())
    change(record)
    body = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record["digest"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    path.write_bytes(json.dumps(record).encode("utf-8", "surrogatepass"))


def write_sidecar(path: Path, change: Callable[[Record], object]) -> None:
    """Change a sidecar's body and give it the digest that belongs to it."""
    outer = msgpack.unpackb(path.read_bytes())
    body = msgpack.unpackb(outer["body"])
    change(body)
    packed = msgpack.packb(body)
    path.write_bytes(msgpack.packb({**outer, "digest": xxhash.xxh3_128_hexdigest(packed), "body": packed}))


def change_tar(directory: Path, name: str, change: Callable[[bytearray], object]) -> None:
    """Change a tar and give its digest and size to the manifest and the sidecar; checksums of payloads stay."""
    path = directory / name
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    about = {"bytes": len(data), "digest": xxhash.xxh3_128_hexdigest(data)}

    def tell(record: Record) -> None:
        for series in (record["shards"], *record["groups"].values()):
            for shard in series:
                if shard["name"] == name:
                    shard.update(about)

    write_manifest(directory, tell)
    write_sidecar(path.with_suffix(".idx"), lambda body: body["shard"].update(about))


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: list[Any] = [
    None,
    True,
    -1,
    HUGE,
    1.5,
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    deep(50),
    deep(100),
    "\ud800",
    "a" * 10_000,
]


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in paths_in(item, (*path, key)))]


def put(record: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value


def as_u64(numbers: list[int]) -> bytes:
    return np.array(numbers, "<u8").tobytes()


def damage_at_random(directory: Path, names: Sequence[str], random: Random) -> str:
    """Do to one of some files what storage, networks and people do; returns what was done."""
    name = random.choice(names)
    path = directory / name
    data = bytearray(path.read_bytes())
    start = random.randrange(len(data))
    length = random.choice((1, 2, 7, 512, 4096, 20_000))
    kind = random.choice(
        ("flip", "flips", "zero", "noise", "cut", "extend", "insert", "remove", "repeat", "empty", "delete", "exchange")
    )
    if kind == "flip":
        data[start] ^= 1 << random.randrange(8)
    elif kind == "flips":
        for _ in range(random.randrange(2, 50)):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == "zero":
        data[start : start + length] = bytes(len(data[start : start + length]))
    elif kind == "noise":
        data[start : start + length] = random.randbytes(len(data[start : start + length]))
    elif kind in ("cut", "empty"):
        del data[start if kind == "cut" else 0 :]
    elif kind == "extend":
        data += random.choice((bytes(length), random.randbytes(length)))
    elif kind == "insert":
        data[start:start] = random.choice((bytes(length), random.randbytes(length)))
    elif kind == "remove":
        del data[start : start + length]
    elif kind == "repeat":
        data[start:start] = data[start : start + length]
    elif kind == "exchange":
        other = directory / random.choice(names)
        data[:] = other.read_bytes()
        other.write_bytes(path.read_bytes())
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(data)
    return f"{kind} {name} at {start}, {length} bytes"


def damage_with_digests(directory: Path, random: Random) -> str:
    """Change a manifest, sidecars, a plan, failures or a tar, and compute anew the digests that cover it."""
    change = random.choice(
        (
            _lie_in_manifest,
            _lie_in_sidecar,
            _exchange_samples,
            _lie_in_both,
            _lie_in_plan,
            _lie_in_failures,
            _lie_in_tar,
        )
    )
    return f"{change.__name__}: {change(directory, random)}"


def _lie(record: Any, random: Random) -> str:
    """Change one value somewhere inside a record: for another one, for one of its own, or away."""
    path = random.choice(paths_in(record)[1:])
    *front, last = path
    place = record
    for key in front:
        place = place[key]
    old = place[last]
    kind = random.choice(("put", "put", "put", "remove", "neighbour", "reverse", "number"))
    if kind == "remove":
        del place[last]
    elif kind == "neighbour":
        place[last] = random.choice(list(place.values()) if isinstance(place, dict) else place)
    elif kind == "reverse" and isinstance(old, list | str | bytes):
        place[last] = old[::-1]
    elif kind == "number" and isinstance(old, int):
        place[last] = random.choice((old + 1, old - 1, old * 2, old // 2, 2**31, 2**53, 2**63 - 1))
    elif isinstance(old, bytes) and len(old) >= 8 and random.random() < 0.8:
        rows = [old[start : start + 8] for start in range(0, len(old), 8)]
        random.shuffle(rows)
        place[last] = random.choice(
            (b"".join(rows), old[8:], old + old[-8:], random.randbytes(len(old)), bytes(len(old)))
        )
    else:
        place[last] = random.choice(VALUES)
    return f"{kind} at {path}"


def _lie_in_manifest(directory: Path, random: Random) -> str:
    return _told(partial(write_manifest, directory), random)


def _lie_in_sidecar(directory: Path, random: Random) -> str:
    path = random.choice(sorted(directory.glob("*.idx")))
    return f"{path.name}: " + _told(partial(write_sidecar, path), random)


def _exchange_samples(directory: Path, random: Random) -> str:
    """Exchange two samples in some fields of a sidecar: it then describes a tar of another order."""
    path = random.choice(sorted(directory.glob("*.idx")))

    def change(body: Record) -> None:
        one, two = random.sample(range(body["shard"]["samples"]), 2)
        for field in random.sample(body["fields"], random.randrange(1, len(body["fields"]) + 1)):
            for name in (name for name in ALL_COLUMNS if name in field):
                rows = [field[name][start : start + 8] for start in range(0, len(field[name]), 8)]
                rows[one], rows[two] = rows[two], rows[one]
                field[name] = b"".join(rows)

    write_sidecar(path, change)
    return path.name


def _told(write: Callable[[Callable[[Record], object]], None], random: Random) -> str:
    told: list[str] = []
    before = random.getstate()
    try:
        write(lambda record: told.append(_lie(record, random)))
    except (ValueError, OverflowError):  # msgpack holds no such number and nothing so deep: take another lie
        random.setstate(before)
        random.random()
        return _told(write, random)
    return told[0]


def _lie_in_both(directory: Path, random: Random) -> str:
    """Say the same untruth of a shard or of a field in the manifest and in the sidecars."""
    field = random.choice(json.loads((directory / "dataset.json").read_bytes())["schema"])["name"]
    key, value = random.choice(
        (
            ("dtype", random.choice(("<i2", "|u1", "<f4", "<c8", None, 7))),
            ("shape", random.choice(([3], [2, 4, 3], [4, 2, 3], [10**9], [], None, [None], [None, 7], [7, None]))),
            ("layout", random.choice(("plain", "frames", "tubes", "packed", "other"))),
            ("name", random.choice(("clip", "target", "json", "dino", "other", "../x", "x.pkl"))),
            ("group", random.choice(("", "dinov2", "other", "..", "\x1b"))),
        )
    )

    def change(fields: list[Record]) -> None:
        for record in fields:
            if record["name"] == field:
                record[key] = value

    write_manifest(directory, lambda record: change(record["schema"]))
    for path in directory.glob("*.idx"):
        write_sidecar(path, lambda body: change(body["fields"]))
    return f"{key} of {field} is {value!r}"


def _lie_in_plan(directory: Path, random: Random) -> str:
    path = directory / "plan.json"
    plan = json.loads(path.read_bytes())
    told = _lie(plan, random)
    path.write_bytes(json.dumps(plan).encode("utf-8", "surrogatepass"))
    return told


def _lie_in_failures(directory: Path, random: Random) -> str:
    path = directory / "failures.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = _lie(lines, random)
    path.write_bytes(b"".join(json.dumps(line).encode("utf-8", "surrogatepass") + b"\n" for line in lines))
    return told


def _lie_in_tar(directory: Path, random: Random) -> str:
    """Change a member's header, with its checksum, and the digest and size of the tar wherever they are written."""
    name = random.choice(sorted(path.name for path in directory.glob("*.tar")))
    told: list[str] = []
    change_tar(directory, name, lambda data: told.append(_lie_in_headers(data, random)))
    return f"{told[0]} in {name}"


def _lie_in_headers(data: bytearray, random: Random) -> str:
    headers = [start for start in range(0, len(data), 512) if data[start + 257 : start + 262] == b"ustar"]
    start, other = random.choice(headers), random.choice(headers)
    kind = random.choice(("name", "size", "type", "exchange", "prefix", "payload"))
    if kind == "exchange":
        data[start : start + 512], data[other : other + 512] = data[other : other + 512], data[start : start + 512]
    elif kind == "payload":
        data[min(start + 600, len(data) - 1)] ^= 0xFF
    else:
        place, texts = {
            "name": (0, (b"../../etc/x.clip.npy", b"x/v1.clip.npy", b"\x1b[2J.json", b"\xff.json", b"a", b"v1.pkl")),
            "size": (124, (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"00000000000\0", b"9" * 12)),
            "type": (156, (b"1", b"2", b"5", b"x", b"g", b"L", b"S", b"\xff")),
            "prefix": (345, (b"..", b"/etc", b"folder")),
        }[kind]
        text = random.choice(texts)
        data[start + place : start + place + len(text)] = text
    for header in (start, other):
        block = data[header : header + 512]
        block[148:156] = b" " * 8
        data[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    return f"{kind} at {start}"

"""`reelshard cache`: what is kept on this machine of data sets in stores elsewhere."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from tools.datasets import add_cache_arguments, cache_of

if TYPE_CHECKING:
    from shards.cache.folder import Cache, CachedSet

HELP = "show, clear or pin what is cached of data sets in stores elsewhere"

_DESCRIPTION = """What is read of a data set in a store elsewhere is kept in a folder on this machine: REELSHARD_CACHE,
or ~/.cache/reelshard. When it is full, what was used longest ago gives way, but for data sets that are pinned, and tars
that are being read.

show    lists the data sets in it (also without a word)
clear   removes the data set at URL, or all that nobody uses; pinned ones only where they are named
pin     keeps the data set at URL from giving way; unpin ends that"""

ACTIONS = ("show", "clear", "pin", "unpin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard cache`."""
    parser.description = _DESCRIPTION
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="show", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("url", nargs="?", metavar="URL", help="of a data set that is in the cache")
    add_cache_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what is left in the cache as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it, and show what is in the cache then; the status is 1 where something in use could not be cleared."""
    from tools.terminal import clean

    cache = cache_of(args)
    if args.action in ("pin", "unpin") and args.url is None:
        raise ValueError(f"{args.action} needs the URL of a data set that is in the cache")
    chosen = _chosen(cache, args.url)
    in_use: list[CachedSet] = []
    for each in chosen:
        if args.action in ("pin", "unpin"):
            cache.pin(each.folder, pinned=args.action == "pin")
        elif args.action == "clear" and (args.url is not None or not each.pinned) and not cache.clear(each.folder):
            in_use.append(each)
    print(_as_json(cache) if args.json else clean_lines(_lines(cache)))
    for each in in_use:
        print(clean(f"{each.url} is in use and was left"))
    return int(bool(in_use))


def _chosen(cache: Cache, url: str | None) -> list[CachedSet]:
    from shards.store import open_store

    place = None if url is None else open_store(url).url
    chosen = [each for each in cache.sets() if place in (None, each.url)]
    if place is not None and not chosen:
        raise ValueError(f"{place} is not in the cache {cache.folder}; `reelshard cache` lists what is")
    return chosen


def _lines(cache: Cache) -> list[str]:
    from shards.words import spell_bytes

    sets = cache.sets()
    lines = [f"{cache.folder}: {spell_bytes(cache.usage())} of at most {spell_bytes(cache.quota)}"]
    for each in sets:
        pinned = ", pinned" if each.pinned else ""
        lines.append(f"{spell_bytes(each.num_bytes):>10}  {each.url} (digest {each.digest[:12]}{pinned})")
    return lines


def clean_lines(lines: list[str]) -> str:
    """Lines for a terminal."""
    from tools.terminal import clean

    return "\n".join(map(clean, lines))


def _as_json(cache: Cache) -> str:
    sets = [
        {"url": each.url, "digest": each.digest, "num_bytes": each.num_bytes, "pinned": each.pinned}
        for each in cache.sets()
    ]
    return json.dumps({"folder": str(cache.folder), "quota": cache.quota, "num_bytes": cache.usage(), "sets": sets})

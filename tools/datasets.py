"""`--data PATH` or `--data URL`, or `--data NAME=PATH` for each source of a mix; and where what URLs give is kept."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.cache.folder import Cache
    from shards.dataset import ShardDataset
    from tools.systems.base import DataConfig

_NAMED = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)
CACHE_OPTIONS = ("--data.cache", "--data.cache_quota")
HELP_ON_MIXES = "; NAME=PATH for each of several, which data.mix weighs"


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--data`."""
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help=f"folder of the training data set, or its URL, such as s3://BUCKET/SET{HELP_ON_MIXES}",
    )


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where data sets elsewhere are kept on this machine, called as recipes call it."""
    folder, quota = CACHE_OPTIONS
    parser.set_defaults(own_options=CACHE_OPTIONS)
    parser.add_argument(
        folder,
        dest="cache",
        metavar="DIR",
        help="local folder for what is read of a URL (default: REELSHARD_CACHE, or ~/.cache/reelshard)",
    )
    parser.add_argument(
        quota,
        dest="cache_quota",
        metavar="SIZE",
        help="the most that it may hold, such as 500GB (default: REELSHARD_CACHE_QUOTA, or 80 %% of the free disk)",
    )


def cache_of(args: argparse.Namespace) -> Cache:
    """The cache that `add_cache_arguments` names.

    Raises:
        ValueError: the quota is no size.
    """
    from shards.cache.folder import Cache

    return Cache(args.cache, args.cache_quota)


def as_overrides(args: argparse.Namespace) -> list[str]:
    """What `add_cache_arguments` was given, as values of a recipe."""
    values = zip(CACHE_OPTIONS, (args.cache, args.cache_quota), strict=True)
    return [f"{option}={json.dumps(value)}" for option, value in values if value is not None]


def parse_paths(given: Sequence[str]) -> dict[str, Path]:
    """The folders that `--data` or `--val` name, by source; one without a name is called "".

    Raises:
        ValueError: two have the same name, or several are given and one has none.
    """
    paths: dict[str, Path] = {}
    for text in given:
        named = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, path = named.groups() if named else ("", text)
        if name in paths:
            what = f"{name!r} is given twice" if name else "several data sets are given"
            raise ValueError(f"{what}: give each a name of its own, NAME=PATH, and its weight in data.mix")
        paths[name] = Path(path)
    if "" in paths and len(paths) > 1:
        raise ValueError(f"{paths['']} has no name among several data sets; give NAME=PATH")
    return paths


def open_dataset(path: Path, data: DataConfig) -> ShardDataset:
    """Open a data set; what is read of one in a store elsewhere goes into the cache that the recipe names.

    Raises:
        ShardError: it is not there, damaged, or cannot be reached.
    """
    from shards.cache.folder import Cache
    from shards.dataset import ShardDataset

    return ShardDataset.open(path, Cache(data.cache, data.cache_quota))


def full_place(dataset: ShardDataset) -> str:
    """Where a data set is: its URL, or its path from the root."""
    return dataset.place if dataset.mirror is not None else str(dataset.directory.resolve())


def refuse_other_mix(data: DataConfig, paths: Mapping[str, Path]) -> None:
    """Compare the sources that are given with those that the recipe mixes.

    Raises:
        ValueError: they differ.
    """
    if data.mix is None:
        if len(paths) > 1:
            raise ValueError(
                f"{len(paths)} data sets are given ({', '.join(paths)}), but the recipe does not say how to mix them: "
                f"give --data.mix '{{{', '.join(f'{name}: 1' for name in paths)}}}' or other weights"
            )
        return
    if set(paths) != set(data.mix):
        got = ", ".join(name or f"{path} without a name" for name, path in paths.items())
        wanted = " ".join(f"--data {name}=PATH" for name in data.mix)
        raise ValueError(f"data.mix weighs {', '.join(data.mix)}, given is {got}: give {wanted}")

"""`--data PATH`, or `--data NAME=PATH` for each source of a mix."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.systems.base import DataConfig

_NAMED = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)
HELP_ON_MIXES = "; NAME=PATH for each of several, which data.mix weighs"


def add_data_argument(parser: argparse.ArgumentParser, *, help_text: str) -> None:
    """Declare `--data`."""
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help=help_text + HELP_ON_MIXES,
    )


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

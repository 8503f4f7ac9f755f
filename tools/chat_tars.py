"""Tars of others as a command line names them: a brace list of paths or URLs, which are fetched first."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.format.errors import MissingDataError, ShardError
from shards.format.publish import publish_file, temporary_path

if TYPE_CHECKING:
    from shards.builder import Source

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_IN_SHELLS = set("'\"`$;|<>\\(){}*\n\r\t ")  # webdataset hands URLs to programs by a shell


def open_tars(tars: str, scratch: Path) -> Source:
    """The chats of some tars.

    Args:
        tars: paths or URLs, with braces for several: `webvid/{00000..00099}.tar`.
        scratch: folder that keeps what comes from URLs, so that it is fetched once.

    Raises:
        ValueError: it names a command to run, or paths and URLs at once.
        MissingDataError: a tar is not there, or cannot be fetched.
        ShardError: one is damaged.
    """
    from shards.builder.sources.chat_open import OFFICIAL
    from shards.builder.sources.chat_tars import load_chat_tars

    names = expand(tars)
    remote = [name for name in names if _URL.match(name)]
    if remote and len(remote) < len(names):
        raise ValueError(f"{tars!r} names paths and URLs; give one or the other")
    if remote:
        return load_chat_tars([fetch(name, scratch) for name in names], scratch)
    paths = [Path(name).absolute() for name in names]
    for path in paths:
        if not path.is_file():
            raise MissingDataError(f"there is no tar {path}. {OFFICIAL}")
    return load_chat_tars(paths, Path(os.path.commonpath([path.parent for path in paths])))


def expand(tars: str) -> Sequence[str]:
    """The names that braces stand for.

    Raises:
        ValueError: one is a command to run, or the braces are not balanced.
    """
    import braceexpand

    try:
        names = list(braceexpand.braceexpand(tars))
    except ValueError as error:
        raise ValueError(f"the braces of {tars!r} are not balanced: {error}") from None
    for name in names:
        if name.startswith("pipe:"):
            raise ValueError(f"{name!r} is a command, and none is run: give paths or URLs of tars")
        if _URL.match(name) and (strange := sorted(_IN_SHELLS.intersection(name))):
            raise ValueError(f"the URL {name!r} holds {' '.join(strange)!r}, which has a meaning in shells: encode it")
    return names


def fetch(url: str, scratch: Path) -> Path:
    """Bring a tar here by webdataset's own opener, whole or not at all; one that is here is not fetched again.

    Raises:
        MissingDataError: it cannot be had.
    """
    from webdataset.gopen import gopen

    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    path = scratch / f"{digest}-{url.rpartition('/')[2].partition('?')[0] or 'shard.tar'}"
    if path.is_file():
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with gopen(url) as stream, temporary.open("xb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
            os.fsync(file.fileno())
        if not temporary.stat().st_size:
            raise OSError("nothing came")
        publish_file(temporary, path)
    except ShardError:
        raise
    except Exception as error:  # each scheme has an opener with errors of its own
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingDataError(f"{url} cannot be fetched: {what}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path

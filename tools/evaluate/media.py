"""Videos and images of a folder by the names that official files call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.builder.sources.folder import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"])


@dataclass(frozen=True)
class Media:
    """The files of a folder and of those below it.

    Attributes:
        folder: it.
        paths: by file name and by stem; files of one name in several folders stand together.
    """

    folder: Path
    paths: Mapping[str, Sequence[Path]]

    @classmethod
    def of(cls, folder: Path, suffixes: frozenset[str] = VIDEO_SUFFIXES | IMAGE_SUFFIXES) -> Media:
        """List them.

        Raises:
            ValueError: there is no such folder.
        """
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder} of videos or images")
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in suffixes:
                for name in {path.name, path.stem}:
                    found.setdefault(name, []).append(path)
        return cls(folder, found)

    def find(self, *names: str, below: Sequence[str] = ()) -> Path | None:
        """The file that goes by the first of these names that there is; None if there is none.

        Args:
            names: with or without a suffix.
            below: names of the folder that it should lie in, where there are several.
        """
        for name in names:
            if some := self.paths.get(name):
                return next((path for path in some if path.parent.name in below), some[0])
        return None


def refuse_if_all_are_missing(missing: Sequence[str], num_all: int, folder: Path, where: str) -> None:
    """Refuse to begin where no file is there.

    Args:
        missing: names of those that are not there.
        num_all: of those that are wanted.
        folder: where they were looked for.
        where: they are to be had.

    Raises:
        ValueError: nothing is there.
    """
    if missing and len(missing) == num_all:
        raise ValueError(f"none of the {num_all} files, such as {missing[0]}, is in {folder}. {where}")

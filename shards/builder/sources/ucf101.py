"""UCF101: `UCF-101/CLASS/v_CLASS_gGG_cCC.avi` and the lists of `ucfTrainTestlist`, in three folds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.builder.decode.zipped import list_members, read_text
from shards.builder.item import Item, Source
from shards.format.errors import MissingDataError, ShardError

FOLDS = (1, 2, 3)
VIDEOS_FOLDER, LISTS_FOLDER, ARCHIVE = "UCF-101", "ucfTrainTestlist", "UCF101.rar"

_SPLITS = ("train", "test")
_LISTS_ZIP = "UCF101TrainTestSplits*.zip"
_GROUP = re.compile(r"(v_.+_g\d+)_c\d+")
_EXPECTED = (
    f"UCF101 is expected as ROOT/{VIDEOS_FOLDER}/<class>/<video>.avi and ROOT/{LISTS_FOLDER}/ with classInd.txt, "
    "trainlist01.txt to 03 and testlist01.txt to 03 (or the official zip of these lists). Get both from "
    "https://www.crcv.ucf.edu/data/UCF101.php"
)


def is_ucf101(root: Path) -> bool:
    """Tell whether a folder is a download of UCF101."""
    names = (VIDEOS_FOLDER, LISTS_FOLDER, ARCHIVE)
    return any((root / name).exists() for name in names) or any(root.glob(_LISTS_ZIP))


def load_ucf101(root: Path, split: str, fold: int = 1) -> Source:
    """Read the videos of one split of one fold, in the order of its list.

    Classes are numbered from 0 in the order of classInd.txt, which numbers them from 1. A video that the list names and
    that is not there stays in the list, and fails in the build. `extra["group"]` is what clips of one longer video
    share: a split that is made at random has to keep them together.

    Args:
        root: folder with `UCF-101` and `ucfTrainTestlist`, or `UCF-101` itself with the lists in it or beside it.
        split: "train" or "test".
        fold: 1, 2 or 3.

    Raises:
        ValueError: there is no such split or fold.
        MissingDataError: videos or lists are not there; the message says where to get them and the layout expected.
        ShardError: a list is not what it should be.
    """
    if split not in _SPLITS:
        raise ValueError(f"UCF101 has no split {split!r}; choose {' or '.join(_SPLITS)}")
    if fold not in FOLDS:
        raise ValueError(f"UCF101 has no fold {fold}; choose {', '.join(map(str, FOLDS))}")
    videos = _find_videos(root)
    lists = _find_lists(root)
    numbers = _read_classes(lists)
    name = f"{split}list{fold:02}.txt"
    items = [_item(line, numbers, videos, lists, name) for line in lists.lines(name)]
    if not items:
        raise ShardError(f"{lists.spell(name)} is empty. {_EXPECTED}")
    return Source(
        kind="ucf101",
        root=root,
        items=tuple(items),
        label_names=tuple(numbers),
        provenance={"split": split, "fold": fold},
    )


@dataclass(frozen=True)
class _Lists:
    """The folder of lists, perhaps in a zip."""

    root: Path
    place: str

    def lines(self, name: str) -> list[str]:
        """Lines that hold anything.

        Raises:
            MissingDataError: there is no such list.
            ShardError: it is no text.
        """
        if self.place.lower().endswith(".zip"):
            members = [member.name for member in list_members(self.root / self.place)]
            path = next((f"{self.place}/{found}" for found in members if PurePosixPath(found).name == name), None)
        else:
            path = f"{self.place}/{name}" if (self.root / self.place / name).is_file() else None
        if path is None:
            raise MissingDataError(f"there is no {name} in {self.root / self.place}. {_EXPECTED}")
        return [line for line in map(str.strip, read_text(self.root, path).split("\n")) if line]

    def spell(self, name: str) -> str:
        return f"{self.root / self.place}/{name}"


def _find_videos(root: Path) -> str:
    """The folder of classes relative to the root: "" where it is the root itself."""
    if not root.is_dir():
        raise MissingDataError(f"there is no folder {root}. {_EXPECTED}")
    if (root / VIDEOS_FOLDER).is_dir():
        return f"{VIDEOS_FOLDER}/"
    if root.name == VIDEOS_FOLDER or any(root.glob("*/v_*.avi")):
        return ""
    if (root / ARCHIVE).exists():
        raise MissingDataError(
            f"{root / ARCHIVE} is not unpacked yet, and rar needs a program of its own: run `unrar x {ARCHIVE}` (or "
            f"`7z x {ARCHIVE}`) in {root}, which makes {VIDEOS_FOLDER} there. {_EXPECTED}"
        )
    raise MissingDataError(f"there is no {VIDEOS_FOLDER} in {root}. {_EXPECTED}")


def _find_lists(root: Path) -> _Lists:
    for folder in (root, root / VIDEOS_FOLDER, root.absolute().parent):
        if (folder / LISTS_FOLDER).is_dir():
            return _Lists(folder, LISTS_FOLDER)
        if zips := sorted(folder.glob(_LISTS_ZIP)):
            return _Lists(folder, zips[0].name)
    if (root / "classInd.txt").is_file():
        return _Lists(root, ".")
    raise MissingDataError(f"there is no {LISTS_FOLDER} in {root}. {_EXPECTED}")


def _read_classes(lists: _Lists) -> dict[str, int]:
    """Numbers from 0 on by class, in their order.

    Raises:
        ShardError: they are not 1, 2, 3, ...
    """
    name, numbers = "classInd.txt", dict[str, int]()
    for line in lists.lines(name):
        number, _, class_name = line.partition(" ")
        if not class_name or class_name in numbers or number != str(len(numbers) + 1):
            raise ShardError(
                f'{lists.spell(name)}: expected "{len(numbers) + 1} <class>", got {line[:100]!r}; {_EXPECTED}'
            )
        numbers[class_name] = len(numbers)
    return numbers


def _item(line: str, numbers: dict[str, int], videos: str, lists: _Lists, name: str) -> Item:
    """A line is `CLASS/video.avi`, with or without the class's number from 1 on."""
    path, _, number = line.rpartition(" ") if line.rpartition(" ")[2].isdecimal() else (line, "", "")
    parts = path.split("/")
    if len(parts) != 2 or parts[0] not in numbers or not parts[1].isprintable() or parts[1] in ("", ".", ".."):
        raise ShardError(f'{lists.spell(name)}: expected "<class>/<video>.avi", got {line[:100]!r}; {_EXPECTED}')
    label = numbers[parts[0]]
    if number and int(number) != label + 1:
        raise ShardError(
            f"{lists.spell(name)} says that {path} is of class {number}, classInd.txt numbers {parts[0]} {label + 1}: "
            "the lists are not of one set, or count from 0; download them again"
        )
    video_id = PurePosixPath(parts[1]).stem
    group = _GROUP.fullmatch(video_id)
    return Item(
        id=video_id,
        path=f"{videos}{path}",
        label=label,
        label_name=parts[0],
        extra={"group": group[1]} if group else {},
    )

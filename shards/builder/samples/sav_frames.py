"""Videos of SA-V's val and test sets: a folder of JPEGs, and for each object a folder of PNGs of every fourth."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from shards.builder.decode.stream_facts import MAX_FRAME_PIXELS, SourceFile
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import Prepared, blame
from shards.builder.samples.pictures import JpegWriter, decode_picture
from shards.builder.samples.sav_annotations import RATE, STEP

_MODES = ("1", "L", "P")  # one number a pixel
Pack = Callable[[Iterable[tuple[int, NDArray[np.bool_]]]], bytes]


def read_folder(root: Path, item: Item, write: JpegWriter, check_length: Callable[[int], None], pack: Pack) -> Prepared:
    """Read the annotated frames of one video and the masks of its objects.

    Args:
        root: of the set.
        item: its `path` is the folder of JPEGs, `objects` in its extra that of the objects' folders.
        write: makes the stored JPEG of a frame.
        check_length: refuses too few frames.
        pack: makes the stored bytes of a frame's masks.

    Raises:
        BuildFailure: with the reason, when it cannot become a sample.
    """
    pictures, masks = root / item.path, root / item.extra["objects"]
    folders = _objects(masks)
    numbers = _numbers(folders.values())
    check_length(len(numbers))
    digest, num_bytes = xxhash.xxh3_128(), 0
    jpegs: list[bytes] = []
    packed: list[bytes] = []
    size = (0, 0)
    for number in numbers:
        data = _read(pictures / f"{number:05}.jpg")
        paths = {object_id: folder / f"{number:05}.png" for object_id, folder in folders.items()}
        there = {object_id: (path, _read(path)) for object_id, path in paths.items() if path.is_file()}
        for piece in (data, *(png for _, png in there.values())):
            digest.update(piece)
            num_bytes += len(piece)
        with blame(SourceFile(num_bytes=num_bytes, xxh3_128=digest.hexdigest())):
            frame = decode_picture(data, number)
            if jpegs and frame.shape[:2] != size:
                raise BuildFailure("bad_dimensions", f"frame {number} is of another size than those before it")
            size = frame.shape[0], frame.shape[1]
            jpegs.append(write(frame))
            packed.append(pack((object_id, _mask(path, png, size)) for object_id, (path, png) in there.items()))
    facts = {
        "frame_indices": numbers,
        "timestamps": [round((number - numbers[0]) / RATE, 6) for number in numbers],
        "num_source_frames": sum(1 for path in pictures.iterdir() if path.suffix == ".jpg"),
        "decoder": "pillow",
        "height": size[0],
        "width": size[1],
        "object_ids": list(folders),
    }
    source = SourceFile(num_bytes=num_bytes, xxh3_128=digest.hexdigest())
    return Prepared(blobs={"frames": jpegs, "masks": packed}, facts=facts, source=source)


def _objects(masks: Path) -> dict[int, Path]:
    """The folders of the objects, by id.

    Raises:
        BuildFailure: there are none, or one is called otherwise.
    """
    try:
        folders = sorted(path for path in masks.iterdir() if path.is_dir())
    except OSError:
        found = f"it has no annotation: there is no folder {masks.name} of masks"
        raise BuildFailure("bad_annotation", found) from None
    wrong = [path.name for path in folders if not (path.name.isascii() and path.name.isdecimal())]
    if wrong or not folders:
        found = f"{wrong[0]!r} is none" if wrong else "there is none"
        raise BuildFailure("bad_annotation", f"an object is a folder with a number for a name; {found}")
    objects = {int(path.name): path for path in folders}
    if len(objects) < len(folders):
        raise BuildFailure("bad_annotation", f"two of its {len(folders)} folders of masks have one number")
    return objects


def _numbers(folders: Iterable[Path]) -> list[int]:
    """The annotated frames: numbers of which some object has a PNG, every fourth.

    Raises:
        BuildFailure: they are others.
    """
    names = {path.stem for folder in folders for path in folder.iterdir() if path.suffix == ".png"}
    wrong = sorted(name for name in names if not (name.isascii() and name.isdecimal() and len(name) == 5))
    if wrong:
        raise BuildFailure("bad_annotation", f"a mask is called as its frame, such as 00004.png, not {wrong[0]}.png")
    numbers = sorted(map(int, names))
    if numbers and (numbers[0] % STEP or numbers != list(range(numbers[0], numbers[-1] + 1, STEP))):
        raise BuildFailure("bad_annotation", f"masks are of every {STEP}th frame, here of {str(numbers)[:60]}")
    return numbers


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"{path.parent.name}/{path.name} cannot be read: {error.strerror}"
        raise BuildFailure("missing_file", reason) from None


def _mask(path: Path, png: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels that are not zero, bool [H, W].

    Raises:
        BuildFailure: it is no PNG of numbers, or of another size than its frame.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            width, height = image.size
            if image.mode not in _MODES:
                found = f"{name} has pixels of the kind {image.mode}"
                raise BuildFailure("bad_annotation", f"{found}; masks are palette or grey PNGs, the object not zero")
            if (height, width) != size or height * width > MAX_FRAME_PIXELS:
                found = f"{name} is {height} x {width} px (height x width), its frame {size[0]} x {size[1]}"
                raise BuildFailure("bad_annotation", found)
            mask: NDArray[np.bool_] = np.asarray(image) != 0
            return mask
    except BuildFailure:
        raise
    except Exception as error:  # Pillow's plugins raise what they like on damaged files
        raise BuildFailure("bad_annotation", f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from error

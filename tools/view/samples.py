"""What the page shows of one sample: its frames, what lies over them, and what is said of it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shards import rle
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_clip
from shards.format.objects import read_objects
from shards.format.schema import Field
from tools.figures import PICTURES, square_side
from tools.png import encode_png

THUMBNAIL_SIZE = 192
NUM_KEPT = 4  # clips that are kept decoded: their frames are asked for one by one
MASKS = "masks"  # packed JSON, a piece a frame
COLOURS = (
    (31, 119, 180),
    (214, 39, 40),
    (44, 160, 44),
    (255, 127, 14),
    (148, 103, 189),
    (23, 190, 207),
    (227, 119, 194),
)
OPACITY = 120
QUICK = 1  # of PNG's nine levels: a picture is made for the one who waits for it
Frame = tuple[bytes, str]  # and its media type


class Samples:
    """Reads samples for the page; from several threads."""

    def __init__(self, dataset: ShardDataset) -> None:
        """Nothing is read yet."""
        self.dataset = dataset
        self._clip = lru_cache(maxsize=NUM_KEPT)(self._read_clip)

    def describe(self, number: int) -> dict[str, Any]:
        """All that the page says of a sample.

        Raises:
            ShardError: its JSON or a table of pieces is damaged, or its shard is not there.
        """
        dataset = self.dataset
        about = dataset.metadata(number) if "json" in dataset.schema else {}
        return {
            "number": number,
            "key": dataset.key(number),
            "fields": [self._spell(number, field) for field in dataset.schema],
            "num_frames": self.num_frames(number),
            "times": self._times(number, about),
            "has_masks": self._masks is not None,
            "captions": _captions(about),
            "messages": _messages(about),
            "about": about,
        }

    def num_frames(self, number: int) -> int:
        """How many frames there are to be seen."""
        field = self._shown(number)
        if field is None:
            return 0
        if field.is_packed:
            return int(self._lengths(number, field))
        shape = field.fixed_shape
        return shape[1] * shape[2] if field.layout == "tubes" else shape[0]

    def frame(self, number: int, place: int) -> Frame:
        """A frame: as it is stored where that is a picture, else as PNG.

        Raises:
            IndexError: there is no such frame.
            ShardError: it is damaged.
        """
        field = self._shown(number)
        if field is None or not 0 <= place < self.num_frames(number):
            raise IndexError(f"sample {number} has no frame {place}")
        if field.is_packed:
            pieces = self.dataset.read_run(number, field.name, place, place + 1)
            assert isinstance(pieces, list)
            kind = _kind_of(pieces[0])
            if kind is None:
                raise ShardError(f"frame {place} of sample {number} is no JPEG or PNG")
            return bytes(pieces[0]), kind
        return encode_png(Image.fromarray(self._clip(number)[place]), compress_level=QUICK), "image/png"

    def thumbnail(self, number: int) -> Frame:
        """The frame in the middle, small.

        Raises:
            IndexError: there are no frames.
            ShardError: it is damaged.
        """
        data, _ = self.frame(number, self.num_frames(number) // 2)
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                small = image.convert("RGB")
                small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ShardError(f"a frame of sample {number} cannot be read: {error}") from None
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        return buffer.getvalue(), "image/jpeg"

    def objects(self, number: int) -> list[list[dict[str, Any]]]:
        """Of each frame its objects: id, box (x0, y0, x1, y1 as shares) and colour.

        Raises:
            ShardError: they are damaged.
        """
        return [
            [
                {"id": one["id"], "box": one["box"], "colour": "#{:02x}{:02x}{:02x}".format(*_colour(one["id"]))}
                for one in self._objects(piece, number)
            ]
            for piece in self._pieces(number, None)
        ]

    def masks(self, number: int, place: int) -> Frame:
        """The masks of a frame as a PNG to be laid over it.

        Raises:
            IndexError: there is no such frame.
            ShardError: they are damaged.
        """
        if self._masks is None or not 0 <= place < self._lengths(number, self._masks):
            raise IndexError(f"sample {number} has no masks of a frame {place}")
        painted = np.zeros((1, 1, 4), np.uint8)
        for one in self._objects(self._pieces(number, place)[0], number):
            try:
                mask = rle.decode(one["rle"])
            except ValueError as error:
                raise ShardError(f"sample {number}, frame {place}: {error}") from None
            if painted.shape[:2] != mask.shape:
                painted = np.zeros((*mask.shape, 4), np.uint8)
            painted[mask] = (*_colour(one["id"]), OPACITY)
        return encode_png(Image.fromarray(painted), compress_level=QUICK), "image/png"

    @property
    def _masks(self) -> Field | None:
        return next((field for field in self.dataset.schema if field.name == MASKS and field.is_packed), None)

    def _pieces(self, number: int, place: int | None) -> list[bytes]:
        field = self._masks
        if field is None:
            return []
        start, stop = (0, self._lengths(number, field)) if place is None else (place, place + 1)
        pieces = self.dataset.read_run(number, field.name, start, stop)
        assert isinstance(pieces, list)
        return pieces

    def _objects(self, piece: bytes, number: int) -> list[dict[str, Any]]:
        try:
            return read_objects(piece)
        except ValueError as error:
            raise ShardError(f"the masks of sample {number} cannot be read: {error}") from None

    def _lengths(self, number: int, field: Field) -> int:
        """Rows or pieces of one sample, from its shard's sidecar alone."""
        shards, rows = self.dataset.locate(np.array([number], np.int64))
        lengths = self.dataset.index(int(shards[0]), field.group).lengths(field.name)
        return int(lengths[int(rows[0])])

    def _shown(self, number: int) -> Field | None:
        """The field whose frames are seen: `clip`, an array of frames, or packed pictures."""
        schema = self.dataset.schema
        for field in sorted(schema, key=lambda field: field.name != "clip"):
            if field.is_array and field.layout in ("tubes", "frames") and _is_clip(field):
                return field
            if field.is_packed and self._lengths(number, field):
                first = self.dataset.read_run(number, field.name, 0, 1)
                if isinstance(first, list) and _kind_of(first[0]) is not None:
                    return field
        return None

    def _read_clip(self, number: int) -> NDArray[np.uint8]:
        """All frames of a clip, u8 [T, H, W, 3]."""
        field = self._shown(number)
        assert field is not None
        clip = np.asarray(self.dataset.read(number, field.name))
        return tubes_to_clip(clip, square_side(clip.shape[0])) if field.layout == "tubes" else clip

    def _times(self, number: int, about: Mapping[str, Any]) -> list[float] | None:
        """Seconds of the frames, where they are kept."""
        if any(field.name == "times" and field.is_rows for field in self.dataset.schema):
            return [float(time) for time in np.asarray(self.dataset.read(number, "times")).ravel()]
        times = about.get("timestamps")
        return times if isinstance(times, list) and all(isinstance(time, (int, float)) for time in times) else None

    def _spell(self, number: int, field: Field) -> dict[str, Any]:
        shards, rows = self.dataset.locate(np.array([number], np.int64))
        size = int(self.dataset.extents(int(shards[0]), field.name).sizes[int(rows[0])])
        count = self._lengths(number, field) if field.has_lengths else None
        return {"name": field.name, "kind": spell_field(field), "num_bytes": size, "count": count}


def spell_field(field: Field) -> str:
    """What a field holds, such as "rows f16 [n, 256, 18, 18]"."""
    if field.dtype is None:
        return field.spell_kind()
    shape = ", ".join("n" if side is None else str(side) for side in field.shape or ())
    coded = "" if field.codec is None else f", stored as {field.codec}"
    return f"{field.spell_kind()}: {np.dtype(field.dtype)} [{shape}]{coded}"


def _is_clip(field: Field) -> bool:
    shape = field.fixed_shape
    return field.dtype == "|u1" and shape[-1] == 3 and len(shape) == (6 if field.layout == "tubes" else 4)


def _kind_of(piece: bytes) -> str | None:
    kinds = dict(zip(PICTURES, ("image/jpeg", "image/png"), strict=True))
    return next((kind for begins, kind in kinds.items() if bytes(piece[:4]).startswith(begins)), None)


def _colour(number: int) -> tuple[int, int, int]:
    return COLOURS[number % len(COLOURS)]


def _captions(about: Mapping[str, Any]) -> list[str]:
    """Every text that says what is seen."""
    found = [about.get(name) for name in ("label_name", "caption", "text")]
    several = about.get("captions")
    found += several if isinstance(several, list) else []
    return list(dict.fromkeys(text for text in found if isinstance(text, str) and text))


def _messages(about: Mapping[str, Any]) -> list[dict[str, str]]:
    """A chat: who says what."""
    messages = about.get("messages")
    if not isinstance(messages, list):
        return []
    return [
        {"role": str(one.get("role", "")), "content": _content(one.get("content"))}
        for one in messages
        if isinstance(one, dict)
    ]


def _content(content: object) -> str:
    """What a message says; of one in parts, the texts, and the kinds of the others."""
    if not isinstance(content, list):
        return "" if content is None else str(content)
    parts = [part if isinstance(part, dict) else {"text": str(part)} for part in content]
    return "\n".join(str(part.get("text") or f"[{part.get('type', 'something')}]") for part in parts)

"""The kind `sav`: the annotated frames of a video, the masks of its objects in them, and what a teacher sees there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import rle
from shards.builder.config import TeacherFacts
from shards.builder.decode.decoders import VideoDecoder, decoder_facts, take_frames
from shards.builder.decode.stream_facts import read_source_file
from shards.builder.decode.view import ViewSpec
from shards.builder.decode.zipped import local_file
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, Rows, blame
from shards.builder.samples.clip import about
from shards.builder.samples.pictures import JpegWriter
from shards.builder.samples.sav_annotations import STEP, AnnotatedFrames, Annotation, read_annotation
from shards.builder.samples.sav_frames import read_folder
from shards.builder.samples.stored_frames import decode_jpegs
from shards.format.objects import write_objects
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import Value

QUALITY = 90
SAV_VIEW = ViewSpec(sampling="every", stride=STEP, geometry="squash", size=504, quality=QUALITY)
_FEATURE_AXES = 3  # C, h, w
Masks = Iterable[tuple[int, NDArray[np.bool_]]]  # of a frame: object id, mask [H, W]


@dataclass(frozen=True, kw_only=True)
class SavKind:
    """`fpn` rows f16 [n, C, h, w], `frames` and `masks` packed, a piece for each annotated frame, and `json`.

    The teacher sees the JPEGs as they are stored, so that a student that reads them sees the same. A mask is that of
    the view's square; the box beside it that of the full-size mask. Objects that a frame does not show are not listed.

    Attributes:
        view: every fourth frame of the video, squashed to a square, as JPEGs of a quality.
        decoder: who reads the video.
        least_frames: annotated frames of the shortest video that is kept: a query and its context.

    Raises:
        ValueError: the view takes other frames, or their masks would not fit a square.
    """

    view: ViewSpec = SAV_VIEW
    decoder: VideoDecoder = "pyav"
    least_frames: int = 9

    def __post_init__(self) -> None:
        view = self.view
        if (view.sampling, view.stride, view.max_frames, view.geometry) != ("every", STEP, None, "squash"):
            raise ValueError(
                f"the view takes {view.sampling!r} frames, stride {view.stride}, geometry {view.geometry!r}; masks are "
                f"of every {STEP}th frame, squashed: give view.sampling every, view.stride {STEP}, view.geometry "
                "squash, and no view.max_frames"
            )
        if view.quality is None:
            raise ValueError(f"view.quality is not given: the frames are JPEGs, of quality {QUALITY} as a rule")
        if self.least_frames < 1:
            raise ValueError(f"least_frames is {self.least_frames}; a sample has a frame at least")

    @property
    def name(self) -> str:
        """What it is called in plans and recipes."""
        return "sav"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return fpn, if there is a teacher, frames, masks and json.

        Raises:
            ValueError: the teacher takes other pictures, or gives no [C, h, w] of them.
        """
        fields = [Field(name="frames", layout="packed"), Field(name="masks", layout="packed"), Field(name="json")]
        if teacher is not None:
            side, shape = self.view.size, teacher.output_shape
            if teacher.input_shape not in (None, (side, side, 3)) or len(shape) != _FEATURE_AXES:
                raise ValueError(
                    f"the teacher takes {teacher.input_shape} and gives {shape}; needed are [C, h, w] of pictures of "
                    f"{side} x {side} px: give view.size the teacher's, or take a SAM3"
                )
            fields = [Field(name="fpn", dtype=teacher.output_dtype, shape=(None, *shape)), *fields]
        return Schema(tuple(fields))

    def fingerprint(self) -> Mapping[str, Any]:
        """Return view, decoder, and which videos are too short.

        Raises:
            ValueError: the decoder is not installed.
        """
        return {
            "sample": {"kind": self.name, "least_frames": self.least_frames, "masks": "nearest"},
            "view": self.view.to_json() | {"hash": self.view.hash},
            "decoder": decoder_facts(self.decoder),
        }

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Decode the annotated frames of a video, and scale their masks.

        Raises:
            BuildFailure: with the reason, when it cannot become a sample.
        """
        assert self.view.quality is not None
        writer = JpegWriter(view=self.view, quality=self.view.quality)
        if "objects" in item.extra:
            return read_folder(root, item, writer, self._check_length, self.pack)
        names = item.extra.get("annotations") or {}
        if not names:
            raise BuildFailure("bad_annotation", "it has no annotation")
        annotation = read_annotation(*(root / names[name] if name in names else None for name in ("manual", "auto")))
        self._check_length(len(annotation.masks))
        with local_file(root, item.path) as path:
            source = read_source_file(path)
            with blame(source):
                masks = tuple(self._masks(annotation))
                choice = AnnotatedFrames(
                    num_annotated=len(annotation.masks), num_video_frames=annotation.num_video_frames
                )
                taken = take_frames(path, source, choice, self.decoder, _of_size(annotation.size, writer))
        facts = {
            "frame_indices": [STEP * number for number in range(len(masks))],
            "timestamps": taken.timestamps_seconds,
            "num_source_frames": taken.num_source_frames,
            "decoder": taken.decoder,
            "height": annotation.size[0],
            "width": annotation.size[1],
            "object_ids": annotation.ids,
        }
        return Prepared(blobs={"frames": taken.pictures, "masks": masks}, facts=facts, source=source)

    def _check_length(self, num_frames: int) -> None:
        if num_frames < self.least_frames:
            found = f"it has {num_frames} annotated frames, a query and its context take {self.least_frames}"
            raise BuildFailure("too_few_frames", found)

    def _masks(self, annotation: Annotation) -> Iterable[bytes]:
        """What is stored of the masks of each frame."""
        for number, objects in enumerate(annotation.masks):
            try:
                yield self.pack(
                    (object_id, rle.decode(written, annotation.size))
                    for object_id, written in zip(annotation.ids, objects, strict=True)
                )
            except ValueError as error:
                raise BuildFailure("bad_annotation", f"annotated frame {number}: {error}") from None

    def pack(self, masks: Masks) -> bytes:
        """Write the masks of a frame down as JSON, scaled to the view's square."""
        return write_objects(masks, self.view.size)

    def teacher_rows(self, prepared: Prepared) -> Rows:
        """Return the frames as the JPEGs show them, u8 [n, S, S, 3]."""
        jpegs = prepared.blobs["frames"]
        assert not isinstance(jpegs, bytes)
        return decode_jpegs(jpegs)

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return features, frames, masks, and what the sample shows and exactly where it came from."""
        told = canonical_json(about(replace(item, extra={}), prepared, self.view) | dict(item.extra))
        sample: dict[str, Value] = {**prepared.blobs, "json": told}
        return sample if rows is None else {"fpn": rows, **sample}


def _of_size(size: tuple[int, int], make: Callable[[NDArray[np.uint8]], bytes]) -> Callable[[NDArray[np.uint8]], bytes]:
    """Refuse frames of another size than their masks."""

    def checked(frame: NDArray[np.uint8]) -> bytes:
        if frame.shape[:2] != size:
            found = f"its frames are {frame.shape[0]} x {frame.shape[1]} px (height x width), its masks"
            raise BuildFailure("bad_annotation", f"{found} {size[0]} x {size[1]}")
        return make(frame)

    return checked

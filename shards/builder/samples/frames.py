"""The kind `frames`: as many frames as a video has at a rate, as JPEGs, when each is shown, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.builder.config import TeacherFacts
from shards.builder.decode.decoders import VideoDecoder, decoder_facts, take_frames
from shards.builder.decode.stream_facts import read_source_file
from shards.builder.decode.view import ViewSpec, check_quality, refuse_quality
from shards.builder.decode.zipped import local_file
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, blame
from shards.builder.samples.clip import about
from shards.builder.samples.pictures import JpegWriter
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import Value


def check_single_view(view: ViewSpec) -> None:
    """Refuse several views of a video, which samples of frames do not have, and a second quality of their JPEGs.

    Raises:
        ValueError: there are.
    """
    refuse_quality(view)
    if view.num_views > 1:
        raise ValueError(
            f"view.clips is {view.clips} and view.crops {view.crops}, but JPEG frames are of one view: leave them out"
        )


@dataclass(frozen=True, kw_only=True)
class FramesKind:
    """JPEG frames of any number: `frames` packed, `times` f32 [n] in seconds, and `json`.

    Attributes:
        view: which frames are taken, and how each is cut out.
        decoder: who reads the video.
        quality: of the JPEGs, from 1 to 95.

    Raises:
        ValueError: the quality is out of range, or there are several views.
    """

    view: ViewSpec
    decoder: VideoDecoder = "pyav"
    quality: int = 90

    def __post_init__(self) -> None:
        check_quality(self.quality, "the quality of the frames")
        check_single_view(self.view)

    @property
    def name(self) -> str:
        """What it is called in plans and recipes."""
        return "frames"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return frames, times and json.

        Raises:
            ValueError: there is a teacher.
        """
        if teacher is not None:
            raise ValueError("samples of JPEG frames have no targets: build them without a teacher")
        return Schema(
            (
                Field(name="frames", layout="packed"),
                Field(name="times", dtype="<f4", shape=(None,)),
                Field(name="json"),
            )
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """Return view, decoder and quality.

        Raises:
            ValueError: the decoder is not installed.
        """
        return {
            "sample": {"kind": self.name, "quality": self.quality},
            "view": self.view.to_json() | {"hash": self.view.hash},
            "decoder": decoder_facts(self.decoder),
        }

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Decode the view of one video into JPEGs, one at a time.

        Raises:
            BuildFailure: with the reason, when the file cannot give this view.
        """
        with local_file(root, item.path) as path:
            source = read_source_file(path)
            with blame(source):
                taken = take_frames(path, source, self.view, self.decoder, self.writer)
        facts = {
            "frame_indices": taken.frame_indices,
            "num_source_frames": taken.num_source_frames,
            "decoder": taken.decoder,
        }
        times = np.array(taken.timestamps_seconds, "<f4")
        return Prepared(arrays={"times": times}, blobs={"frames": taken.pictures}, facts=facts, source=source)

    @property
    def writer(self) -> JpegWriter:
        """What a frame becomes."""
        return JpegWriter(view=self.view, quality=self.quality)

    def teacher_rows(self, prepared: Prepared) -> None:
        """Return None: there is no teacher."""

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return frames, times, and what the sample shows and exactly where it came from."""
        return {
            "frames": prepared.blobs["frames"],
            "times": prepared.arrays["times"],
            "json": canonical_json(about(item, prepared, self.view)),
        }

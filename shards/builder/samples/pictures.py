"""Pictures to JPEGs of one view: frames of a video, or images one after another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards.builder.decode.decoders import VideoDecoder, take_frames
from shards.builder.decode.stream_facts import MAX_FRAME_PIXELS, SourceFile
from shards.builder.decode.view import ViewSpec
from shards.builder.failure import BuildFailure

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What a chat is about.

    Attributes:
        jpegs: one for each frame.
        seconds: when each is shown; 0 for images, which have no time.
        indices: source frame numbers; of images their places.
        num_source_frames: frames in the video, or images.
        decoder: who read them.
    """

    jpegs: tuple[bytes, ...]
    seconds: tuple[float, ...]
    indices: tuple[int, ...]
    num_source_frames: int
    decoder: str


@dataclass(frozen=True, kw_only=True)
class JpegWriter:
    """Cuts pictures out as a view says and keeps them as JPEGs of a quality."""

    view: ViewSpec
    quality: int

    def __call__(self, picture: NDArray[np.uint8]) -> bytes:
        """Turn u8 [H, W, 3] into a JPEG."""
        file = io.BytesIO()
        Image.fromarray(self.view.resize(picture)).save(file, "JPEG", quality=self.quality)
        return file.getvalue()


def frames_of_video(path: Path, source: SourceFile, writer: JpegWriter, decoder: VideoDecoder) -> Frames:
    """Decode the frames that the view takes of a video.

    Raises:
        BuildFailure: with the reason, when the file cannot give this view.
    """
    taken = take_frames(path, source, writer.view, decoder, writer)
    return Frames(
        jpegs=taken.pictures,
        seconds=taken.timestamps_seconds,
        indices=taken.frame_indices,
        num_source_frames=taken.num_source_frames,
        decoder=taken.decoder,
    )


def frames_of_images(images: Sequence[bytes], writer: JpegWriter) -> Frames:
    """Decode images, in their order; of one that moves, the first picture.

    Raises:
        BuildFailure: one cannot be read.
    """
    jpegs = tuple(writer(decode_picture(image, number)) for number, image in enumerate(images))
    places = tuple(range(len(images)))
    return Frames(
        jpegs=jpegs, seconds=(0.0,) * len(images), indices=places, num_source_frames=len(images), decoder="pillow"
    )


def decode_picture(image: bytes, number: int) -> NDArray[np.uint8]:
    """Upright u8 [H, W, 3]; what is transparent becomes white."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_FRAME_PIXELS:
                found = (
                    f"image {number} is {width} x {height} px; 1 to {MAX_FRAME_PIXELS / 1e6:.0f} megapixels are allowed"
                )
                raise BuildFailure("bad_dimensions", found)
            upright = ImageOps.exif_transpose(opened)
            if upright.has_transparency_data:
                ground = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(ground, upright.convert("RGBA"))
            return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
    except BuildFailure:
        raise
    except Exception as error:  # Pillow's plugins raise what they like on damaged files
        what = " ".join(str(error).split())[:200]
        raise BuildFailure("decode_error", f"image {number} of {len(image)} bytes cannot be read: {what}") from error


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """Turn a JPEG that `JpegWriter` wrote into u8 [H, W, 3].

    Raises:
        OSError: it is damaged.
    """
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return np.asarray(image)

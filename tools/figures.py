"""Pictures of samples: a clip as a strip of frames, its targets as colours."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.format.layout import tubes_to_clip, tubes_to_target
from shards.payload import StoredValue
from tools.png import png_of
from tools.terminal import clean

MAX_COLUMNS = 8
PICTURES = (b"\xff\xd8\xff", b"\x89PNG")  # how JPEG and PNG begin


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample in the shapes that a picture needs.

    Attributes:
        key: of the sample.
        title: its class, text, or both.
        clip: u8 [T, H, W, 3].
        target: f32 [T', h, w, D], or None where the data set has no targets.
    """

    key: str
    title: str
    clip: NDArray[np.uint8]
    target: NDArray[np.float32] | None


def load_sample(dataset: ShardDataset, key: str | int) -> Sample:
    """Read a sample and bring clip and target into the order of frames.

    The clip is the field `clip`, or else the first field of frames: packed JPEG or PNG pieces, or the layout `frames`.

    Raises:
        ValueError: the data set has no clips of a known layout, or the sample has no frames.
        ShardError: the sample is damaged.
    """
    number = dataset.index_of(key) if isinstance(key, str) else key
    values = dataset[number]
    clip = _clip(dataset, number, values)
    about = dataset.metadata(number) if "json" in dataset.schema else {}
    words = [str(about[name]) for name in ("label_name", "caption", "text") if about.get(name)]
    return Sample(key=dataset.key(number), title=" · ".join(words), clip=clip, target=_target(dataset, values))


def _clip(dataset: ShardDataset, number: int, values: Mapping[str, StoredValue]) -> NDArray[np.uint8]:
    shown = [field for field in dataset.schema if field.name == "clip"] or [
        field for field in dataset.schema if field.layout == "frames" or _holds_pictures(values[field.name])
    ]
    if not shown:
        fields = ", ".join(dataset.schema.names)
        raise ValueError(f"{dataset.place}, key {dataset.key(number)}: no frames to draw among its fields {fields}")
    field, value = shown[0], values[shown[0].name]
    if isinstance(value, list):
        return _decode_pictures(value, f"{dataset.place}, key {dataset.key(number)}, field {field.name}")
    clip = np.asarray(value)
    if field.layout == "tubes":
        clip = tubes_to_clip(clip, square_side(clip.shape[0]))
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not len(clip):
        raise ValueError(f"{dataset.place}: {field.name!r} is {clip.dtype} {clip.shape}, expected uint8 [T, H, W, 3]")
    return clip


def _holds_pictures(value: StoredValue) -> bool:
    return isinstance(value, list) and bool(value) and value[0].startswith(PICTURES)


def _decode_pictures(pieces: Sequence[bytes], where: str) -> NDArray[np.uint8]:
    frames = []
    for number, piece in enumerate(pieces):
        try:
            with Image.open(io.BytesIO(piece), formats=("JPEG", "PNG")) as image:
                frames.append(np.asarray(image.convert("RGB")))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ShardError(f"{where}: piece {number} is no readable JPEG or PNG: {error}") from None
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError(f"{where}: there are no frames to draw, or they differ in size")
    return np.stack(frames)


def _target(dataset: ShardDataset, values: Mapping[str, StoredValue]) -> NDArray[np.float32] | None:
    schema = dataset.schema
    if "target" not in schema or not schema["target"].is_array:
        return None
    tokens = np.asarray(values["target"])
    if schema["target"].layout == "tubes":  # [S, T', D]
        num_positions = tokens.shape[0]
        tokens = tubes_to_target(tokens)
    elif "clip" in schema and schema["clip"].layout == "tubes":
        num_positions = schema["clip"].num_positions
    else:
        return None  # the grid of the tokens is not known
    side = square_side(num_positions)
    return tokens.reshape(-1, side, num_positions // side, tokens.shape[-1]).astype(np.float32)


def square_side(num_positions: int) -> int:
    """The side of a square grid.

    Raises:
        ValueError: it is none.
    """
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise ValueError(f"{num_positions} positions are not a square grid; only square clips can be drawn")
    return side


@dataclass(frozen=True, kw_only=True)
class TokenColours:
    """The first three principal components of some tokens as red, green and blue, for these and for other tokens.

    Attributes:
        mean: f64 [D], of the tokens.
        axes: f64 [<= 3, D], the components; the largest entry of each is positive.
        low: f64 [3], the 2nd percentile along each component, which is painted black.
        high: f64 [3], the 98th percentile, which is painted bright.
        shares: of the variance that each component explains.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, tokens: NDArray[np.float32]) -> TokenColours:
        """The colours of tokens f32 [..., D]."""
        values = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
        mean = values.mean(axis=0)
        _, spread, axes = np.linalg.svd(values - mean, full_matrices=False)
        axes = axes[:3] * np.sign(axes[:3][np.arange(len(axes[:3])), np.abs(axes[:3]).argmax(axis=1)])[:, None]
        variance = spread**2
        shares = tuple((variance[:3] / max(float(variance.sum()), 1e-12)).tolist())
        low, high = np.percentile(_along(axes, values - mean), [2, 98], axis=0)
        return cls(mean=mean, axes=axes, low=low, high=high, shares=shares)

    def paint(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colours f32 [..., 3] in [0, 1] of tokens f32 [..., D]; what lies outside low and high is cut off."""
        places = _along(self.axes, tokens.reshape(-1, tokens.shape[-1]) - self.mean)
        colours = np.clip((places - self.low) / np.maximum(self.high - self.low, 1e-9), 0, 1)
        painted: NDArray[np.float32] = colours.reshape(*tokens.shape[:-1], 3).astype(np.float32)
        return painted


def _along(axes: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where values [n, D] lie along up to three axes: [n, 3]."""
    places = np.zeros((len(values), 3))
    places[:, : len(axes)] = values @ axes.T
    return places


def draw_strip(sample: Sample) -> bytes:
    """Draw a clip as a strip of frames in time, and below each frame the targets of its time step.

    Returns:
        A PNG.
    """
    times = np.linspace(0, len(sample.clip) - 1, min(MAX_COLUMNS, len(sample.clip))).round().astype(int)
    rows = 1 if sample.target is None else 2
    figure = Figure(figsize=(1.3 * len(times), 1.35 * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, len(times), squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    colours = None if sample.target is None else TokenColours.of(sample.target).paint(sample.target)
    for column, time in enumerate(times):
        axes[0, column].imshow(sample.clip[time])
        axes[0, column].set_title(f"frame {time}", fontsize=7, pad=2)
        if colours is not None:
            axes[1, column].imshow(colours[time * len(colours) // len(sample.clip)], interpolation="nearest")
    axes[0, 0].set_ylabel("clip", fontsize=8)
    if colours is not None:
        axes[1, 0].set_ylabel("targets (PCA)", fontsize=8)
    title = clean(f"{sample.key}   {sample.title}".strip())
    figure.suptitle(title, fontsize=9, parse_math=False)  # a dollar in a label is a dollar
    return png_of(figure)

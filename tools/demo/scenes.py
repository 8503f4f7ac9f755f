"""Scenes of shapes that move together: the class is the motion, and nothing else in the picture tells it.

Colour, shape, size, place and background are drawn from one distribution for every class. Shapes fill the whole frame,
enter and leave it, so no place is typical of a class. Each motion is symmetric about its middle in time: "up" and
"down" (or "towards" and "away") hold the same frames in opposite order; no single frame tells which of the two it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A class of movement.

    Attributes:
        template: the SSv2 annotation template, the moving thing in square brackets.
        direction: (right, down), in units of the travel distance.
        growth: +1 comes closer, -1 goes away, 0 keeps its size.
    """

    template: str
    direction: tuple[int, int] = (0, 0)
    growth: int = 0


MOTIONS = (
    Motion(template="Moving [something] up", direction=(0, -1)),
    Motion(template="Moving [something] down", direction=(0, 1)),
    Motion(template="Pushing [something] from left to right", direction=(1, 0)),
    Motion(template="Pushing [something] from right to left", direction=(-1, 0)),
    Motion(template="Moving [something] towards the camera", growth=1),
    Motion(template="Moving [something] away from the camera", growth=-1),
)

TABLE = np.array([124, 116, 104])  # the mean colour of natural pictures
BACKGROUND_SPREAD = 12
REACH = 1.5  # how far from the centre shapes are scattered, in frame heights
SHAPES = {
    "disc": "discs",
    "square": "squares",
    "triangle": "triangles",
    "ring": "rings",
    "cross": "crosses",
    "diamond": "diamonds",
}
COLOURS = {
    "red": (220, 50, 47),
    "orange": (240, 140, 30),
    "yellow": (235, 210, 60),
    "green": (60, 180, 75),
    "blue": (50, 110, 220),
    "purple": (150, 70, 190),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One video, ready to be drawn; lengths are shares of the frame's height.

    Attributes:
        motion: what happens.
        shape: of `SHAPES`.
        colour: of `COLOURS`.
        background: its colour, RGB.
        places: (x, y) of each shape from the frame's centre, half-way through the video.
        travel: distance that everything moves during the video.
        radius: of a shape, half-way through the video.
        zoom: how much larger everything becomes during the video, for motions that grow.
        tilt: of the shapes, in radians.
    """

    motion: Motion
    shape: str
    colour: str
    background: tuple[int, int, int]
    places: tuple[tuple[float, float], ...]
    travel: float
    radius: float
    zoom: float
    tilt: float


def draw_scene(motion: Motion, rng: np.random.Generator) -> Scene:
    """Draw everything but the motion from one distribution, so that only the motion tells the class."""
    colour = str(rng.choice(list(COLOURS)))
    background = TABLE + rng.integers(-BACKGROUND_SPREAD, BACKGROUND_SPREAD + 1, size=3)
    radius = float(rng.uniform(0.10, 0.14))
    red, green, blue = (int(value) for value in background)
    return Scene(
        motion=motion,
        shape=str(rng.choice(list(SHAPES))),
        colour=colour,
        background=(red, green, blue),
        places=_scatter(rng, 3.6 * radius),
        travel=float(rng.uniform(0.3, 0.5)),
        radius=radius,
        zoom=float(rng.uniform(1.4, 1.8)) ** 2,
        tilt=float(rng.uniform(0, 2 * np.pi)),
    )


def _scatter(rng: np.random.Generator, gap: float) -> tuple[tuple[float, float], ...]:
    """A jittered grid over more than the frame will ever show, with a random origin."""
    steps = np.arange(int(np.ceil(2 * REACH / gap)) + 1) * gap - REACH
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    grid = grid + rng.uniform(-gap / 2, gap / 2, size=2) + rng.uniform(-0.15 * gap, 0.15 * gap, size=grid.shape)
    return tuple((float(x), float(y)) for x, y in grid)


def render(scene: Scene, times: Sequence[float], height: int, width: int) -> NDArray[np.uint8]:
    """Draw the scene.

    Args:
        scene: what to draw.
        times: when, as shares of the video from 0 (begin) to 1 (end).
        height: of a frame in pixels.
        width: of a frame in pixels.

    Returns:
        uint8 [len(times), height, width, 3], RGB.
    """
    palette = _palette(scene)
    frames = np.empty((len(times), height, width, 3), dtype=np.uint8)
    stamp, stamp_radius = np.empty((0, 0), dtype=np.uint8), -1.0
    for frame, time in zip(frames, times, strict=True):
        phase = time - 0.5
        scale = scene.zoom ** (scene.motion.growth * phase)
        shift = np.array(scene.motion.direction) * scene.travel * phase
        places = (np.array(scene.places) * scale + shift) * height + (width / 2, height / 2)
        if scene.radius * scale != stamp_radius:
            stamp_radius = scene.radius * scale
            stamp = _stamp(scene, stamp_radius * height)
        cover = np.zeros((height, width), dtype=np.uint8)
        for x, y in np.rint(places).astype(int).tolist():
            _print(cover, stamp, x, y)
        np.take(palette, cover, axis=0, out=frame)
    return frames


def _palette(scene: Scene) -> NDArray[np.uint8]:
    """The colour of a pixel by how much of it a shape covers, 0 to 255: uint8 [256, 3]."""
    share = np.linspace(0, 1, 256)[:, None]
    colours = np.array(scene.background) * (1 - share) + np.array(COLOURS[scene.colour]) * share
    return np.rint(colours).astype(np.uint8)


def _stamp(scene: Scene, radius: float) -> NDArray[np.uint8]:
    """How much of each pixel is inside the shape, from its signed distance: uint8 [side, side], 255 is all."""
    half = int(1.4 * radius) + 2  # no shape is longer than 1.4 radii
    offsets = np.arange(-half, half + 1, dtype=np.float32)
    x, y = offsets[None], offsets[:, None]
    cosine, sine = np.float32(np.cos(scene.tilt)), np.float32(np.sin(scene.tilt))
    distance = signed_distance(scene.shape, cosine * x + sine * y, cosine * y - sine * x, np.float32(radius))
    return np.rint(255 * np.clip(0.5 - distance, 0, 1)).astype(np.uint8)


def _print(cover: NDArray[np.uint8], stamp: NDArray[np.uint8], x: int, y: int) -> None:
    """Put the stamp, centred at (x, y), into the cover, as far as it is inside."""
    half, (height, width) = len(stamp) // 2, cover.shape
    top, bottom = max(0, y - half), min(height, y + half + 1)
    left, right = max(0, x - half), min(width, x + half + 1)
    if top < bottom and left < right:
        part = cover[top:bottom, left:right]
        np.maximum(part, stamp[top - y + half : bottom - y + half, left - x + half : right - x + half], out=part)


def signed_distance(shape: str, u: NDArray[np.float32], v: NDArray[np.float32], r: np.float32) -> NDArray[Any]:
    """Distance from the shape's edge in pixels, negative inside, for points (u, v) in the shape's own axes."""
    distance: NDArray[Any]
    if shape == "disc":
        distance = np.hypot(u, v) - r
    elif shape == "ring":
        distance = np.abs(np.hypot(u, v) - 0.75 * r) - 0.25 * r
    elif shape == "square":
        distance = np.maximum(np.abs(u), np.abs(v)) - 0.85 * r
    elif shape == "diamond":
        distance = 0.8 * (np.abs(u) + 0.75 * np.abs(v) - r)
    elif shape == "triangle":
        distance = np.maximum(0.866 * np.abs(u) + 0.5 * v, -v) - 0.6 * r
    elif shape == "cross":
        upright = np.maximum(np.abs(u) - 0.35 * r, np.abs(v) - r)
        lying = np.maximum(np.abs(v) - 0.35 * r, np.abs(u) - r)
        distance = np.minimum(upright, lying)
    else:
        raise ValueError(f"shape is {shape!r}, allowed are {', '.join(SHAPES)}")
    return distance

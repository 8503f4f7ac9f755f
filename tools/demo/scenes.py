"""Scenes of one moving shape: the class is the motion, and nothing else in the picture tells it.

Colour, shape, size, place and background are drawn from one distribution for every class, and each motion is symmetric
about its middle in time. So "up" and "down" (or "towards" and "away") hold the same frames in opposite order, and no
single frame tells which of the two it is.
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
        direction: travel over the clip in units of the travel distance, (right, down).
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

SHAPES = ("disc", "square", "triangle", "ring", "cross", "diamond")
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
    """One video, ready to be drawn; lengths in pixels."""

    motion: Motion
    shape: str
    colour: str
    background: tuple[tuple[int, int, int], tuple[int, int, int]]
    centre: tuple[float, float]
    travel: float
    radius: float
    zoom: float
    tilt: float


def draw_scene(motion: Motion, rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draws everything but the motion from one distribution, so that only the motion tells the class."""
    colour = str(rng.choice(list(COLOURS)))
    base = rng.integers(40, 216, size=3)
    while np.abs(base - np.array(COLOURS[colour])).max() < 90:  # the shape must stand out
        base = rng.integers(40, 216, size=3)
    slope = rng.integers(-25, 26, size=3)
    near, far = np.clip(base + slope, 0, 255), np.clip(base - slope, 0, 255)
    spread = 0.10 * height
    return Scene(
        motion=motion,
        shape=str(rng.choice(SHAPES)),
        colour=colour,
        background=((int(near[0]), int(near[1]), int(near[2])), (int(far[0]), int(far[1]), int(far[2]))),
        centre=(width / 2 + float(rng.uniform(-spread, spread)), height / 2 + float(rng.uniform(-spread, spread))),
        travel=height * float(rng.uniform(0.40, 0.60)),
        radius=height * float(rng.uniform(0.12, 0.17)),
        zoom=float(rng.uniform(1.6, 2.0)),
        tilt=float(rng.uniform(0, 2 * np.pi)),
    )


def render(scene: Scene, times: Sequence[float], height: int, width: int) -> NDArray[np.uint8]:
    """Draws the scene.

    Args:
        scene: what to draw.
        times: when, as shares of the video from 0 (begin) to 1 (end).
        height: of a frame in pixels.
        width: of a frame in pixels.

    Returns:
        uint8 [len(times), height, width, 3], RGB.
    """
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    near, far = (np.array(colour, dtype=np.float32) for colour in scene.background)
    background = np.broadcast_to(near * (1 - ramp) + far * ramp, (height, width, 3))
    frames = np.empty((len(times), height, width, 3), dtype=np.uint8)
    frames[:] = np.rint(background)
    ink = np.array(COLOURS[scene.colour], dtype=np.float32)
    right, down = scene.motion.direction
    for frame, time in zip(frames, times, strict=True):
        phase = time - 0.5
        x = scene.centre[0] + right * scene.travel * phase
        y = scene.centre[1] + down * scene.travel * phase
        radius = scene.radius * scene.zoom ** (2 * scene.motion.growth * phase)
        rows, columns = _reach(y, radius, height), _reach(x, radius, width)
        cover = _coverage(scene, np.arange(width)[columns] - x, np.arange(height)[rows] - y, radius)[..., None]
        behind = background[rows, columns]
        frame[rows, columns] = np.rint(behind + cover * (ink - behind))
    return frames


def _reach(centre: float, radius: float, length: int) -> slice:
    """The pixels along one axis that a shape can touch; every shape lies within 1.75 radii of its centre."""
    low, high = int(centre - 1.75 * radius) - 1, int(centre + 1.75 * radius) + 2
    return slice(min(max(low, 0), length), min(max(high, 0), length))


def _coverage(scene: Scene, across: NDArray[Any], along: NDArray[Any], radius: float) -> NDArray[np.float32]:
    """The share of each pixel inside the shape, from its signed distance, at offsets from the shape's centre."""
    x, y = across.astype(np.float32)[None] + np.float32(0.5), along.astype(np.float32)[:, None] + np.float32(0.5)
    cosine, sine = np.float32(np.cos(scene.tilt)), np.float32(np.sin(scene.tilt))
    u, v = cosine * x + sine * y, cosine * y - sine * x
    distance = _signed_distance(scene.shape, u, v, np.float32(radius))
    return np.clip(np.float32(0.5) - distance, 0, 1).astype(np.float32)


def _signed_distance(shape: str, u: NDArray[np.float32], v: NDArray[np.float32], r: np.float32) -> NDArray[Any]:
    """Distance from the shape's edge in pixels, negative inside, for points (u, v) in the shape's own axes."""
    distance: NDArray[Any]
    if shape == "disc":
        distance = np.hypot(u, v) - r
    elif shape == "ring":
        distance = np.abs(np.hypot(u, v) - 0.75 * r) - 0.25 * r
    elif shape == "square":
        distance = np.maximum(np.abs(u), np.abs(v)) - 0.85 * r
    elif shape == "diamond":
        distance = 0.85 * (np.abs(u) + 0.6 * np.abs(v) - r)
    elif shape == "triangle":
        distance = np.maximum(0.866 * np.abs(u) + 0.5 * v, -v) - 0.6 * r
    elif shape == "cross":
        upright = np.maximum(np.abs(u) - 0.35 * r, np.abs(v) - r)
        lying = np.maximum(np.abs(v) - 0.35 * r, np.abs(u) - r)
        distance = np.minimum(upright, lying)
    else:
        raise ValueError(f"shape is {shape!r}, allowed are {', '.join(SHAPES)}")
    return distance

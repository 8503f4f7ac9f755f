"""Scenes in which only the past tells what is annotated: look-alikes at rest, of which one has just come.

All shapes of a scene have one form, colour and size, and in the last frame all rest. The one that moved before is
annotated; those that stood still are not. Places are drawn alike for all, so the last frame alone does not say which it
is. In some scenes what moves leaves the frame: then nothing that is annotated is left to be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.demo.scenes import BACKGROUND_SPREAD, COLOURS, TABLE, signed_distance

FORMS = ("disc", "square", "diamond", "triangle")
COLUMNS, ROWS = 2, 2  # places to rest in
NUM_ALIKE = 2  # shapes of a scene that are there in the last frame


@dataclass(frozen=True, kw_only=True)
class RestScene:
    """One video, ready to be drawn; lengths are shares of the frame's height.

    Attributes:
        form: of `FORMS`, of all shapes.
        colour: RGB, of all shapes.
        background: its colour, RGB.
        radius: of all shapes.
        tilt: of all shapes, in radians.
        still: (x, y) of the shapes that never move.
        moved: (from x, from y, to x, to y) of those that do, and are annotated.
        aspect: width of a frame over its height.
    """

    form: str
    colour: tuple[int, int, int]
    background: tuple[int, int, int]
    radius: float
    tilt: float
    still: tuple[tuple[float, float], ...]
    moved: tuple[tuple[float, float, float, float], ...]
    aspect: float


def draw_rest_scene(rng: np.random.Generator, aspect: float, *, empty: bool, alike: bool = True) -> RestScene:
    """Draw a scene.

    Args:
        rng: what it is drawn from.
        aspect: width of a frame over its height.
        empty: whether what moves leaves the frame, so that nothing annotated is left.
        alike: whether there are others that stand still.
    """
    slots = rng.permutation(_slots(rng, aspect))
    num_still = (NUM_ALIKE if empty else NUM_ALIKE - 1) if alike else 0
    still, (x, y), end = slots[:num_still], slots[num_still], slots[-1]
    if empty:
        sides = ((-0.4, y), (aspect + 0.4, y), (x, -0.4), (x, 1.4))
        end = np.array(min(sides, key=lambda side: abs(side[0] - x) + abs(side[1] - y)))
    background = TABLE + rng.integers(-BACKGROUND_SPREAD, BACKGROUND_SPREAD + 1, size=3)
    red, green, blue = (int(value) for value in background)
    return RestScene(
        form=str(rng.choice(FORMS)),
        colour=COLOURS[str(rng.choice(list(COLOURS)))],
        background=(red, green, blue),
        radius=float(rng.uniform(0.16, 0.19)),
        tilt=float(rng.uniform(0, 2 * np.pi)),
        still=tuple((float(a), float(b)) for a, b in still),
        moved=((float(x), float(y), float(end[0]), float(end[1])),),
        aspect=aspect,
    )


def _slots(rng: np.random.Generator, aspect: float) -> NDArray[np.float64]:
    """Places that do not touch each other, (x, y): a jittered grid."""
    x, y = (np.arange(COLUMNS) + 0.5) * aspect / COLUMNS, (np.arange(ROWS) + 0.5) / ROWS
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return grid + rng.uniform(-0.05, 0.05, size=grid.shape)


def render_rest(scene: RestScene, times: Sequence[float], height: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw the scene.

    Args:
        scene: what to draw.
        times: when, from 0 (what moves is where it comes from) to 1 (it rests).
        height: of a frame in pixels.

    Returns:
        RGB u8 `[len(times), H, W, 3]`, and what is seen of each shape that moves, bool `[len(times), moved, H, W]`.
    """
    width = round(height * scene.aspect)
    frames = np.empty((len(times), height, width, 3), np.uint8)
    masks = np.zeros((len(times), len(scene.moved), height, width), np.bool_)
    resting = np.zeros((height, width), np.float32)
    for place in scene.still:
        resting = np.maximum(resting, _cover(scene, place, height, width))
    for number, time in enumerate(times):
        share = min(max(time, 0.0), 1.0)
        cover = resting
        for one, (x0, y0, x1, y1) in enumerate(scene.moved):
            own = _cover(scene, (x0 + share * (x1 - x0), y0 + share * (y1 - y0)), height, width)
            cover = np.maximum(cover, own)
            masks[number, one] = own > 0.5
            masks[number, :one] &= ~masks[number, one]  # the later one is before the earlier
        colours = np.array(scene.background) * (1 - cover[..., None]) + np.array(scene.colour) * cover[..., None]
        frames[number] = np.rint(colours)
    return frames, masks


def _cover(scene: RestScene, place: tuple[float, float], height: int, width: int) -> NDArray[Any]:
    """How much of each pixel a shape at a place covers, f32 `[H, W]` in [0, 1]."""
    x = np.arange(width, dtype=np.float32)[None] - np.float32(place[0] * height - 0.5)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(place[1] * height - 0.5)
    cosine, sine = np.float32(np.cos(scene.tilt)), np.float32(np.sin(scene.tilt))
    radius = np.float32(scene.radius * height)
    distance = signed_distance(scene.form, cosine * x + sine * y, cosine * y - sine * x, radius)
    return np.clip(0.5 - distance, 0, 1)

"""J and F over whole videos: queries linked once, by the first frame that shows an object."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.tracks import TrackedVideo, measure_tracks
from model.sam3 import Predictions, Text
from pipeline.world import World

SIDE = 40
BOX = 10


def square(left: int | None, top: int = 15) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    if left is not None:
        mask[top : top + BOX, left : left + BOX] = True
    return mask


class Reader(nn.Module):
    """A student that reads off the frame what each of its two queries finds: masks are painted in red and green.

    Blue is the score: 255 is sure, 0 finds nothing.
    """

    memory_resampler = nn.Identity()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(1))
        self.contexts: list[int] = []

    def pixels(self, frames: Tensor) -> Tensor:
        return frames.float()

    def see(self, pixels: Tensor) -> Any:
        return SimpleNamespace(pixels=pixels, context=pixels[:, :, :1, :1])

    def find(self, seen: Any, text: Text, memory: Tensor | None = None) -> Predictions:
        self.contexts.append(0 if memory is None else memory.shape[1])
        masks = torch.where(seen.pixels[:, :2] > 0, 9.0, -9.0)
        sure = torch.full((1, 2), 9.0 if seen.pixels[0, 2, 0, 0] else -9.0)
        return Predictions(masks, torch.zeros(1, 2, 4), sure, sure[:, :1], sure.sigmoid())


class Asked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student = Reader()

    def text(self, prompt: Tensor) -> Text:
        return Text(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))


def frame(red: NDArray[np.bool_], green: NDArray[np.bool_], sure: bool = True) -> NDArray[np.uint8]:
    painted = np.stack([red, green, np.full_like(red, sure)], axis=-1)
    return painted.astype(np.uint8) * 255


def measured(video: TrackedVideo, num_context: int = 2, asked: Asked | None = None) -> Any:
    return measure_tracks(asked or Asked(), [video], num_context, World())


def test_two_objects_that_swap_sides_are_followed_by_the_queries_that_follow_them() -> None:
    lefts = [(0, 30), (10, 20), (20, 10), (30, 0), (30, 0)]
    real = {7: np.stack([square(a, 5) for a, _ in lefts]), 9: np.stack([square(b, 25) for _, b in lefts])}
    followed = [frame(real[9][at], real[7][at]) for at in range(5)]  # in the other order: the IoU links them
    metrics = measured(TrackedVideo(number=0, frames=followed, masks=real)).metrics
    assert (metrics["j_video"], metrics["f_video"], metrics["j_and_f_video"]) == (1.0, 1.0, 1.0)
    # Queries that stand for a side lose both: of the three frames that count, only the first is on the linked side.
    real = {7: np.stack([square(a) for a, _ in lefts]), 9: np.stack([square(b) for _, b in lefts])}
    sides = [
        frame(real[7][at] if a < b else real[9][at], real[9][at] if a < b else real[7][at])
        for at, (a, b) in enumerate(lefts)
    ]
    metrics = measured(TrackedVideo(number=0, frames=sides, masks=real)).metrics
    assert metrics["j_video"] == pytest.approx(1 / 3)


def test_an_object_that_no_counted_frame_shows_has_no_score() -> None:
    nothing = square(None)
    real = {1: np.stack([square(0)] * 4), 2: np.stack([square(20), nothing, nothing, nothing])}
    frames = [frame(real[1][at], real[2][at]) for at in range(4)]
    result = measured(TrackedVideo(number=0, frames=frames, masks=real))
    assert [row["object"] for row in result.rows] == [1]
    assert result.metrics["num_tracks"] == 1


def test_an_object_that_comes_later_is_given_a_query_that_is_free() -> None:
    nothing = square(None)
    real = {1: np.stack([square(0)] * 5), 2: np.stack([nothing, nothing, square(2), square(2), square(2)])}
    # Both queries lie on both objects; the first one stands for object 1 by then.
    frames = [frame(square(0), square(20)) for _ in range(2)] + [frame(square(0), square(3)) for _ in range(3)]
    result = measured(TrackedVideo(number=0, frames=frames, masks=real))
    assert result.rows[0]["j_video"] == 1.0
    assert result.rows[1]["j_video"] == pytest.approx(90 / 110)  # of frames 2 and 3; before, neither shows it


def test_a_query_that_is_not_sure_has_found_nothing() -> None:
    real = {1: np.stack([square(0)] * 4)}
    frames = [frame(square(0), square(None), sure) for sure in (True, True, False, True)]
    assert measured(TrackedVideo(number=0, frames=frames, masks=real)).metrics["j_video"] == pytest.approx(0.5)


def test_a_memory_fills_up_to_its_size_and_begins_anew_with_each_video() -> None:
    asked, real = Asked(), {1: np.stack([square(0)] * 4)}
    video = TrackedVideo(number=0, frames=[frame(square(0), square(None))] * 4, masks=real)

    measure_tracks(asked, [video, video], 2, World())
    assert asked.student.contexts == 2 * [0, 1, 2, 2, 0, 0, 0, 0]  # the second half looks at frames alone


def test_a_student_without_a_memory_is_measured_frame_by_frame() -> None:
    real = {1: np.stack([square(0)] * 4)}
    video = TrackedVideo(number=0, frames=[frame(square(0), square(None))] * 4, masks=real)
    assert set(measured(video, num_context=0).metrics) == {"num_tracks", "j_and_f_image", "j_image", "f_image"}

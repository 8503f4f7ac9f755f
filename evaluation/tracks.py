"""J and F over whole videos, by a student without objects' ids: a query is linked to each once, by first-frame IoU.

In the first frame that shows an object, it is given the query whose mask fits it best, no query to two objects; in all
later frames it is what that query finds. This is not the semi-supervised protocol of SA-V's leaderboard, in which a
method is given the first mask; the scores of a video are the same (`evaluation.mask_scores`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.mask_scores import BOUNDARY, assign, pairwise_ious, video_scores
from evaluation.masks import MasksConfig, measure_masks
from evaluation.ranks import gather_rows
from evaluation.result import Result, Split
from evaluation.standard_errors import interval_of_mean, paired
from model.sam3 import Predictions, Sam3Student, Text
from model.watch import Watcher
from pipeline.world import World
from shards import rle
from shards.builder.samples.pictures import decode_jpeg
from shards.format.objects import read_objects

Masks = NDArray[np.bool_]
MODES = ("video", "image")
LEAST_SCORE = 0.3  # of a query that has found something; that of transformers' post-processing


class Asked(Protocol):
    """What is asked of an objective."""

    student: Sam3Student

    def text(self, prompt: Tensor) -> Text:
        """The prompts of numbers `[B]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrackedVideo:
    """A video with the masks of its objects.

    Attributes:
        number: of its sample.
        frames: u8 `[H, W, 3]`, the annotated ones.
        masks: by object: bool `[n, H, W]`.
    """

    number: int
    frames: Sequence[NDArray[np.uint8]]
    masks: Mapping[int, Masks]


@dataclass
class Links:
    """Which query stands for which object, and what it found so far.

    Attributes:
        query_of: object -> query.
    """

    query_of: dict[int, int] = field(default_factory=dict)

    def link(self, found: Masks, real: Mapping[int, Masks]) -> None:
        """Give objects that are new in a frame a query each, of those that stand for none, by IoU `[Q, H, W]`.

        An object with which no free query overlaps is given none.
        """
        new = [number for number, mask in real.items() if number not in self.query_of and mask.any()]
        free = [query for query in range(len(found)) if query not in self.query_of.values()]
        if not new or not free:
            return
        worth = pairwise_ious(found[free], np.stack([real[number] for number in new]))
        for number, row in zip(new, assign(worth).tolist(), strict=True):
            if row >= 0 and worth[row, new.index(number)] > 0:
                self.query_of[number] = free[row]


def query_masks(found: Predictions, size: tuple[int, int]) -> Masks:
    """What each query of one frame has found, bool `[Q, h, w]`: nothing, where its score is below `LEAST_SCORE`."""
    masks = F.interpolate(found.masks.float(), size, mode="bilinear", align_corners=False)[0] > 0
    shown: Masks = (masks & (query_scores(found) >= LEAST_SCORE)[:, None, None]).cpu().numpy()
    return shown


def query_scores(found: Predictions) -> Tensor:
    """How sure each query of one frame is, from 0 to 1, `[Q]`: that it has found something, and there is anything."""
    return found.logits.float().sigmoid()[0] * found.presence.float().sigmoid()[0]


def track(watcher: Watcher, video: TrackedVideo, device: torch.device) -> dict[int, Masks]:
    """What is found of each object in each frame: bool `[n, H, W]`, empty before the object is linked."""
    found = {number: np.zeros_like(masks) for number, masks in video.masks.items()}
    links, first = Links(), {number: _first_frame(masks) for number, masks in video.masks.items()}
    watcher.reset()
    for place, frame in enumerate(video.frames):
        shown = query_masks(watcher.look(torch.tensor(frame, device=device)), frame.shape[:2])
        links.link(shown, {number: masks[place] for number, masks in video.masks.items() if first[number] == place})
        for number, query in links.query_of.items():
            found[number][place] = shown[query]
    return found


def _first_frame(masks: Masks) -> int:
    shown = masks.any(axis=(1, 2))
    return int(shown.argmax()) if shown.any() else -1


@torch.no_grad()
def measure_all(model: nn.Module, data: Mapping[str, Split], config: MasksConfig, world: World) -> Result:
    """Measure queries, and of SA-V's sets for evaluation also whole videos; an evaluator, see `evaluation.result`.

    Returns:
        What `measure_masks` gives; of `sav_val` and `sav_test` with the metrics of `measure_tracks`, too, and the table
        "tracks", a row an object.
    """
    split = data["val"]
    found = measure_masks(model, data, config, world)
    if split.source.get("layout") != "frames" or split.stored is None:
        return found
    videos = (stored_video(split, number) for number in range(world.rank, split.num_samples, world.size))
    tracks = measure_tracks(model, videos, config.num_context, world, key_of=split.key_of)
    return replace(
        found,
        metrics={**found.metrics, **tracks.metrics},
        intervals={**found.intervals, **tracks.intervals},
        tables={"tracks": tracks.rows},
        protocol={**found.protocol, **tracks.protocol},
    )


def stored_video(split: Split, number: int) -> TrackedVideo:
    """All annotated frames of a sample, and the masks of its objects."""
    assert split.stored is not None
    frames = [decode_jpeg(jpeg) for jpeg in split.stored(number, "frames")]
    size = (frames[0].shape[0], frames[0].shape[1])
    masks: dict[int, Masks] = {}
    for place, piece in enumerate(split.stored(number, "masks")):
        for one in read_objects(piece):
            empty = np.zeros((len(frames), *size), np.bool_)
            masks.setdefault(one["id"], empty)[place] = rle.decode(one["rle"], size)
    return TrackedVideo(number=number, frames=frames, masks=masks)


@torch.no_grad()
def measure_tracks(
    model: nn.Module,
    videos: Iterable[TrackedVideo],
    num_context: int,
    world: World,
    *,
    key_of: Callable[[int], str] = str,
) -> Result:
    """Watch videos with a memory of the student's own features, and each frame alone.

    Args:
        model: an objective, see `Asked`.
        videos: this rank's part of what is watched.
        num_context: frames that are remembered; 0 measures each frame alone only.
        world: the ranks, which all get the result.
        key_of: names a video by its number.

    Returns:
        Metrics, means over all objects of all videos: `j_and_f_video`, `j_video`, `f_video`, and `_image` likewise;
        `j_and_f_gain_image`, by how much the memory is better, and `_errors`, that in standard errors of the paired
        difference. Objects that no counted frame shows have no score.
    """
    asked = cast(Asked, model)
    was_training = model.training
    model.eval()
    device = asked.student.pixel_mean.device
    text = asked.text(torch.zeros(1, dtype=torch.long, device=device))
    modes = MODES if num_context else MODES[1:]
    watchers = [Watcher(asked.student, text, num_context if mode == "video" else 0) for mode in modes]
    columns = ["number", "object", *(f"{what}_{mode}" for mode in modes for what in "jf")]
    parts = [torch.zeros(0, len(columns), dtype=torch.float64)]
    for video in videos:
        found = [track(watcher, video, device) for watcher in watchers]
        for number, real in video.masks.items():
            scores = [video_scores(each[number], real) for each in found]
            if any(score is not None for score in scores):  # all or none: it depends on the truth
                values = [value for score in scores for value in score or ()]
                parts.append(torch.tensor([[video.number, number, *values]], dtype=torch.float64))
    model.train(was_training)
    table = gather_rows(torch.cat(parts), world, device).cpu()
    rows = [
        {"key": key_of(int(number)), "object": int(object_id), **dict(zip(columns[2:], values, strict=True))}
        for number, object_id, *values in sorted(table.tolist())
    ]
    return Result(
        metrics=_metrics(rows, modes),
        rows=rows,
        intervals=_intervals(rows, modes),
        protocol={
            "tracks": "annotated frames as they are stored, first and last not counted",
            "linking": "a query an object, by IoU in the first frame that shows it",
            "boundary": BOUNDARY,
            "least_score": LEAST_SCORE,
            "remembered": f"the student's own features of {num_context} frames",
        },
    )


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return torch.tensor([row[name] for row in rows], dtype=torch.float64)


def _metrics(rows: Sequence[Mapping[str, Any]], modes: Sequence[str]) -> dict[str, float]:
    metrics: dict[str, float] = {"num_tracks": float(len(rows))}
    both = {}
    for mode in modes if rows else ():
        j, f = (_column(rows, f"{name}_{mode}") for name in "jf")
        both[mode] = (j + f) / 2
        values = {"j_and_f": both[mode], "j": j, "f": f}
        metrics |= {f"{name}_{mode}": float(column.mean()) for name, column in values.items()}
    if len(both) == len(MODES):
        gain, errors = paired(both["video"], both["image"])
        metrics |= {"j_and_f_gain_image": gain, "j_and_f_gain_image_errors": errors}
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _intervals(rows: Sequence[Mapping[str, Any]], modes: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Where J&F lies with 95 % confidence, as other objects would have given it."""
    found = {}
    for mode in modes if len(rows) > 1 else ():
        both = (_column(rows, f"j_{mode}") + _column(rows, f"f_{mode}")) / 2
        found[f"j_and_f_{mode}"] = interval_of_mean(both)
    return found

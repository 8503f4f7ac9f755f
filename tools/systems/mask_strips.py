"""What a student of masks finds in some videos: strips of frames with the masks over them, for pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.tracks import query_masks
from shards import rle
from shards.builder.samples.pictures import decode_jpeg
from shards.format.objects import read_objects
from tools.pages.elements import figure, figures, heading, paragraph, picture, strips
from tools.pages.html import Html
from tools.pages.overlay import overlay
from tools.pages.strips import strip

if TYPE_CHECKING:
    from shards.dataset import ShardDataset

MOST_VIDEOS, MOST_FRAMES = 6, 5
_ABOUT = """The first videos, not the best ones; of each some of its first frames{whole}. Masks are painted where a
query's score is at least 0.3, each query in a colour of its own. Image mode looks at each frame alone{memory}."""
_WHOLE = ", up to the first that has its whole memory, on the right"
_MEMORY = "; video mode remembers the stored features of up to {num} frames before"


@dataclass(frozen=True, kw_only=True)
class MaskStrip:
    """Some frames of a video, with what is annotated and what is found.

    Attributes:
        key: of the video.
        frames: u8 `[n, H, W, 3]`.
        rows: by what it is: masks of each frame, bool `[N, H, W]`.
    """

    key: str
    frames: NDArray[np.uint8]
    rows: Mapping[str, Sequence[NDArray[np.bool_]]]

    def html(self) -> Html:
        """Each row as one picture."""
        made = []
        for name, masks in self.rows.items():
            painted = np.stack([overlay(frame, found) for frame, found in zip(self.frames, masks, strict=True)])
            made.append((name, picture(strip(painted), f"{self.key}: {name}, masks over frames")))
        return figure(strips(made), caption=self.key)


def show_masks(recipe: Any, objective: torch.nn.Module, datasets: Mapping[str, ShardDataset]) -> Iterator[Html]:
    """A section of some held-out videos."""
    num = recipe.memory.num_context
    found = list(watch(num, objective, datasets["val"]))
    yield heading("What it finds")
    about = {"whole": _WHOLE, "memory": _MEMORY.format(num=num)} if num else {"whole": "", "memory": ""}
    yield paragraph(_ABOUT.format(**about), class_="small")
    yield figures(*(one.html() for one in found))


def strips_of_run(run_dir: Path, data: Path) -> list[MaskStrip]:
    """What a run's newest checkpoint finds in the first videos of a set."""
    from shards.dataset import ShardDataset
    from tools.trained import open_run

    recipe, objective, _ = open_run(run_dir)
    found: Any = recipe
    return list(watch(found.memory.num_context, objective, ShardDataset.open(data)))


@torch.no_grad()
def watch(num_context: int, objective: torch.nn.Module, dataset: ShardDataset) -> Iterator[MaskStrip]:
    """Look at the first videos of a set, with a memory where there is one and without."""
    for number in range(min(MOST_VIDEOS, len(dataset))):
        last = min(max(num_context, MOST_FRAMES - 1), int(dataset.lengths("frames")[number]) - 1)
        places = sorted({round(place) for place in np.linspace(0, last, MOST_FRAMES)})
        names = ("frames", "masks", "fpn") if num_context else ("frames", "masks")
        pieces = {name: dataset.read_run(number, name, 0, last + 1) for name in names}
        frames = np.stack([decode_jpeg(pieces["frames"][place]) for place in places])
        real = [_annotated(pieces["masks"][place], frames.shape[1]) for place in places]
        rows: dict[str, Sequence[NDArray[np.bool_]]] = {"annotated": real}
        rows["image mode"] = [_found(objective, frame, None) for frame in frames]
        if num_context:
            context = [np.asarray(pieces["fpn"])[max(0, place - num_context) : place] for place in places]
            rows["video mode"] = [_found(objective, *both) for both in zip(frames, context, strict=True)]
        yield MaskStrip(key=dataset.key(number), frames=frames, rows=rows)


def _annotated(piece: bytes, side: int) -> NDArray[np.bool_]:
    masks = [rle.decode(one["rle"], (side, side)) for one in read_objects(piece)]
    return np.stack(masks) if masks else np.zeros((0, side, side), np.bool_)


def _found(objective: Any, frame: NDArray[np.uint8], context: NDArray[np.float16] | None) -> NDArray[np.bool_]:
    """What is found in a frame by the first prompt, with the features of the frames before it, if there are any."""
    device = objective.student.pixel_mean.device
    batch = {
        "frames": torch.tensor(frame, device=device).movedim(-1, 0)[None, None],
        "prompt": torch.zeros(1, dtype=torch.long, device=device),
    }
    if context is not None and len(context):
        batch["fpn"] = torch.tensor(context, device=device)[None]
    return query_masks(objective.find(batch), frame.shape[:2])

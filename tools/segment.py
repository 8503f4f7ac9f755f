"""`reelshard segment`: what a small SAM3 finds in a video, frame by frame, as a video with masks over it and as JSON.

reelshard segment VIDEO --run RUN --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.watch import Watcher

HELP = "write the masks that a student finds in a video, over its frames and as JSON"
RATE = 6  # frames a second, as SA-V annotates them and students are trained
QUALITY = 95  # of frames in memory
MASKS, OVERLAY = "masks.json", "overlay.mp4"

_DESCRIPTION = f"""Let a run's newest checkpoint watch a video, {RATE} frames a second, and remember as many frames as
it was trained to. Writes {OVERLAY}, in which each query has a colour of its own, and {MASKS}: of each frame the
queries that have found something, with score, box and mask (COCO's RLE at the video's own size)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard segment`."""
    parser.description = _DESCRIPTION
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video")
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--prompt", help="what is looked for (default: the first of the recipe's objects.prompts)")
    parser.add_argument("--out", type=Path, required=True, help=f"folder that gets {OVERLAY} and {MASKS}")
    parser.add_argument("--json", action="store_true", help="print counts and rates as JSON")


def run(args: argparse.Namespace) -> int:
    """Watch, write, and say how fast."""
    from shards.format.publish import publish_bytes, publish_json
    from tools.systems.sav_sets import SavRecipe
    from tools.terminal import clean
    from tools.trained import open_run

    if not args.video.is_file():
        raise ValueError(f"there is no file {str(args.video)!r}; give a video")
    if args.prompt is not None and not args.prompt.strip():
        raise ValueError("--prompt is empty; say what is looked for, or leave it out")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; give a folder")
    found: Any = open_run(args.run_dir, args.overrides)
    recipe, objective, step = found
    if not isinstance(recipe, SavRecipe):
        raise ValueError(f"{args.run_dir} is a run of the system {recipe.system}, which finds no masks")
    began = time.perf_counter()
    frames = read_frames(args.video, recipe)
    decoded = time.perf_counter()
    prompt = recipe.objects.prompts[0] if args.prompt is None else args.prompt
    watcher = make_watcher(recipe, objective, prompt)
    rows, pictures = [], []
    for number, seconds, small, whole in frames:
        row, picture = look(watcher, small, whole)
        rows.append({"frame": number, "seconds": seconds, **row})
        pictures.append(picture)
    watched = time.perf_counter()
    video = encode(pictures)
    rates = {
        "decoded_per_second": len(rows) / (decoded - began),
        "watched_per_second": len(rows) / (watched - decoded),
    }
    counts = {"num_frames": len(rows), "num_masks": sum(len(row["objects"]) for row in rows)}
    about = {"video": args.video.name, "prompt": prompt, "step": step, "num_context": recipe.memory.num_context}
    args.out.mkdir(parents=True, exist_ok=True)
    publish_bytes(args.out / OVERLAY, video)
    publish_json(args.out / MASKS, {**about, "frames": rows})
    if args.json:
        print(json.dumps({**about, **counts, **rates}))
        return 0
    print(clean(f"{counts['num_masks']} masks in {len(rows)} frames: {args.out / OVERLAY}, {args.out / MASKS}"))
    words = f"{rates['decoded_per_second']:.1f} frames/s read, {rates['watched_per_second']:.1f} frames/s watched"
    print(words, file=sys.stderr)
    return 0


def read_frames(path: Path, recipe: Any) -> Iterator[tuple[int, float, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Frames at `RATE`: number, seconds, u8 `[S, S, 3]` as the student was trained to see it, and u8 `[H, W, 3]`.

    Raises:
        ValueError: the file cannot be decoded.
    """
    from shards.builder.decode.decoders import take_frames
    from shards.builder.decode.stream_facts import read_source_file
    from shards.builder.decode.view import ViewSpec
    from shards.builder.failure import BuildFailure
    from shards.builder.samples.pictures import JpegWriter, decode_jpeg

    view = recipe.view
    choice = ViewSpec(sampling="fps", fps=RATE, geometry=view.geometry, size=view.size)
    small = JpegWriter(view=view, quality=view.quality)

    def make(frame: NDArray[np.uint8]) -> tuple[bytes, bytes]:
        return small(frame), _jpeg(frame)

    try:
        taken = take_frames(path, read_source_file(path), choice, recipe.build.decoder, make)
    except BuildFailure as failure:
        raise ValueError(f"{path} cannot be read ({failure.reason}): {failure}") from None
    each = zip(taken.frame_indices, taken.timestamps_seconds, taken.pictures, strict=True)
    return (
        (number, round(seconds, 6), decode_jpeg(jpegs[0]), decode_jpeg(jpegs[1])) for number, seconds, jpegs in each
    )


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def make_watcher(recipe: Any, objective: Any, prompt: str) -> Watcher:
    """A student that looks for what a prompt names, by its own tokenizer.

    Raises:
        ValueError: the prompt is too long.
    """
    import torch

    from model.sam3_files import read_prompts
    from model.watch import Watcher
    from tools.systems.sam3_students import source_of

    tokens, words = read_prompts(source_of(recipe.model), [prompt])
    student = objective.student
    device = student.pixel_mean.device
    with torch.inference_mode():
        text = student.read(tokens.to(device), words.to(device))
    return Watcher(student, text, recipe.memory.num_context)


def look(watcher: Watcher, small: Any, whole: Any) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """What is found in the next frame, and the frame with that over it."""
    import torch

    from evaluation.tracks import query_masks, query_scores
    from shards import rle
    from tools.pages.overlay import overlay

    found = watcher.look(torch.tensor(small, device=watcher.device))
    masks, scores = query_masks(found, whole.shape[:2]), query_scores(found)
    objects = [
        {
            "query": query,
            "score": round(float(scores[query]), 4),
            "box": list(rle.box_of(mask) or ()),
            "rle": rle.encode(mask),
        }
        for query, mask in enumerate(masks)
        if mask.any()
    ]
    presence = round(float(found.presence.float().sigmoid()), 4)
    return {"presence": presence, "objects": objects}, overlay(whole, masks)


def encode(pictures: list[NDArray[np.uint8]]) -> bytes:
    """Frames of one size as an MP4 of `RATE` a second, H.264; of an odd side the last row or column is left out."""
    import io

    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "20"})
        height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture[:height, :width], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()

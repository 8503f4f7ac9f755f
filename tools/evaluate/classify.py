"""Predictions for ordinary video files, by a probe that was trained before.

reelshard evaluate classify holiday.mp4 --checkpoint runs/first --probe results/probe.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tools.evaluate.common import add_encoder_arguments, add_result_arguments

if TYPE_CHECKING:
    from evaluation.encoder import Encoder
    from evaluation.saved_probe import SavedProbe
    from tools.evaluate.guesses import Guess
    from tools.evaluate.videos import Video

BATCH_SIZE = 8  # decoded clips held at once
HELP = "say what ordinary videos show, by a trained probe"

_DESCRIPTION = """Predict the classes of a video file, or of all videos in a folder and its subfolders.

The probe is what `evaluate probe --out DIR` or `evaluate ucf101 --out DIR` has left there; it has to be given with the
encoder that it was trained on. Where videos lie in folders that are called as classes, the hits are counted.

With --out DIR there are classify.json, a picture (classify.png) and a page (classify.html). A file that is no video, or
a damaged one, is listed with its reason; the command fails only if no file works."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name="classify")
    parser.add_argument("videos", type=Path, metavar="VIDEO_OR_FOLDER", help="a video file, or a folder of them")
    parser.add_argument("--probe", type=Path, required=True, metavar="PATH", help="a probe.safetensors, or its folder")
    parser.add_argument("--top", type=int, default=5, help="classes named for each video (default 5)")
    parser.add_argument("--workers", type=int, help="decoders at work at once (default: one per CPU)")
    add_encoder_arguments(parser, reading=False)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"clips in a batch (default {BATCH_SIZE})")
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Classify, print, and write where the arguments say."""
    from evaluation.saved_probe import load_probe
    from tools.encoders import load_encoder
    from tools.evaluate.guesses import MAX_DRAWN
    from tools.evaluate.sets import view_of
    from tools.evaluate.videos import find_videos, read_videos
    from tools.progress import track

    for name in ("batch_size", "top"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least 1")
    source = find_videos(args.videos)
    probe = load_probe(args.probe)
    encoder = load_encoder(args.checkpoint, device=args.device, dtype=args.dtype, overrides=args.overrides)
    probe.refuse_other(encoder)
    guesses: list[Guess] = []
    problems: list[dict[str, str]] = []
    with track("classifying", total=len(source.items), unit="videos") as advance:
        videos = read_videos(source, view_of(encoder), args.workers)
        while batch := list(islice(videos, args.batch_size)):
            found = [video for video in batch if video.clips is not None]
            problems += [{"path": video.path, "problem": video.problem} for video in batch if video.clips is None]
            if found:
                guesses += _guess(encoder, probe, found, top=args.top, num_drawn=MAX_DRAWN - len(guesses))
            advance(len(batch), len(batch) - len(found))
    _publish(args, encoder, probe, guesses, problems)
    return 0 if guesses else 1


def _guess(
    encoder: Encoder, probe: SavedProbe, videos: Sequence[Video], *, top: int, num_drawn: int
) -> Iterator[Guess]:
    """The guesses for a batch; only the first `num_drawn` videos keep frames to be drawn."""
    import numpy as np
    import torch

    from tools.evaluate.guesses import Guess, some_frames

    clips = [video.clips for video in videos if video.clips is not None]
    batch = torch.from_numpy(np.concatenate(clips)).to(encoder.device)  # [B * V, T, H, W, 3]
    scores = probe(encoder, batch)
    averaged = scores.view(len(clips), -1, scores.shape[1]).mean(dim=1)  # over a video's clips
    probabilities, classes = averaged.topk(min(top, len(probe.classes)))
    for number, (video, shown) in enumerate(zip(videos, clips, strict=True)):
        names = [probe.classes[index] for index in classes[number].tolist()]
        yield Guess(
            path=video.path,
            top=list(zip(names, probabilities[number].tolist(), strict=True)),
            known=video.folder if video.folder in probe.classes else None,
            frames=some_frames(shown[0]) if number < num_drawn else None,
        )


def _publish(
    args: argparse.Namespace,
    encoder: Encoder,
    probe: SavedProbe,
    guesses: list[Guess],
    problems: list[dict[str, str]],
) -> None:
    from shards.format.publish import publish_bytes, publish_json
    from tools.evaluate.guesses import draw, spell_hits, spell_table, write_guesses_page
    from tools.terminal import clean

    about = {
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "probe": f"{probe.kind} on layer {probe.layer}, {len(probe.classes)} classes, {args.probe}",
    }
    videos = [guess.to_json() for guess in guesses]
    record = {"evaluation": args.name, **about, "videos": videos, "problems": problems}
    lines = spell_table(guesses)
    lines += [f"{clean(problem['path'])}  could not be read: {clean(problem['problem'])}" for problem in problems]
    lines += [hits] if (hits := spell_hits(guesses)) else []
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        publish_json(args.out / "classify.json", record)
        if guesses:
            publish_bytes(args.out / "classify.png", draw(guesses))
        write_guesses_page(args.out / "classify.html", guesses, problems, about)
        lines += [f"written to {path}" for path in sorted(args.out.glob("classify.*"))]
    sys.stdout.write(json.dumps(record) + "\n" if args.json else "".join(f"{line}\n" for line in lines))
    if not guesses:
        sys.stderr.write(f"reelshard: none of {len(problems)} files could be read as a video\n")

"""`reelshard caption`: what a trained student writes about a video.

reelshard caption VIDEO --run RUN --question "What is on the left?"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HELP = "write a caption of a video or image, or the answer to a question about it"

_DESCRIPTION = """Write what a run's newest checkpoint says of a video or image, always with the likeliest word. The
frames are taken as those that it was trained on; the recipe's `chat.prompt` is asked where no --question is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard caption`."""
    parser.description = _DESCRIPTION
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video, or an image")
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--question", help="what is asked (default: the recipe's chat.prompt)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="the most that is written (default 128)")
    parser.add_argument("--json", action="store_true", help="print text and times as JSON")


def run(args: argparse.Namespace) -> int:
    """Write, and say on stderr how fast."""
    from tools.systems import system_of
    from tools.terminal import clean
    from tools.trained import open_run

    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {args.max_new_tokens}; give 1 or more")
    if not args.video.is_file():
        raise ValueError(f"there is no file {str(args.video)!r}; give a video or an image")
    recipe, objective, step = open_run(args.run_dir, args.overrides)
    speaker = system_of(recipe).speaker(recipe, objective, f"run {args.run_dir}, step {step}")
    question = [{"role": "user", "content": speaker.prompt if args.question is None else args.question}]
    began = time.perf_counter()
    written = speaker.write(speaker.read(args.video), question, args.max_new_tokens)
    times, text = [], ""
    for so_far in written:
        text = so_far
        times.append(time.perf_counter())
    seconds = {"seconds_to_first_token": times[0] - began if times else None}
    if len(times) > 1:
        seconds["tokens_per_second"] = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
    if args.json:
        print(json.dumps({"text": text, "num_tokens": len(times), **seconds}))
        return 0
    print(clean(text))
    if times:
        rate = f", then {seconds['tokens_per_second']:.1f} a second" if len(times) > 1 else ""
        print(f"{len(times)} tokens, the first after {times[0] - began:.2f} s{rate}", file=sys.stderr)
    return 0

"""`reelshard view`: a data set in the browser, on this machine alone."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "look through a data set in the browser: samples, masks, captions, failures"
PORT = 8765

_DESCRIPTION = """Serve a page on this machine alone, http://127.0.0.1:PORT, until Ctrl-C, and look through a data set.

Samples are found by key or label; clips play; boxes and masks lie over frames; captions and chats are there, and the
failures of the build with their reasons. With --recipe NAME the mask that its student sees lies over the clip.

Nothing is written, and nothing outside of the data set can be read through it. The address holds a token, without which
other users of this machine get nothing. From another machine: ssh -L 8765:127.0.0.1:8765 HOST."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard view`."""
    parser.description = _DESCRIPTION
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of a data set")
    parser.add_argument("--recipe", help="show the mask that the student of this recipe sees")
    parser.add_argument("--source", default="", metavar="NAME", help="with --recipe: as this source of a mix")
    parser.add_argument(
        "--port", type=int, help=f"of the page (default: {PORT}, or any that is free where that is in use)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from shards.dataset import ShardDataset
    from tools.terminal import clean
    from tools.view.masks import MaskView, mask_view
    from tools.view.server import address_of, listen, new_token, serving

    if args.port is not None and not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port is {args.port}; allowed are 1 to 65535, and 0 for any that is free")
    dataset = ShardDataset.open(args.dataset)
    if dataset.mirror is not None:
        raise ValueError(f"{dataset.place} is elsewhere: `reelshard copy` it, or a part of it, to a folder here")
    mask: MaskView | None = None
    if args.recipe is not None:
        mask = mask_view(args.recipe, args.overrides, dataset, args.source)
    elif args.overrides or args.source:
        raise ValueError("values of a recipe and --source have a meaning with --recipe NAME only")
    with listen(PORT if args.port is None else args.port, any_free=args.port is None) as socket:
        token = new_token()
        with serving(dataset, socket, token, mask) as answering:
            print(clean(f"{args.dataset} is shown until Ctrl-C at {address_of(socket, token)}"), flush=True)
            answering.result()
    return 0

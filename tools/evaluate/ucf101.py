"""The probe on UCF101 in one command, from the download folder to top-1 on the test list.

reelshard evaluate ucf101 --root UCF101 --checkpoint runs/first/checkpoints/step-00010000/model.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path

from tools.evaluate.common import add_encoder_arguments, add_result_arguments, publish
from tools.evaluate.probe import add_head_arguments, table
from tools.evaluate.sets import Wanted, add_work_arguments, built, failures_of

HELP = "a probe on UCF101, from its download folder to top-1 on the test list"

_DESCRIPTION = """Build UCF101 in the encoder's view, train a probe on the train list, and score it on the test list.

Settings are chosen on a held-out part of the train list, and nothing on the test list. Beside the encoder stand the
same one with fresh weights, and raw pixels. With --out DIR the classifier stays there, for `evaluate classify`.

The data sets stay in --work and are found again by the next evaluation with the same view; what was stopped goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name="ucf101", features=None)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder with UCF-101 and its lists")
    parser.add_argument("--fold", type=int, default=1, help="which of the three official splits (default 1)")
    add_encoder_arguments(parser)
    add_work_arguments(parser)
    add_head_arguments(parser)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Build what is missing, train the probe, score it, and print."""
    from tools.evaluate.probe_runs import run_probes

    with built(args, wanted(args)) as bench:
        results, lines = run_probes(args, bench)
        about = {"data": f"UCF101, fold {args.fold}", "num_videos_left_out": failures_of(bench.datasets)}
        found = {
            name: dataclasses.replace(result, protocol={**result.protocol, **about}) for name, result in results.items()
        }
        title = f"UCF101, fold {args.fold}: {args.kind} probe of {bench.encoder.name}"
        publish(args, bench.world, found, title=title, lines=[title, *table(found), *lines])
    return 0


def wanted(args: argparse.Namespace) -> dict[str, Wanted]:
    """The train and the test list of a fold."""
    from shards.builder import load_ucf101

    return {
        role: Wanted(
            name=f"ucf101-{args.fold}-{split}", split=split, open=partial(load_ucf101, args.root, split, args.fold)
        )
        for role, split in (("train", "train"), ("val", "test"))
    }

"""`reelshard export`: a trained student as folders that other libraries read.

reelshard export --run RUN --out exported
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

HELP = "write a trained student as folders that transformers reads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard export`."""
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must not be there")


def run(args: argparse.Namespace) -> int:
    """Write all of it, or nothing."""
    from tools.systems import system_of
    from tools.trained import open_run

    out: Path = args.out
    if out.exists():
        raise ValueError(f"{out} is there already; give a folder that is not")
    recipe, objective, step = open_run(args.run_dir, args.overrides)
    temporary = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for line in system_of(recipe).export(recipe, objective.cpu(), temporary):
            print(f"{out}/{line}")
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"of step {step} of {args.run_dir}")
    return 0

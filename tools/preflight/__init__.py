"""Look before a long run: `reelshard preflight`.

reelshard preflight --recipe RECIPE --data ssv2/train --out runs/first
torchrun --no-python --nproc-per-node 8 reelshard preflight --recipe RECIPE --data ssv2/train --out runs/first
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tools.datasets import add_data_argument, parse_paths
from tools.systems import DEFAULT_RECIPE

if TYPE_CHECKING:
    from tools.preflight.finding import Finding

HELP = "check machine, data set and memory with a short rehearsal before a long run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard preflight`."""
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help="name of a recipe, or path of a YAML file")
    add_data_argument(parser)
    parser.add_argument("--out", type=Path, default=Path(), help="where the run is to be written (default: here)")
    parser.add_argument("--batches", type=int, default=30, help="batches of the stress run (default: 30)")
    parser.add_argument("--json", action="store_true", help="print the finding as JSON only")


def run(args: argparse.Namespace) -> int:
    """Run the command; the status is 1 if a check failed on any rank."""
    import torch

    from pipeline.world import World
    from tools.preflight.machine import machine_checks
    from tools.preflight.rehearsal import Rehearsal
    from tools.recipe import load_recipe
    from training.distributed import process_group, sum_over_ranks, use_device

    if args.batches < 1:
        raise ValueError(f"--batches is {args.batches}; give at least 1")
    recipe, data = load_recipe(args.recipe, args.overrides), parse_paths(args.data)
    world = World.from_env()
    device = recipe.train.torch_device(world.local_rank)
    use_device(device)
    accelerator = recipe.train.accelerator(world.local_rank)

    def failures() -> int:
        mine = sum(finding.status == "fail" for finding in findings)
        return int(sum_over_ranks(torch.tensor(mine, device=device), world).item())

    with process_group(world, device):
        findings = machine_checks(accelerator, world)
        rehearsal = Rehearsal(recipe, data, args.out, accelerator, world, num_batches=args.batches)
        findings += rehearsal.data_checks()
        num_failed = failures()
        if num_failed == 0:  # ranks step together: only if all of them can
            findings += rehearsal.training_checks()
            num_failed = failures()
        rehearsal.close()
    if world.rank == 0:
        print(_as_json(findings, num_failed) if args.json else _as_table(findings, num_failed))
    return int(num_failed > 0)


def _as_json(findings: list[Finding], num_failed: int) -> str:
    checks = [dataclasses.asdict(finding) for finding in findings]
    return json.dumps({"ready": num_failed == 0, "num_failed": num_failed, "checks": checks})


def _as_table(findings: list[Finding], num_failed: int) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = [f"{finding.status:<4}  {finding.name:<{width}}  {finding.detail}" for finding in findings]
    num_warned = sum(finding.status == "warn" for finding in findings)
    verdict = f"{num_failed} failed" if num_failed else "ready to train"
    return "\n".join([*lines, f"{verdict}, {num_warned} to look at" if num_warned else verdict])

"""What `reelshard build` runs on: devices of this machine, a Ray cluster, or one share of a job array."""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.builder import Engine, Partition
    from shards.builder.engines.processes import MakeTeacher
    from shards.builder.worker import Deliver


@contextmanager
def open_engine(args: argparse.Namespace, make: MakeTeacher, deliver: Deliver | None = None) -> Generator[Engine]:
    """Start the engine that the arguments ask for, with a teacher on each of its devices.

    Args:
        args: with `engine`, `device` and `devices`.
        make: makes a teacher on a device; a function of a module, as it goes to other processes.
        deliver: takes finished shards elsewhere.

    Raises:
        ValueError: arguments do not go together, or the teacher cannot be loaded.
    """
    from shards.builder import InProcess, ProcessPool

    if args.engine == "ray":
        if args.devices:
            raise ValueError("--devices is for this machine; Ray hands out the cluster's GPUs by itself: leave it out")
        from shards.builder.engines.ray import RayCluster

        with RayCluster(make, args.device, deliver) as cluster:
            yield cluster
        return
    devices = args.devices.split(",") if args.devices else [args.device]
    if len(devices) > 1:
        with ProcessPool(devices, make, deliver) as pool:
            yield pool
    else:
        yield InProcess(make(devices[0]), deliver)


def read_partition(text: str | None, environment: Mapping[str, str] | None = None) -> Partition | None:
    """Return the share of the plan that `--partition` asks for.

    Args:
        text: "I/N"; "auto" takes both from the job array (Slurm, a Kubernetes indexed job, torchrun), "auto/N" only I;
            None is no partition.
        environment: None takes that of the process.

    Raises:
        ValueError: it is something else, or there is no job array.
    """
    from shards.builder import Partition

    if text is None:
        return None
    choice, _, count = text.partition("/")
    if choice != "auto":
        return Partition.parse(text)
    index, found = _job_array(os.environ if environment is None else environment)
    if count and not count.isdecimal():
        raise ValueError(f"the partition is {text!r}; give I/N, auto or auto/N")
    number = int(count) if count else found
    if number is None:
        raise ValueError("the number of partitions is not in the environment; give it as --partition auto/N")
    return Partition(index, number)


def _job_array(environment: Mapping[str, str]) -> tuple[int, int | None]:
    """Return this job's place from 0 on, and how many there are, where that is known."""
    from pipeline.world import World

    values = {name: int(text) for name, text in environment.items() if name in _ARRAY_NAMES and text.isdecimal()}
    if "SLURM_ARRAY_TASK_ID" in values:
        first, step = values.get("SLURM_ARRAY_TASK_MIN", 0), values.get("SLURM_ARRAY_TASK_STEP", 1)
        return (values["SLURM_ARRAY_TASK_ID"] - first) // step, values.get("SLURM_ARRAY_TASK_COUNT")
    if "JOB_COMPLETION_INDEX" in values:
        return values["JOB_COMPLETION_INDEX"], None
    world = World.from_env(environment)
    if world.size == 1:
        raise ValueError(
            "--partition auto found no job array: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX nor RANK and "
            "WORLD_SIZE are set; give --partition I/N"
        )
    return world.rank, world.size


_ARRAY_NAMES = {
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_ARRAY_TASK_COUNT",
    "JOB_COMPLETION_INDEX",
}

"""Cores are counted by what this process may use, whatever the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.world import World
from shards.cores import usable_cores
from tests.datasets import make_dataset


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_an_affinity_of_one_core_is_one_core(tmp_path: Path) -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from shards.cores import usable_cores; print(usable_cores())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("text", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("?", None)]
)
@pytest.mark.parametrize("group", ["", "jobs", "jobs/one"])
def test_the_quota_of_a_control_group_counts_and_that_of_those_around_it(
    tmp_path: Path, text: str, cores: int | None, group: str
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/one\n")
    folder = tmp_path / "sys/fs/cgroup" / group
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(text + "\n")
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("quota", "cores"), [("100000", 1), ("1000", 1), ("-1", None)])
def test_so_does_that_of_the_older_kind(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu,cpuacct:/box\n4:memory:/box\n")
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct/box"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota + "\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a quota of one core is no limit on one core")
@pytest.mark.parametrize(("quota", "given", "threads"), [("100000", None, 1), ("100000", "2", 2), ("max", None, None)])
def test_commands_compute_with_no_more_threads_than_a_quota_allows_unless_they_are_told(
    tmp_path: Path, quota: str, given: str | None, threads: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(f"{quota} 100000\n")
    code = "from pathlib import Path; from shards.cores import usable_cores; from tools.__main__ import main\n"
    code += f"usable_cores.__defaults__ = (Path({str(tmp_path)!r}),)\n"
    code += "assert main(['--version']) == 0; import torch; print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if given is None else {"OMP_NUM_THREADS": given}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == str(threads or len(os.sched_getaffinity(0)))


def test_reader_threads_are_the_cores_shared_by_the_ranks_of_the_machine(tmp_path: Path) -> None:
    dataset, cores = make_dataset(tmp_path), usable_cores()
    with ShardLoader(dataset, LoaderConfig(global_batch_size=8)) as alone:
        assert alone.config.threads == min(cores, 8)
    with ShardLoader(dataset, LoaderConfig(global_batch_size=8), world=World(rank=0, size=8, local_size=8)) as crowded:
        assert crowded.config.threads == max(1, min(cores // 8, 8))
    with ShardLoader(dataset, LoaderConfig(global_batch_size=8, threads=3)) as asked:
        assert asked.config.threads == 3


def test_the_ranks_of_a_machine_are_those_that_torchrun_counts() -> None:
    environment = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
    assert World.from_env(environment).local_size == 8
    assert World.from_env({}).local_size == 1
    with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE"):
        World.from_env({**environment, "LOCAL_WORLD_SIZE": "many"})

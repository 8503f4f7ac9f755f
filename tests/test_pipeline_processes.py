"""Real ranks, real limits: gloo processes, a million samples, flat memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shards.dataset import ShardDataset
from tests.datasets import make_dataset

RANK_PROGRAM = """
import json, sys, time
import torch, torch.distributed as dist
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from pipeline.world import World
from shards.dataset import ShardDataset

world = World.from_env()
dist.init_process_group("gloo")
config = LoaderConfig(global_batch_size=4, drop_last=False, gather={"clip": "visible", "target": "masked"})
loader = ShardLoader(ShardDataset.open(sys.argv[1]), config, TubeMask(num_positions=16), world)
batches = []
for epoch in range(2):
    for batch in loader:
        if world.rank == 1:
            time.sleep(0.01)
        part = torch.stack([batch["index"], batch["visible"].sum(1)])
        parts = [torch.empty_like(part) for _ in range(world.size)]
        dist.all_gather(parts, part)
        batches.append(torch.cat(parts, 1).tolist())
if world.rank == 0:
    print(json.dumps(batches))
dist.destroy_process_group()
"""


def run_ranks(dataset: ShardDataset, program: Path, count: int) -> list[list[list[int]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), str(dataset.directory)],
            stdout=subprocess.PIPE,
            env={**os.environ, **common, "RANK": str(rank), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(count)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * count
    batches: list[list[list[int]]] = json.loads(outputs[0])
    return batches


@pytest.mark.slow
def test_two_and_four_gloo_ranks_one_of_them_slow_agree_and_finish(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set", num_samples=23, samples_per_shard=5)
    program = tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    runs = [run_ranks(dataset, program, count) for count in (1, 2, 4)]
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 12


MEMORY_PROGRAM = """
import sys
from pathlib import Path
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset

def anonymous_bytes():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssAnon")) * 1024

batch_size = int(sys.argv[2])
loader = ShardLoader(ShardDataset.open(sys.argv[1]), LoaderConfig(global_batch_size=batch_size, slabs=3, reader="mmap"))
before = anonymous_bytes()
sizes = []
for epoch in range(10):
    for batch in loader:
        del batch
    sizes.append(anonymous_bytes())
print(max(sizes) - before, sizes[-1] - sizes[2], 3 * loader._ring.num_bytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [32, 64, 128, 256])
def test_memory_is_bounded_by_slabs_and_flat_over_ten_epochs(tmp_path: Path, batch_size: int) -> None:
    dataset = make_dataset(tmp_path, num_samples=512, samples_per_shard=64)
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(dataset.directory), str(batch_size)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    grown, drift, slabs = map(int, result.stdout.split())
    assert grown < slabs + 300e6
    assert drift < 20e6

"""Shards that are overwritten, cut and replaced while a loader reads them, again and again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import make_dataset

ROOT = Path(__file__).parent.parent
READER = """
import sys
import numpy as np
from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.order.draws import TubeMask
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from tests.datasets import POSITIONS, tubes_sample

masked, verify = sys.argv[2] == "masked", sys.argv[3]
gather = {"clip": "visible", "target": "masked"} if masked else {}
config = LoaderConfig(global_batch_size=3, reader="mmap", threads=3, gather=gather, verify=verify)
loader = ShardLoader(ShardDataset.open(sys.argv[1]), config, TubeMask(num_positions=POSITIONS))
rows = errors = 0
for line in sys.stdin:  # one epoch, or as much of it as there is, for each
    try:
        for batch in loader:
            for row, number in enumerate(batch["index"].tolist()):
                sample = tubes_sample(number, dim=2048)
                for name, mask in (("clip", "visible"), ("target", "masked")):
                    expected = sample[name][batch[mask][row]] if masked else sample[name]
                    assert np.array_equal(batch[name][row].numpy(), expected), "a wrong row"
                rows += 1
            print("a batch", flush=True)
    except ShardError as error:
        errors += 1
        loader.close()
    print("an epoch", flush=True)
print(rows, errors, flush=True)
"""
NUM_OVERWRITES = 50


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["sample", "always"])
@pytest.mark.parametrize("masked", ["masked", "whole"])
def test_fifty_overwrites_in_place_while_reading_leave_no_core_and_no_wrong_row(
    tmp_path: Path, masked: str, verify: str
) -> None:
    dataset = make_dataset(tmp_path / "set", num_samples=24, dim=2048)
    paths = [dataset.tar_path(shard) for shard in range(dataset.num_shards)]
    kept = tmp_path / "kept"
    shutil.copytree(dataset.directory, kept)
    command = [sys.executable, "-c", READER, str(dataset.directory), masked, verify]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for number in range(NUM_OVERWRITES):
            reader.stdin.write("\n")
            reader.stdin.flush()
            reader.stdout.readline()  # in the middle of reading
            path, other = paths[number % 4], kept / paths[(number + 1) % 4].name
            if number % 3 == 0:
                os.truncate(path, number * 512)
            elif number % 3 == 1:
                subprocess.run(["cp", str(other), str(path)], check=True)
            else:
                shutil.copy(other, tmp_path / "aside")
                (tmp_path / "aside").replace(path)
            if number % 2:
                while reader.stdout.readline() == "a batch\n":
                    pass  # to the end of the epoch, or to the error
            subprocess.run(["cp", str(kept / path.name), str(path)], check=True)
        output, errors = reader.communicate(timeout=120)
    assert reader.returncode == 0, errors
    num_rows, num_errors = map(int, output.splitlines()[-1].split())
    assert num_rows > 0
    assert num_errors >= NUM_OVERWRITES / 4

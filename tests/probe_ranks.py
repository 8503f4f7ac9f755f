"""One rank of a linear probe: `torchrun --nproc-per-node N -m tests.probe_ranks DATASET OUT`."""

import json
import sys
from pathlib import Path

import torch

from evaluation.probe import ProbeConfig, probe
from evaluation.result import Result, Split
from model.st_jepa import STJEPAEncoder
from pipeline import DeviceLoader, LoaderConfig, ShardLoader, World
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.runs import MODEL
from training.distributed import process_group

FAST = ProbeConfig(epochs=5, batch_size=8, seeds=(0, 1))


def split(dataset: ShardDataset, world: World, batch_size: int = 4) -> Split:
    config = LoaderConfig(
        global_batch_size=batch_size, shuffle=False, drop_last=False, fields=("clip", "label"), threads=1
    )
    loader = ShardLoader(dataset, config, world=world)
    return Split(
        batches=DeviceLoader(loader, "cpu", normalize={"clip": IMAGENET}),
        digest=dataset.digest,
        label_names=dataset.manifest.label_names,
        key_of=dataset.key,
    )


def encoder() -> STJEPAEncoder:
    torch.manual_seed(0)
    return STJEPAEncoder(MODEL)


def run(dataset: ShardDataset, world: World) -> Result:
    return probe(encoder(), {"train": split(dataset, world), "val": split(dataset, world, 2)}, FAST, world)


def main() -> None:
    world = World.from_env()
    with process_group(world, torch.device("cpu")):
        result = run(ShardDataset.open(Path(sys.argv[1])), world)
    (Path(sys.argv[2]) / f"rank{world.rank}.json").write_text(json.dumps(result.to_json()))


if __name__ == "__main__":
    main()

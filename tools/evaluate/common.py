"""What the evaluations of frozen encoders share: arguments, encoder, data sets by role, and the files they leave."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.progress import Progress, untold

if TYPE_CHECKING:
    import torch

    from evaluation.encoder import Encoder
    from evaluation.result import Result, Split
    from pipeline.reads import Reads
    from pipeline.world import World
    from shards.dataset import ShardDataset

BATCH_SIZE = 32  # clips in a batch of all ranks; no number depends on it


def add_encoder_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare which encoder is measured, and on what device."""
    parser.add_argument(
        "--checkpoint",
        "--run",
        metavar="PATH_OR_ID",
        required=required,
        help="the frozen encoder: the folder of a run, a model.safetensors copied anywhere, or a VideoMAE (a folder "
        "made by save_pretrained, or its id on the Hub)",
    )
    parser.add_argument("--device", default="auto", help="such as cuda:0 (default: the first GPU, or the CPU)")
    parser.add_argument("--dtype", default="auto", help="of the encoder's arithmetic (auto: bfloat16 on a GPU)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"clips in a batch (default {BATCH_SIZE})")
    parser.add_argument("--threads", type=int, default=2, help="that read clips (default 2)")


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the result goes."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="write NAME.json and NAME.html there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the seed of whatever is drawn."""
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")


@dataclass(frozen=True)
class Bench:
    """An encoder and the data sets that it is measured on, opened and compared.

    Attributes:
        encoder: on its device.
        datasets: by role.
        world: the ranks.
        batch_size: clips in a batch of all ranks.
        threads: that read clips.
        views: what was found when the views were compared, for the terminal.
    """

    encoder: Encoder
    datasets: Mapping[str, ShardDataset]
    world: World
    batch_size: int
    threads: int
    views: str

    @contextlib.contextmanager
    def splits(
        self,
        fields: Sequence[str] = ("clip", "label"),
        *,
        roles: Sequence[str] | None = None,
        advance: Progress = untold,
    ) -> Iterator[dict[str, Split]]:
        """The data as evaluators read it: every sample once and in order, u8, on the encoder's device.

        Args:
            fields: what is read of a sample.
            roles: of the data sets; None for all.
            advance: told the number of samples after every batch.
        """
        from pipeline.reads import Reads

        with contextlib.ExitStack() as stack:
            found = {}
            for role in roles or self.datasets:
                found[role] = stack.enter_context(
                    self._split(self.datasets[role], Reads(fields=tuple(fields)), advance)
                )
            yield found

    @contextlib.contextmanager
    def _split(self, dataset: ShardDataset, reads: Reads, advance: Progress) -> Iterator[Split]:
        from evaluation.result import Split
        from pipeline.config import LoaderConfig
        from pipeline.device import DeviceLoader
        from pipeline.loader import ShardLoader
        from shards.format.views import view_hash

        config = LoaderConfig(
            global_batch_size=max(self.batch_size - self.batch_size % self.world.size, self.world.size),
            shuffle=False,
            drop_last=False,
            threads=self.threads,
            pin_memory=self.encoder.device.type == "cuda",
        )
        reads = dataclasses.replace(reads, held_out=True)
        loader = DeviceLoader(ShardLoader(dataset, config, world=self.world, reads=reads), self.encoder.device)
        with contextlib.closing(loader):
            yield Split(
                batches=Passes(loader, advance),
                digest=dataset.digest,
                label_names=dataset.manifest.label_names,
                key_of=dataset.key,
                view_hash=view_hash(dataset.manifest),
                about=dataset.metadata,
            )


class Passes:
    """Batches of a loader, as often as they are asked for; each pass is the whole data set."""

    def __init__(self, loader: Any, advance: Progress) -> None:
        self._loader, self._advance = loader, advance

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self._loader:
            num_valid = int(batch["valid"].sum())
            yield batch
            self._advance(num_valid)


@contextlib.contextmanager
def opened(args: argparse.Namespace, roles: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Bench]:
    """Join the ranks, load the encoder that the arguments name, and open the data sets of these roles.

    Args:
        args: of `add_encoder_arguments`, a path for each role, and the command's name as `name`.
        roles: the data sets that have to be given.
        optional: those that may be.

    Raises:
        ValueError: a role has no data set, the encoder does not load, or cannot take the clips.
        ShardError: the views of the data sets, or of what the encoder was trained on, differ.
    """
    from pipeline.world import World
    from shards.dataset import ShardDataset
    from tools.encoders import load_encoder
    from training.distributed import process_group, use_device

    for name in ("batch_size", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least 1")
    given = {role: getattr(args, role) for role in (*roles, *optional)}
    paths = {role: path for role, path in given.items() if path is not None}
    if not set(roles) <= set(paths):
        wanted = " and ".join(f"--{role} SET" for role in roles)
        raise ValueError(f"`evaluate {args.name}` needs {wanted}, given is {' and '.join(paths) or 'none'}")
    world = World.from_env()
    device = choose_device(args.device, world)
    use_device(device)
    with process_group(world, device):
        encoder = load_encoder(args.checkpoint, device=device, dtype=args.dtype, overrides=args.overrides)
        datasets = {role: ShardDataset.open(path) for role, path in paths.items()}
        for dataset in datasets.values():
            refuse_other_clips(encoder, dataset)
        views = compare_views(encoder, datasets.values())
        yield Bench(encoder, datasets, world, args.batch_size, args.threads, views)


def choose_device(name: str, world: World) -> torch.device:
    """The device of a name; of several GPUs, "auto" and "cuda" are the rank's own."""
    import torch

    place = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    return torch.device("cuda", world.local_rank) if place.type == "cuda" and place.index is None else place


def refuse_other_clips(encoder: Encoder, dataset: ShardDataset) -> None:
    """Compare the clips of a data set with those that an encoder takes.

    Raises:
        ValueError: it has none, or others.
    """
    from shards.builder.samples.stored import frames_shape

    there = frames_shape(dataset.schema["clip"]) if "clip" in dataset.schema else None
    _, frames, height, width = encoder.clip_shape
    if there is None:
        raise ValueError(f"{dataset.directory} has no clips; it has {', '.join(dataset.schema.names)}")
    if there != (frames, height, width, 3):
        raise ValueError(
            f"the clips of {dataset.directory} are {list(there)} ([T, H, W, 3]), {encoder.name} takes "
            f"{[frames, height, width, 3]}: build a set with its view"
        )


def compare_views(encoder: Encoder, datasets: Any) -> str:
    """Compare the views of data sets, and of what an encoder was trained on, where it is known.

    Raises:
        ShardError: they differ; both are named.
    """
    from shards.format.views import refuse_other_views, view_hash

    views = {str(dataset.directory): view_hash(dataset.manifest) for dataset in datasets}
    if encoder.view_hash is not None:
        views[f"the data of {encoder.name}"] = encoder.view_hash
    return refuse_other_views(views)


def publish(
    args: argparse.Namespace, world: World, results: Mapping[str, Result], *, title: str, lines: Sequence[str]
) -> None:
    """Print results and write them where the arguments say; one rank speaks for all.

    Args:
        args: of `add_result_arguments`, and the command's name as `name`.
        world: the ranks.
        results: by what they are called, the one that it is about first.
        title: of the page.
        lines: for the terminal.
    """
    from tools.terminal import clean

    if world.rank != 0:
        return
    record = as_record(args.name, title, results)
    written = [] if args.out is None else write_results(args.out, args.name, record)
    if args.json:
        print(json.dumps(record))
        return
    for line in [*lines, *(f"written to {path}" for path in written)]:
        print(clean(line))


def as_record(name: str, title: str, results: Mapping[str, Result]) -> dict[str, Any]:
    """Results as `NAME.json` has them, with the versions that made them."""
    from tools.revision import git_revision, package_versions

    return {
        "evaluation": name,
        "title": title,
        "results": {called: result.to_json() for called, result in results.items()},
        "git_revision": git_revision(),
        "versions": package_versions(),
    }


def write_results(out: Path, name: str, record: Mapping[str, Any]) -> list[Path]:
    """Write `NAME.json`; the result is which files were written."""
    from shards.format.publish import publish_json

    out.mkdir(parents=True, exist_ok=True)
    publish_json(out / f"{name}.json", record)
    return [out / f"{name}.json"]

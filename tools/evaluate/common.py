"""What the evaluations of frozen encoders share: arguments, encoder, data sets by role, and the files they leave."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from shards.progress import Progress, untold
from tools.datasets import CACHE_OPTIONS, add_cache_arguments, cache_of

if TYPE_CHECKING:
    import torch

    from evaluation.encoder import Encoder
    from evaluation.result import Result, Split
    from pipeline.world import World
    from shards.cache.folder import Cache
    from shards.dataset import ShardDataset
    from tools.pages.html import Html
    from tools.pages.results import Published
    from tools.systems.base import Recipe

    FindSets = Callable[[Encoder, World], Mapping[str, Path]]

BATCH_SIZE = 32  # clips in a batch of all ranks
PRECISIONS = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as recipes spell them


def add_encoder_arguments(parser: argparse.ArgumentParser, *, reading: bool = True) -> None:
    """Declare which encoder is measured, on what device, and, with `reading`, how clips are read."""
    parser.add_argument(
        "--checkpoint",
        "--run",
        metavar="PATH_OR_ID",
        required=True,
        help="the frozen encoder: the folder of a run, a model.safetensors copied anywhere, or a VideoMAE (a folder "
        "made by save_pretrained, or its id on the Hub)",
    )
    parser.add_argument("--device", default="auto", help="such as cuda:0 (default: the first GPU, or the CPU)")
    parser.add_argument(
        "--dtype", default="auto", help="of the encoder's arithmetic (auto: on a GPU bfloat16, or float16 without it)"
    )
    if not reading:
        return
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"clips in a batch (default {BATCH_SIZE})")
    parser.add_argument("--threads", type=int, help="that read clips (default: one a core, 8 at most)")


def add_set_arguments(parser: argparse.ArgumentParser, **roles: str) -> None:
    """Declare the data sets that are read: a role and what it is for, each."""
    for role, what in roles.items():
        parser.add_argument(f"--{role}", type=Path, metavar="SET", help=f"{what}; a folder or its URL")
    add_cache_arguments(parser)


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the result goes."""
    parser.add_argument("--out", type=result_folder, metavar="DIR", help="write NAME.json and NAME.html there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")


def result_folder(text: str) -> Path:
    """The folder of an argument, which need not be there; a file is refused before any work."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder, and results are several files: give a folder")
    return path


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
        threads: that read clips; None takes one a core.
        views: what was found when the views were compared, for the terminal.
        recipe: of the run or the weights; None of a published model.
    """

    encoder: Encoder
    datasets: Mapping[str, ShardDataset]
    world: World
    batch_size: int
    threads: int | None
    views: str
    recipe: Recipe | None = None

    @contextlib.contextmanager
    def splits(
        self,
        fields: Sequence[str] = ("clip", "label"),
        *,
        advance: Progress = untold,
        shuffled: Mapping[str, int] = MappingProxyType({}),
    ) -> Iterator[dict[str, Split]]:
        """The data as evaluators read it: u8, on the encoder's device, every sample once and in order.

        Args:
            fields: what is read of a sample.
            advance: told the number of samples after every batch.
            shuffled: role -> seed of a data set that every pass reads in another order.
        """
        with contextlib.ExitStack() as stack:
            yield {
                role: stack.enter_context(self._split(dataset, fields, shuffled.get(role), advance))
                for role, dataset in self.datasets.items()
            }

    @contextlib.contextmanager
    def _split(
        self, dataset: ShardDataset, fields: Sequence[str], seed: int | None, advance: Progress
    ) -> Iterator[Split]:
        from pipeline.accelerator import accelerator_of
        from pipeline.config import LoaderConfig
        from pipeline.device import DeviceLoader
        from pipeline.loader import ShardLoader
        from pipeline.reads import Reads
        from tools.splits import split_of

        config = LoaderConfig(
            global_batch_size=max(self.batch_size - self.batch_size % self.world.size, self.world.size),
            shuffle=seed is not None,
            seed=seed or 0,
            drop_last=False,
            threads=self.threads,
        )
        reads, accelerator = Reads(fields=tuple(fields), held_out=seed is None), accelerator_of(self.encoder.device)
        loader = ShardLoader(dataset, config, world=self.world, reads=reads, accelerator=accelerator)
        with contextlib.closing(DeviceLoader(loader, accelerator)) as batches:
            yield split_of(dataset, batches, advance)


@contextlib.contextmanager
def opened(args: argparse.Namespace, roles: Sequence[str]) -> Iterator[Bench]:
    """Join the ranks, load the encoder that the arguments name, and open the data sets of these roles.

    Args:
        args: of `add_encoder_arguments` and `add_set_arguments`, and the command's name as `name`.
        roles: the data sets that have to be given.

    Raises:
        ValueError: a role has no data set, a value is not allowed, the encoder does not load, or cannot take the clips.
        ShardError: the views of the data sets, or of what the encoder was trained on, differ.
    """
    from shards.dataset import ShardDataset

    given = {role: getattr(args, role) for role in roles}
    paths = {role: path for role, path in given.items() if path is not None}
    if not set(roles) <= set(paths):
        wanted = " and ".join(f"--{role} SET" for role in roles)
        raise ValueError(f"`evaluate {args.name}` needs {wanted}, given is {' and '.join(paths) or 'none'}")
    cache = cache_of(args)
    for path in paths.values():  # a wrong path is said before an encoder is fetched
        ShardDataset.open(path, cache)
    with joined(args, lambda encoder, world: paths, cache) as bench:
        yield bench


@contextlib.contextmanager
def joined(args: argparse.Namespace, find: FindSets, cache: Cache | None = None) -> Iterator[Bench]:
    """As `opened`, with data sets that are found, or made, once the encoder is known.

    Args:
        args: of `add_encoder_arguments`.
        find: gets the encoder and the ranks, and gives the folders of the data sets by role, on every rank the same.
        cache: of those that are URLs.
    """
    from pipeline.world import World
    from shards.dataset import ShardDataset
    from tools.encoders import load_encoder, recipe_behind
    from tools.evaluate.fits import compare_views, refuse_other_clips
    from training.distributed import process_group, use_device

    refuse_small_numbers(args)
    world, recipe = World.from_env(), recipe_behind(args.checkpoint, args.overrides)
    train = None if recipe is None else recipe.train
    dtype = args.dtype if train is None or args.dtype != "auto" else PRECISIONS[train.precision]
    device = choose_device(args.device if train is None or args.device != "auto" else train.device, world)
    use_device(device)
    with process_group(world, device):
        encoder = load_encoder(args.checkpoint, device=device, dtype=dtype, overrides=args.overrides)
        datasets = {role: ShardDataset.open(path, cache) for role, path in find(encoder, world).items()}
        for dataset in datasets.values():
            refuse_other_clips(encoder, dataset)
        views = compare_views(encoder, datasets.values())
        yield Bench(encoder, datasets, world, args.batch_size, args.threads, views, recipe)


def refuse_small_numbers(args: argparse.Namespace) -> None:
    """Refuse a batch or a number of threads below 1, and values of the recipe that these arguments stand for.

    Raises:
        ValueError: it says which.
    """
    for name in ("batch_size", "threads"):
        if (given := getattr(args, name)) is not None and given < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {given}; give at least 1")
    if unused := [each for each in args.overrides if each.startswith("--data.")]:
        allowed = ", ".join(("--batch-size", "--threads", *CACHE_OPTIONS))
        raise ValueError(f"{unused[0]} has no effect here: how sets are read is said by {allowed}")


def choose_device(name: str, world: World) -> torch.device:
    """The device of a name; of several GPUs, "auto" and "cuda" are the rank's own, and a twin is the CPU it runs on."""
    import torch

    from pipeline.accelerator import TWINS

    if name in TWINS:
        return torch.device("cpu")
    place = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    return torch.device("cuda", world.local_rank) if place.type == "cuda" and place.index is None else place


def publish(
    args: argparse.Namespace,
    world: World,
    results: Mapping[str, Result],
    *,
    title: str,
    lines: Sequence[str],
    more: Mapping[str, Any] = MappingProxyType({}),
    published: Sequence[Published] = (),
) -> None:
    """Print results and write them where the arguments say; one rank speaks for all.

    Args:
        args: of `add_result_arguments`, and the command's name.
        world: the ranks.
        results: by what they are called, the one that it is about first.
        title: of the page.
        lines: for the terminal.
        more, published: further entries of the JSON; numbers of others for the page.
    """
    from tools.terminal import clean

    if world.rank != 0:
        return
    record = {**more, **as_record(args.name, title, results)}
    written = [] if args.out is None else write_results(args.out, record, results, published)
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


def write_results(
    out: Path,
    record: Mapping[str, Any],
    results: Mapping[str, Result],
    published: Sequence[Published] = (),
    exhibits: Sequence[Html] = (),
) -> list[Path]:
    """Write `NAME.json`, which is what `as_record` gave, and its page `NAME.html`; the result is the files."""
    from shards.format.publish import publish_json
    from tools.pages.results import write_result_page

    out.mkdir(parents=True, exist_ok=True)
    json_path, page_path = (out / f"{record['evaluation']}.{suffix}" for suffix in ("json", "html"))
    publish_json(json_path, record)
    write_result_page(page_path, str(record["title"]), results, published, exhibits)
    return [json_path, page_path]

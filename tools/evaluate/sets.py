"""Data sets that an evaluation builds from a download folder, in the view of its encoder, and finds again."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.evaluate.common import Bench, joined

if TYPE_CHECKING:
    from evaluation.encoder import Encoder
    from model.text_teacher import CLIPTextTeacher
    from pipeline.world import World
    from shards.builder import Source, ViewSpec
    from shards.dataset import ShardDataset

WORK = Path("reelshard_sets")
Finish = Callable[[Mapping[str, Path]], None]
WAIT = timedelta(days=14)  # of the other ranks for the one that builds
TEXT_BATCH = 256  # captions in one call; it shapes the bits
# What two CLIPs may differ in and still give the same embeddings, but for rounding: where they ran.
SAME_TEXT = ("weights_sha256", "tokenizer_sha256", "max_tokens")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A data set to be built.

    Attributes:
        name: of its folder, such as "ucf101-1-test"; the view is added to it.
        split: as its shards are called.
        open: opens its source.
    """

    name: str
    split: str
    open: Callable[[], Source]


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where data sets are built, and by how many."""
    parser.add_argument(
        "--work",
        type=Path,
        default=WORK,
        metavar="DIR",
        help=f"folder of the data sets that are built; kept, found again and gone on with (default ./{WORK})",
    )
    parser.add_argument("--workers", type=int, help="decoders at work at once (default: one per CPU)")


@contextmanager
def built(
    args: argparse.Namespace, wanted: Mapping[str, Wanted], finish: Finish = lambda paths: None
) -> Iterator[Bench]:
    """Join the ranks, load the encoder, have one rank build its data sets, and open them.

    Args:
        args: of `add_encoder_arguments` and `add_work_arguments`.
        wanted: by role.
        finish: does what else there is to do with the folders of the data sets, by role; on the rank that builds.

    Raises:
        ValueError: the encoder does not load, or a value is not allowed.
        MissingDataError: a download is not there.
        ShardError: a data set cannot be built, or is another than before.
    """

    from pipeline.world import World

    # A wrong path is said before an encoder is fetched.
    sources = {role: each.open() for role, each in wanted.items()} if World.from_env().rank == 0 else {}

    def find(encoder: Encoder, world: World) -> dict[str, Path]:
        paths = {role: args.work / f"{each.name}-{view_of(encoder).hash[:8]}" for role, each in wanted.items()}
        with rank_zero_first(world) as builds:
            if builds:
                build_sets(encoder, wanted, sources, paths, args.workers)
                finish(paths)
        return paths

    with joined(args, find) as bench:
        yield bench


def view_of(encoder: Encoder) -> ViewSpec:
    """The view that an encoder was trained on; where nobody wrote it down, frames of its size from the whole video.

    Raises:
        ShardError: it is another version's.
        ValueError: only its hash was written down, and it is another view than this.
    """
    from shards.builder import ViewSpec

    _, frames, height, _ = encoder.clip_shape
    if encoder.view_hash is not None and encoder.view is not None:
        return ViewSpec.from_json(encoder.view)
    view = ViewSpec(num_frames=frames, size=height)
    if encoder.view_hash not in (None, view.hash):
        raise ValueError(
            f"{encoder.name} says of its view only the hash {str(encoder.view_hash)[:8]}, as runs of earlier versions "
            "do, so no clips can be cut for it; build sets by its recipe and use `evaluate probe`"
        )
    return view


def build_sets(
    encoder: Encoder,
    wanted: Mapping[str, Wanted],
    sources: Mapping[str, Source],
    paths: Mapping[str, Path],
    workers: int | None,
) -> None:
    """Build what is not there yet; what was stopped goes on.

    Args:
        encoder: whose view the clips are cut by.
        wanted, sources: by role.
        paths: the folders of the data sets, by role.
        workers: decoders at work at once; None for one a CPU.

    Raises:
        ShardError: none of its videos can be used, or the disk is too small.
    """
    view = view_of(encoder)
    if encoder.view_hash is None:
        say(f"{encoder.name} says no view; clips are {view.num_frames} frames of the whole video, {view.size} px")
    _refuse_small_disk(sources, paths, view)
    for role, source in sources.items():
        _build(source, paths[role], wanted[role].split, view, workers)


def _refuse_small_disk(sources: Mapping[str, Source], paths: Mapping[str, Path], view: ViewSpec) -> None:
    from shards.builder import BuildConfig, ClipKind
    from shards.builder.readiness import sample_bytes
    from shards.format.errors import ShardError
    from shards.words import spell_bytes

    each = sample_bytes(ClipKind.of(view, BuildConfig(layout="frames")).schema(None))
    needed = 0
    for role, source in sources.items():
        path = paths[role]
        size = len(source.items) * each
        there = sum(tar.stat().st_size for tar in path.glob("*.tar"))
        say(f"{path}: {len(source.items):,} videos, up to {spell_bytes(size)}, {spell_bytes(there)} there already")
        needed += max(0, size - there)
    folder = next(path.absolute().parent for path in paths.values())
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ShardError(
            f"the data sets need up to {spell_bytes(needed)} more, {existing} has {spell_bytes(free)} free; give a "
            "folder on a larger disk as --work"
        )


def _build(source: Source, out: Path, split: str, view: ViewSpec, workers: int | None) -> None:
    from shards.builder import BuildConfig, build_dataset
    from shards.format.errors import ShardError
    from tools.progress import track

    for note in source.notes:
        say(note)
    config = BuildConfig(layout="frames", workers=workers)
    with track(f"building {out.name}", total=len(source.items), unit="clips") as advance:
        summary = build_dataset(source, out, view, config, split=split, progress=advance)
    if summary.num_failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.failures.items())
        say(f"{out}: {summary.num_failed} of {summary.num_planned} videos left out ({reasons}); see failures.jsonl")
    if not summary.num_samples:
        raise ShardError(f"{out}: not one of {summary.num_planned} videos can be used; see failures.jsonl there")


def refuse_no_clip(text: str) -> None:
    """Look at the configuration of a CLIP, before anything is built for it.

    Raises:
        ValueError: there is none, or it is another kind of model.
    """
    from model.teacher import TeacherConfig
    from model.teachers import teacher_sees

    if teacher_sees(TeacherConfig(id=text, projection_dim=None)) != "text":
        raise ValueError(f"--text {text} is no CLIP, which embeds captions; give its id on the Hub, or its folder")


def add_captions(paths: Mapping[str, Path], field: str, text: str, device: str) -> None:
    """Embed all captions of data sets by one CLIP, as the field group `field`, where they are not yet.

    Raises:
        ValueError: there is no such CLIP.
        ShardError: a data set holds the embeddings of another one.
    """
    from model.teacher import TeacherConfig
    from model.teachers import load_teacher

    config = TeacherConfig(id=text, projection_dim=None, dtype="float32")  # in another one its digest is another
    teacher: Any = load_teacher(config, device)
    for path in paths.values():
        _add_captions(path, field, teacher)


def _add_captions(path: Path, field: str, teacher: CLIPTextTeacher) -> None:
    from shards.builder import BuildConfig, InProcess
    from shards.builder.add_group import add_teacher_group
    from shards.dataset import ShardDataset
    from shards.format.errors import ShardError
    from tools.progress import track

    dataset = ShardDataset.open(path)
    if field in dataset.manifest.groups:
        held, asked = text_encoder_of(dataset, field), teacher.provenance
        if any(held.get(name) != asked[name] for name in SAME_TEXT):
            raise ShardError(
                f"{path} holds captions as {held.get('id')} embeds them, asked for is {asked['id']} with other weights "
                f"or another tokenizer: `reelshard drop-field {path} --name {field}`, or give another --work"
            )
        return
    config = BuildConfig(teacher_batch=TEXT_BATCH, time_limit_seconds=None)
    with track(f"captions of {path.name}", total=len(dataset), unit="videos") as advance:
        add_teacher_group(dataset, field, InProcess(teacher), config, progress=advance)


def text_encoder_of(dataset: ShardDataset, field: str) -> Mapping[str, Any]:
    """What a data set says of who has embedded its captions."""
    teacher: Mapping[str, Any] = dataset.manifest.about(field).get("teacher") or {}
    return teacher


def failures_of(datasets: Mapping[str, ShardDataset]) -> dict[str, int]:
    """Videos that could not be used, by role."""
    return {role: sum(dataset.manifest.failures.values()) for role, dataset in datasets.items()}


@contextmanager
def rank_zero_first(world: World) -> Iterator[bool]:
    """Have one rank do what the block does, and the others wait until it is done; says whether this is the one."""
    import torch.distributed as dist

    if world.size == 1:
        yield True
        return
    waiting = dist.new_group(backend="gloo", timeout=WAIT)
    yield world.rank == 0
    dist.barrier(group=waiting)


def say(line: str) -> None:
    """A line for the user, on stderr."""
    from tools.terminal import clean

    sys.stderr.write(f"reelshard: {clean(line)}\n")

"""What the systems share that learn from SA-V: frames, masks of their objects, and a SAM3's features of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from model.sam3_teacher import Sam3TeacherConfig
from pipeline.order.windows import Choice, Window
from pipeline.read.decoders import JpegFrames
from pipeline.read.masks import FrameMasks
from pipeline.reads import Reads
from shards.builder.config import BuildConfig
from shards.builder.decode.view import ViewSpec
from shards.builder.samples.sav import SAV_VIEW, SavKind
from shards.format.beside import teacher_of
from tools.systems.base import Feed, Recipe, System

if TYPE_CHECKING:
    from model.sam3_teacher import Sam3Teacher
    from shards.builder import SampleKind, Source
    from shards.dataset import ShardDataset

# SA-V does not say what its objects are, so that a prompt names them all.
PROMPTS = ("objects in the video", "all objects", "segment everything", "things and stuff")
LONGEST_SECONDS = 300.0  # of a decoder for one video: some are of 4K, with hundreds of objects
USUAL_FRAMES, USUAL_CHANNELS, CELL = 80, 256, 28  # annotated frames of a video; values and pixels of a cell


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What the student remembers.

    Attributes:
        num_context: T, annotated frames before the query; 0 is image mode.
    """

    num_context: int = 8

    def __post_init__(self) -> None:
        if self.num_context < 0:
            raise ValueError(f"memory.num_context is {self.num_context}; give 0 for image mode, or more")


@dataclass(frozen=True, kw_only=True)
class ObjectsConfig:
    """The objects of a frame that the student learns from.

    Attributes:
        most: of more objects, so many are drawn.
        mask_size: pixels of a side of their masks.
        prompts: what it is asked, one of these a sample.
    """

    most: int = 20
    mask_size: int = 144
    prompts: tuple[str, ...] = PROMPTS

    def __post_init__(self) -> None:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError(f"objects.prompts is {list(self.prompts)}; give at least one text, none of them empty")
        for name in ("most", "mask_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"objects.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SavRecipe(Recipe):
    """A resolved recipe of a student of SA-V.

    Attributes:
        build: how shards are made; `teacher_batch` counts frames.
        view: how frames are cut out, and the quality of their JPEGs.
        teacher: who makes the features.
        memory: what the student remembers.
        objects: what it learns from, and what it is asked.
    """

    build: BuildConfig = field(
        default_factory=lambda: BuildConfig(teacher_batch=4, samples_per_shard=16, time_limit_seconds=LONGEST_SECONDS)
    )
    view: ViewSpec = field(default_factory=lambda: SAV_VIEW)
    teacher: Sam3TeacherConfig = field(default_factory=Sam3TeacherConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)


S_contra = TypeVar("S_contra", bound=SavRecipe, contravariant=True)


class SavSystem(System[S_contra], Protocol[S_contra]):
    """A student of SA-V: what is left to say is its model, its objective and how it is scored."""

    def open_source(self, recipe: S_contra, videos: Path, annotations: Path | None, split: str) -> Source:
        """SA-V as Meta gives it out.

        Raises:
            ValueError: annotations are named, which lie beside the videos.
        """
        from shards.builder import open_source

        return open_source(videos, annotations, split, source="sav")

    def sample_kind(self, recipe: S_contra) -> SampleKind:
        """Features, frames and masks of videos with a query and its context."""
        least = recipe.memory.num_context + 1
        return SavKind(view=recipe.view, decoder=recipe.build.decoder, least_frames=least)

    def make_teacher(self, recipe: S_contra, device: str) -> Sam3Teacher | None:
        """The recipe's SAM3; None for the id 'none'."""
        if recipe.teacher.id == "none":
            return None
        from model.sam3_teacher import load_sam3_teacher

        return load_sam3_teacher(recipe.teacher, device)

    def check_build(self, recipe: S_contra, *, look: bool = True) -> None:
        """Compare the teacher's pictures with the view's.

        Raises:
            ValueError: they differ in size.
        """
        del look
        if recipe.teacher.image_size != recipe.view.size:
            raise ValueError(
                f"teacher.image_size is {recipe.teacher.image_size}, view.size {recipe.view.size}: give both one value"
            )

    def target_bytes(self, recipe: S_contra) -> int:
        """f16 features of a video of the usual length."""
        if recipe.teacher.id == "none":
            return 0
        cells = -(-recipe.view.size // (CELL >> (3 - recipe.teacher.level)))
        return 2 * USUAL_FRAMES * USUAL_CHANNELS * cells**2

    def feed(self, recipe: S_contra, dataset: ShardDataset, source: str = "") -> Feed:
        """A query frame with its objects, the features of the frames before it, and a prompt's number.

        `frames` u8 `[B, 1, 3, H, W]`; `fpn` f16 `[B, T, C, h, w]`, with T = 0 the query's own `[B, 1, C, h, w]`;
        `object_masks`, `object_boxes`, `num_objects` and `num_lost` as of `FrameMasks`; `prompt` i64 `[B]`; and what
        was drawn, `query` i64 `[B, 1]` and `context` i64 `[B, T]`.

        Raises:
            ValueError: the set holds no such samples, others than the recipe's, or a video that is too short.
        """
        refuse_other_sets(dataset, recipe)
        side, objects, num_context = recipe.view.size, recipe.objects, recipe.memory.num_context
        window, prompt = Window("frames", num_context), Choice("prompt", len(objects.prompts))
        masks = FrameMasks(stored=side, size=objects.mask_size, most=objects.most)
        drawn = {"fpn": "context" if num_context else "query", "frames": "query", "masks": "query"}
        reads = Reads(
            fields=("fpn", "frames", "masks"),
            gather=drawn,
            draws=(window, prompt),
            decoders={"frames": JpegFrames(side, side, channels_first=True), "masks": masks},
            single=("masks",),
        )
        shapes: dict[str, tuple[int | None, ...]] = {name: shape for name, (_, shape) in masks.outputs.items()}
        shapes |= {"frames": (1, 3, side, side), "fpn": (max(1, num_context), *dataset.schema["fpn"].row_shape)}
        return Feed(reads=reads, shapes=shapes | window.shapes | prompt.shapes)

    def as_kept(self, recipe: S_contra) -> SavRecipe:
        """A teacher's folder by its last part."""
        return replace(recipe, teacher=replace(recipe.teacher, id=recipe.teacher.name))

    def describe(self, recipe: S_contra, dataset: ShardDataset) -> Mapping[str, str]:
        """Whose features the data set holds; where it is another teacher than the recipe's, that is said."""
        fpn = dataset.schema["fpn"]
        teacher = teacher_of(dataset.manifest, fpn.group)
        shape = " x ".join(map(str, fpn.row_shape))
        if teacher is None:
            return {"features": f"{shape} a frame, of a teacher that the data set does not name"}
        other = "" if teacher.get("id") == recipe.teacher.name else f"; the recipe's teacher is {recipe.teacher.name}"
        return {"features": f"{shape} a frame, level {teacher.get('level')} of {teacher.get('id')}{other}"}


def refuse_other_sets(dataset: ShardDataset, recipe: SavRecipe) -> None:
    """Compare a data set with what the recipe reads; looks at sidecars.

    Raises:
        ValueError: it holds other samples, no features, frames of another size, or a video that is too short.
    """
    provenance = dataset.manifest.provenance
    about, view = provenance.get("sample"), provenance.get("view")
    if not isinstance(about, Mapping) or about.get("kind") != "sav":
        raise ValueError(f"{dataset.place} holds no videos with masks: build it by this recipe")
    size = view.get("size") if isinstance(view, Mapping) else None
    if size != recipe.view.size:
        raise ValueError(
            f"{dataset.place} holds frames of {size} px, the recipe's view is of {recipe.view.size} px: build it "
            "by this recipe, or change view.size"
        )
    if "fpn" not in dataset.schema:
        add = f"reelshard add-field {dataset.place} --name fpn --teacher {recipe.teacher.name}"
        raise ValueError(f"{dataset.place} was built without a teacher, so it has no features: add them by `{add}`")
    least, lengths = recipe.memory.num_context + 1, dataset.lengths("frames")
    if len(lengths) and int(lengths.min()) < least:
        number = int(lengths.argmin())
        raise ValueError(
            f"{dataset.place}: sample {dataset.key(number)} has {lengths[number]} frames, a query and its context "
            f"take {least}: build it by this recipe, or lower memory.num_context"
        )

"""What the systems share whose samples are a clip and a teacher's tokens for it, on one grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evaluation.knn import KNNConfig, knn
from evaluation.probe import ProbeConfig, probe
from model.grid import GridConfig
from model.teacher import TeacherConfig
from pipeline.reads import Reads
from shards.builder.decode.view import ViewSpec
from shards.builder.samples.clip import ClipKind
from shards.format.beside import teacher_of
from shards.format.pixels import IMAGENET
from tools.systems.base import Evaluation, Feed, Recipe, System
from tools.systems.clip_probe import ROLES, ProbeReport

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model.teacher import VideoMAETeacher
    from pipeline.order.draws import Mask
    from shards.builder import SampleKind
    from shards.dataset import ShardDataset
    from shards.progress import Progress


class Masked(Protocol):
    """What these systems' objectives are configured with, among other things."""

    @property
    def mask_ratio(self) -> float:
        """Share of what is hidden from the student."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClipRecipe(Recipe):
    """A resolved recipe of a student of clips and their targets.

    Attributes:
        view: how a clip is cut out of a video.
        teacher: who makes the targets.
        model: the student.
        objective: what it is trained to do.
        evaluate: the probe.
    """

    view: ViewSpec = field(default_factory=ViewSpec)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    model: GridConfig
    objective: Masked
    evaluate: ProbeConfig = field(default_factory=ProbeConfig)


C_contra = TypeVar("C_contra", bound=ClipRecipe, contravariant=True)


def feed_of_clips(recipe: ClipRecipe, dataset: ShardDataset) -> Feed:
    """Whole clips with their labels, for a probe.

    Raises:
        ValueError: the data set's clips are not of the model's geometry.
    """
    refuse_other_geometry(dataset, recipe.model, fields=("clip",))
    return Feed(reads=Reads(fields=("clip", "label")), normalize={"clip": IMAGENET})


def encoder_of(objective: nn.Module) -> nn.Module:
    """The encoder of an objective's student."""
    student: Any = objective.student
    encoder: nn.Module = student.encoder
    return encoder


EVALUATORS = {
    "probe": Evaluation(
        measure=probe,
        feed=feed_of_clips,
        config=lambda recipe: recipe.evaluate,
        model=encoder_of,
        roles=ROLES,
        with_untrained=True,
        report=ProbeReport.of,
    ),
    "knn": Evaluation(
        measure=knn,
        feed=feed_of_clips,
        config=lambda recipe: KNNConfig(ks=(1,), temperature=None),
        model=encoder_of,
        roles=ROLES,
    ),
}


class ClipSystem(System[C_contra], Protocol[C_contra]):
    """A student of clips: what is left to say are its objective, its mask, and what the mask leaves to be read."""

    evaluators: Mapping[str, Evaluation] = EVALUATORS

    def mask(self, recipe: C_contra) -> Mask:
        """What is hidden from the student; draws `visible` and `masked`."""
        ...

    def gather(self, recipe: C_contra) -> Mapping[str, str]:
        """Which part of a field in the tubes layout the mask leaves to be read."""
        ...

    def sample_kind(self, recipe: C_contra) -> SampleKind:
        """Clips of the view."""
        return ClipKind.of(recipe.view, recipe.build)

    def feed(self, recipe: C_contra, dataset: ShardDataset, source: str = "") -> Feed:
        """Clips and targets, with the mask; of tubes, only what the mask leaves to be read.

        Raises:
            ValueError: the data set's clips or targets are not of the model's geometry, or its targets are projected
                and the recipe wants the teacher's own values, or the other way round.
        """
        refuse_other_geometry(dataset, recipe.model)
        refuse_other_projection(dataset, recipe)
        mask = self.mask(recipe)
        gather = self.gather(recipe) if dataset.schema["clip"].layout == "tubes" else {}
        shapes: dict[str, tuple[int | None, ...]] = dict(mask.shapes)
        for name in ("clip", "target"):
            shape = dataset.schema[name].shape or ()
            shapes[name] = (*mask.shapes[gather[name]], *shape[1:]) if name in gather else shape
        reads = Reads(fields=("clip", "target"), gather=gather, draws=(mask,))
        return Feed(reads=reads, shapes=shapes)  # the student takes bytes

    def make_teacher(self, recipe: C_contra, device: str) -> VideoMAETeacher | None:
        """The recipe's VideoMAE; None for the id 'none'."""
        return load_teacher(recipe.teacher, device)

    def check_build(self, recipe: C_contra, *, look: bool = True) -> None:
        """Compare the width of the targets with what the student is to learn.

        Raises:
            ValueError: the widths differ, or there is no such teacher.
        """
        refuse_other_width(recipe.teacher, recipe.model.target_dim, look=look)

    def target_bytes(self, recipe: C_contra) -> int:
        """f16 tokens of the student's width."""
        if recipe.teacher.id == "none":
            return 0
        tokens = math.prod(recipe.view.clip_shape[:3]) // (recipe.build.tubelet * recipe.build.patch**2)
        return tokens * recipe.model.target_dim * 2

    def as_kept(self, recipe: C_contra) -> ClipRecipe:
        """A teacher's folder by its last part."""
        return replace(recipe, teacher=replace(recipe.teacher, id=recipe.teacher.name))

    def describe(self, recipe: C_contra, dataset: ShardDataset) -> Mapping[str, str]:
        """Whose values the data set holds; where it is another teacher than the recipe's, that is said."""
        target = dataset.schema["target"]
        width = (target.shape or (0,))[-1]
        teacher = teacher_of(dataset.manifest, target.group)
        if teacher is None:
            return {"targets": f"{width} wide, of a teacher that the data set does not name"}
        kind = "the own values" if teacher.get("projection") is None else "projected"
        other = "" if teacher.get("id") == recipe.teacher.name else f"; the recipe's teacher is {recipe.teacher.name}"
        return {"targets": f"{width} wide, {kind} of {teacher.get('id')}{other}"}

    def encoder(self, objective: nn.Module) -> nn.Module:
        """The student's encoder."""
        return encoder_of(objective)

    def synthesize(self, recipe: C_contra, directory: Path, num_samples: int, progress: Progress) -> None:
        """Noise in the tubes layout, of the model's grid and width."""
        from tools.bench.synthesize import synthesize

        synthesize(directory, num_samples, grid=recipe.model, progress=progress)

    def check_batch(self, recipe: C_contra, batch: Mapping[str, Tensor]) -> None:
        """Whether the mask covers the clip.

        Raises:
            ValueError: it does not.
        """
        model, covered = recipe.model, batch["visible"].shape[1] + batch["masked"].shape[1]
        if covered not in (model.num_positions, model.num_tokens):
            raise ValueError(f"the mask covers {covered} places of {model.num_positions} or {model.num_tokens}")

    def rehearsals(self, recipe: C_contra) -> Mapping[str, Callable[[ShardDataset, int], str]]:
        """Whether whole clips are the video that other code expects."""
        return {"video": lambda dataset, num_clips: whole_video(recipe, dataset, num_clips)}


def load_teacher(config: TeacherConfig, device: str) -> VideoMAETeacher | None:
    """Load a VideoMAE on a device; None for the id 'none'."""
    if config.id == "none":
        return None
    from model.teacher import load_videomae_teacher

    return load_videomae_teacher(config, device)


def refuse_other_width(teacher: TeacherConfig, wanted: int, *, look: bool = True) -> None:
    """Compare what the teacher gives with what the student is to learn, before anything is built.

    Args:
        teacher: the recipe's.
        wanted: width of the student's targets.
        look: whether to read the teacher's configuration, perhaps over the network, where no projection says how wide
            its targets are.

    Raises:
        ValueError: the widths differ, or there is no such teacher.
    """
    from model.teacher import teacher_width

    if teacher.id == "none" or (teacher.projection_dim is None and not look):
        return
    width = teacher_width(teacher)
    if width != wanted:
        made = "with its own values" if teacher.projection_dim is None else "by teacher.projection_dim"
        raise ValueError(
            f"the targets of the teacher {teacher.id!r} are {width} wide ({made}), model.target_dim is {wanted}: set "
            f"--projection-dim {wanted} to project them, or --model.target_dim {width}"
        )


def refuse_other_projection(dataset: ShardDataset, recipe: ClipRecipe) -> None:
    """Tell a teacher's own values from projected ones of the same width, by what the data set says of itself.

    Raises:
        ValueError: Naming both.
    """
    teacher = teacher_of(dataset.manifest, dataset.schema["target"].group if "target" in dataset.schema else "")
    if teacher is None or "projection" not in teacher:
        return
    projected, wanted = teacher["projection"] is not None, recipe.teacher.projection_dim is not None
    if projected != wanted:
        kinds = ("the teacher's own values", "projected values")
        dim = recipe.model.target_dim if projected else "null"
        raise ValueError(
            f"{dataset.place} holds {kinds[projected]} as targets, the recipe asks for {kinds[wanted]}: build with "
            f"the recipe, or train on these with --teacher.projection_dim {dim}"
        )


def refuse_other_geometry(
    dataset: ShardDataset, model: GridConfig, fields: tuple[str, ...] = ("clip", "target")
) -> None:
    """Compare the shapes on disk with those that the model is configured for.

    Raises:
        ValueError: Naming the field and both shapes, or the field that is not there.
    """
    size, tube = model.image_size, (model.tubelet, model.patch, model.patch, 3)
    grid = (model.num_positions, model.num_times)
    expected = {
        ("clip", True): (*grid, *tube),
        ("clip", False): (model.num_frames, size, size, 3),
        ("target", True): (*grid, model.target_dim),
        ("target", False): (model.num_tokens, model.target_dim),
    }
    for name in fields:
        if name not in dataset.schema:
            raise ValueError(f"{dataset.place} has no field {name!r}; targets are made by a build with a teacher")
        field = dataset.schema[name]
        wanted = expected[name, field.layout == "tubes"]
        if field.shape != wanted:
            raise ValueError(
                f"{dataset.place}: {name} has shape {field.shape} ({field.layout} layout), the model is configured "
                f"for {wanted}; use the recipe that the data set was built with, or change the model section"
            )


def whole_video(recipe: ClipRecipe, dataset: ShardDataset, num_clips: int) -> str:
    """Put some whole clips together as the video that other code expects, and say its shape.

    Raises:
        ValueError: it is another shape than `[B, 3, T, H, W]` of the model.
    """
    import numpy as np
    import torch

    from pipeline.dense import dense_video

    model = recipe.model
    clips = np.stack([np.asarray(dataset.read(number % len(dataset), "clip")) for number in range(num_clips)])
    video = dense_video(torch.from_numpy(clips), size=(model.image_size, model.image_size))
    expected = [num_clips, 3, model.num_frames, model.image_size, model.image_size]
    if list(video.shape) != expected:
        raise ValueError(f"a batch of video is {list(video.shape)}, expected {expected} ([B, 3, T, H, W])")
    return f"whole clips are {list(video.shape)} ([B, 3, T, H, W])"

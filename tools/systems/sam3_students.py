"""Where a small SAM3 comes from: a folder or an id of transformers' Sam3Model, or a run that trained one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from model.sam3 import HALVES, IoUHead, Sam3Student, Statistics
from model.sam3_files import load_sam3, pixel_statistics, read_more, read_prompts
from model.sam3_reference import WIDTHS, make_reference
from tools.systems.sav_sets import SavRecipe
from training.masks_objective import Prompts

if TYPE_CHECKING:
    from torch import nn

IMAGE = "sam3_image"  # the system whose runs are students
ADVICE = "give --student: a folder or an id of transformers' Sam3Model, or a run of sam3_image"
FRESH = f"or {' or '.join(WIDTHS)}, which begin with random weights"
R = TypeVar("R", bound=SavRecipe)


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """A student of single pictures.

    Attributes:
        student: a folder or an id of transformers' Sam3Model, or the folder of a run of `sam3_image`; for one of these
            also "reference" or "reference-192", with random weights. Left out, it follows from `--init`, or for a
            memory it is the newest run that learnt objects beside the new one.
        pixel_mean: of pixels from 0 to 1, by channel; left out, what the student's preprocessor_config.json says, or
            0.5. A run records it.
        pixel_std: likewise.
    """

    student: str | None = None
    pixel_mean: tuple[float, float, float] | None = None
    pixel_std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.pixel_std is not None and not all(value > 0 for value in self.pixel_std):
            raise ValueError(f"model.pixel_std is {list(self.pixel_std)}; each has to be more than 0")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A student of single pictures, on the CPU.

    Attributes:
        sam: transformers' Sam3Model.
        iou_head: its own, if it has one.
    """

    sam: nn.Module
    iou_head: IoUHead | None


def open_student(config: StudentConfig, image_size: int) -> Opened:
    """Load a student; torch's generator is left as it is, so that what is drawn next does not depend on it.

    Raises:
        ValueError: none is named, it cannot be loaded, or it is not for pictures of that size.
    """
    name = _named(config)
    with torch.random.fork_rng(devices=[]):
        if name in WIDTHS:
            return Opened(sam=make_reference(name, image_size, _clip_of(config)), iou_head=None)
        if is_run(Path(name)):
            return _of_run(Path(name), image_size)
        sam, more, head = load_sam3(name, image_size), read_more(name), None
        own = {key.removeprefix("iou_head."): value for key, value in more.items() if key.startswith("iou_head.")}
        if own:
            head = IoUHead(len(own["layers.0.bias"]))
            head.load_state_dict(own)
        return Opened(sam=sam, iou_head=head)


def prompts_of(recipe: SavRecipe, config: StudentConfig) -> Prompts:
    """The recipe's prompts by the student's own tokenizer."""
    return Prompts(*read_prompts(source_of(config), recipe.objects.prompts))


def statistics_of(config: StudentConfig) -> Statistics:
    """Those of the recipe, or of the student's folder."""
    if config.pixel_mean is not None and config.pixel_std is not None:
        return config.pixel_mean, config.pixel_std
    name = _named(config)
    if name in WIDTHS:
        return config.pixel_mean or HALVES[0], config.pixel_std or HALVES[1]
    mean, std = statistics_of(_recorded(Path(name)).model) if is_run(Path(name)) else pixel_statistics(name)
    return config.pixel_mean or mean, config.pixel_std or std


def source_of(config: StudentConfig) -> str:
    """The folder or id in which the tokenizer of a student lies: what it began as."""
    name = _named(config)
    if name in WIDTHS:
        return _clip_of(config)
    return source_of(_recorded(Path(name)).model) if is_run(Path(name)) else name


def settle(recipe: R, run_dir: Path, init: Path | None, *, search: bool) -> R:
    """Name the student, if the recipe does not, and write down the statistics of its pixels.

    Args:
        recipe: with a section `model` that is a `StudentConfig`.
        run_dir: of the run: one that goes on has its student already; others lie beside it.
        init: weights that the run begins with: a run's student is taken for its layout.
        search: whether the newest run beside this one is taken where nothing else is named.

    Raises:
        ValueError: there is no student.
    """
    found: Any = recipe
    config: StudentConfig = found.model
    name = config.student
    if name is None and is_run(run_dir):
        name = _recorded(run_dir).model.student
    if name is None and init is not None and is_run(_run_of(init)):
        name = getattr(_recorded(_run_of(init)).model, "student", None)
    if name is None and search:
        name = _newest(run_dir)
    if name is None:
        raise ValueError(
            f"there is no student: {ADVICE}{' (none lies beside the new run)' if search else f', {FRESH}'}"
        )
    if Path(name).is_dir():
        name = str(Path(name).resolve())
    config = replace(config, student=name)
    mean, std = statistics_of(config)
    settled: R = replace(found, model=replace(config, pixel_mean=mean, pixel_std=std))
    return settled


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a training run."""
    return all((folder / name).is_file() for name in ("recipe.yaml", "run.json"))


def take_apart(objective: nn.Module) -> Sam3Student:
    """The student of an objective."""
    student = objective.get_submodule("student")
    assert isinstance(student, Sam3Student)
    return student


def _of_run(run_dir: Path, image_size: int) -> Opened:
    from tools.trained import open_run

    side = _recorded(run_dir).view.size
    if side != image_size:
        raise ValueError(f"the student {run_dir} was trained on pictures of {side} px, the recipe has {image_size}")
    _, objective, _ = open_run(run_dir)
    student = take_apart(objective.cpu()).requires_grad_(True)
    return Opened(sam=student.sam, iou_head=student.iou_head)


def _recorded(run_dir: Path) -> Any:
    """The recipe of a run of `sam3_image`, or of one that goes on.

    Raises:
        ValueError: it is a run of something else.
    """
    from tools.recipe import load_recipe

    recipe = load_recipe(run_dir / "recipe.yaml", recorded=True)
    if not isinstance(getattr(recipe, "model", None), StudentConfig):
        raise ValueError(f"{run_dir} is a run of the system {recipe.system}, which trains no SAM3: {ADVICE}")
    return recipe


def _run_of(path: Path) -> Path:
    """The run of a checkpoint's folder, or what was given."""
    return path.parent.parent if (path / "checkpoint.json").is_file() else path


def _newest(run_dir: Path) -> str | None:
    """The run beside `run_dir` that has learnt objects and has the newest checkpoint."""
    found = []
    for checkpoint in run_dir.resolve().parent.glob("*/checkpoints/step-*/checkpoint.json"):
        run = checkpoint.parents[2]
        if is_run(run) and _learnt_objects(run):
            found.append((checkpoint.stat().st_mtime_ns, str(run)))
    return max(found)[1] if found else None


def _learnt_objects(run_dir: Path) -> bool:
    import yaml

    try:
        content = yaml.safe_load((run_dir / "recipe.yaml").read_text())
        return bool(content["system"] == IMAGE and content["objective"]["stage"] == "outputs")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):  # somebody else's
        return False


def _clip_of(config: StudentConfig) -> str:
    """Whose text encoder and tokenizer a fresh student takes."""
    clip: str | None = getattr(config, "clip", None)
    if clip is None:
        raise ValueError(f"the student {config.student!r} has learnt nothing yet; {ADVICE}")
    return clip


def _named(config: StudentConfig) -> str:
    if config.student is None:
        raise ValueError(f"the recipe names no student (model.student): {ADVICE}")
    return config.student

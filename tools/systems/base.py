"""What a system is: the sections of its recipe, what its data sets hold, what is trained on what, how it is scored.

Commands ask these objects and never what a system is called. docs/extending.md adds one from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.config import LoaderConfig
from shards.builder.config import BuildConfig
from shards.cache.folder import parse_size
from training.config import TrainConfig
from training.optim import OptimConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluation.result import Evaluator, Result
    from evaluation.speaker import Speaker
    from pipeline.convert import PixelStatistics
    from pipeline.reads import Reads
    from shards.builder import SampleKind, Source, Teacher
    from shards.dataset import ShardDataset
    from shards.progress import Progress
    from tools.pages.html import Html


@dataclass(frozen=True, kw_only=True)
class DataConfig(LoaderConfig):
    """How data sets are read for training; which fields, and what of them, the system decides.

    Attributes:
        mix: where several data sets are trained on (`--data NAME=PATH` each): name -> its share of the batches, by
            weights that need not add up to 1. An epoch is one pass over the heaviest; the others begin anew as needed.
        cache: folder on a local disk for what is read of data sets in stores elsewhere; REELSHARD_CACHE if None, or
            ~/.cache/reelshard. All ranks of a machine share it, and so may other runs.
        cache_quota: the most that it may hold, such as 500GB; REELSHARD_CACHE_QUOTA if None, or 80 % of the free disk.
        evaluation_batch_size: samples that a device takes at once in an evaluation, which reads them whole and does not
            cut them into chunks; with a length budget it does not count. A held-out loss takes the batches of training.
    """

    mix: Mapping[str, float] | None = None
    cache: str | None = None
    cache_quota: str | None = None
    evaluation_batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation_batch_size < 1:
            raise ValueError(f"evaluation_batch_size must be at least 1, got {self.evaluation_batch_size}")
        if self.cache_quota is not None:
            parse_size(self.cache_quota)
        weights = list((self.mix or {}).values())
        if self.mix is not None and (not all(0 <= weight < math.inf for weight in weights) or not any(weights)):
            raise ValueError(f"mix is {dict(self.mix)}; give each source a weight of 0 or more, and one more than 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A resolved recipe: the sections that every system has. A system's own recipe adds its sections as fields.

    Attributes:
        system: which system it trains: a name, or the path of a Python file that holds a `SYSTEM`.
        build: how shards are made.
        data: how they are read for training.
        optim: the optimiser.
        train: the loop.
    """

    system: str = ""
    build: BuildConfig = field(default_factory=BuildConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


R_contra = TypeVar("R_contra", bound=Recipe, contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a system needs of a data set, apart from what the user sets.

    Attributes:
        reads: what is read of a sample.
        normalize: field -> (mean, std) of pixels, applied on the device.
        shapes: field -> shape of one sample's entry in a batch; None is any length.
    """

    reads: Reads
    normalize: Mapping[str, PixelStatistics] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


class Report(Protocol):
    """What an evaluation prints."""

    def to_json(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        ...

    def table(self) -> str:
        """Lines for the terminal."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How `reelshard evaluate NAME` measures a run.

    Attributes:
        measure: gets the model, the data by role, and the configuration.
        feed: what is read of a data set; None reads what training reads, the same draws every time.
        config: the evaluator's configuration, of a recipe; the recipe itself where nothing is said.
        model: the part of the objective that is measured.
        roles: the data sets that it needs: "train", "val", or both.
        with_untrained: whether the student is measured with fresh weights, too, to compare with.
        report: puts the results ("trained", "untrained") and the step together; None prints the metrics.
        exhibits: gets the recipe, the model that was measured and the data sets by role, and gives what the page of
            `--out` shows of some samples beside the numbers; None shows nothing.
    """

    measure: Evaluator[Any]
    feed: Callable[[Any, ShardDataset], Feed] | None = None
    config: Callable[[Any], Any] = lambda recipe: recipe
    model: Callable[[nn.Module], nn.Module] = lambda objective: objective
    roles: tuple[str, ...] = ("train", "val")
    with_untrained: bool = False
    report: Callable[[Mapping[str, Result], int], Report] | None = None
    exhibits: Callable[[Any, nn.Module, Mapping[str, ShardDataset]], Iterable[Html]] | None = None


class System(Protocol[R_contra]):
    """One object a system, `SYSTEM` in its one file. A class that inherits from this one gets the answers given here.

    Attributes:
        name: as a recipe names it.
        title: for people.
        loss: what its loss is, in words.
        recipe: the sections of its recipe, with their defaults.
        evaluators: what `reelshard evaluate NAME` measures, by name.
    """

    name: str
    title: str
    loss: str = "its own measure"
    recipe: type[Recipe]
    evaluators: Mapping[str, Evaluation] = {}

    def open_source(self, recipe: R_contra, videos: Path, annotations: Path | None, split: str) -> Source:
        """Where the items of a build come from, as the command line names it.

        Raises:
            MissingDataError: something is not there.
            ShardError: the annotations cannot be read.
        """
        from shards.builder import open_source

        return open_source(videos, annotations, split)

    def open_tars(self, recipe: R_contra, tars: str, scratch: Path) -> Source:
        """Where the items of a build come from, where they are tars of others.

        Args:
            recipe: the resolved recipe.
            tars: a brace list of paths or URLs.
            scratch: folder for what comes from URLs.

        Raises:
            ValueError: the system has no use for them.
        """
        raise ValueError(f"{self.title} is not built from tars of others: give --videos")

    def sample_kind(self, recipe: R_contra) -> SampleKind:
        """What an item of a build becomes.

        Raises:
            ValueError: the sections do not fit together.
        """
        ...

    def settled(self, recipe: R_contra, run_dir: Path, init: Path | None) -> Recipe:
        """The recipe of a run with what follows from where it runs and what it begins with, as the run records it.

        Raises:
            ValueError: something is left open that has to be given.
        """
        del run_dir, init
        return recipe

    def make_objective(self, recipe: R_contra) -> nn.Module:
        """Student and loss in one module, with fresh weights from torch's generator."""
        ...

    def feed(self, recipe: R_contra, dataset: ShardDataset, source: str = "") -> Feed:
        """What training reads of a data set, which is the source `source` of a mix.

        Raises:
            ValueError: the data set is not what the recipe is about.
        """
        ...

    def make_teacher(self, recipe: R_contra, device: str) -> Teacher | None:
        """Who makes the targets of a build; None where nobody does."""
        return None

    def check_build(self, recipe: R_contra, *, look: bool = True) -> None:
        """Compare the teacher with the student before anything is built; with `look`, also by the teacher's own files.

        Raises:
            ValueError: they do not fit.
        """
        del recipe, look

    def target_bytes(self, recipe: R_contra) -> int:
        """Bytes of a sample that a teacher will add, before it is loaded."""
        return 0

    def as_kept(self, recipe: R_contra) -> Recipe:
        """The recipe as it is kept with its output: without what is of this machine, so that any leaves the same."""
        return recipe

    def describe(self, recipe: R_contra, dataset: ShardDataset) -> Mapping[str, str]:
        """Lines of a run's launch beside those of every run: heading -> text."""
        return {}

    def speaker(self, recipe: R_contra, objective: nn.Module, name: str) -> Speaker:
        """A trained student that is asked about videos and images.

        Args:
            recipe: its own.
            objective: on its device, in evaluation mode.
            name: where it came from, for results.

        Raises:
            ValueError: it does not speak.
        """
        raise ValueError(f"{self.title} writes no text")

    def export(self, recipe: R_contra, objective: nn.Module, folder: Path) -> Iterator[str]:
        """Write a trained student into a folder as others read it; yields a line for each thing written.

        Raises:
            ValueError: there is no other library that reads it.
        """
        raise ValueError(f"{self.title} is exported nowhere: its checkpoints are safetensors, by the names of model/")

    def encoder(self, objective: nn.Module) -> nn.Module:
        """The part of the objective that `--init WEIGHTS.safetensors` starts and a probe looks at.

        Raises:
            ValueError: there is none.
        """
        raise ValueError(f"{self.title} has no encoder that weights of others could start")

    def check_batch(self, recipe: R_contra, batch: Mapping[str, Tensor]) -> None:
        """Look at the first batch of a `preflight`, whose shapes are those of `feed`.

        Raises:
            ValueError: it is not one to train on.
        """
        del recipe, batch

    def synthesize(self, recipe: R_contra, directory: Path, num_samples: int, progress: Progress) -> None:
        """Write a data set to measure training on (`reelshard bench --train`): of the recipe's geometry.

        Raises:
            ValueError: the system makes none.
        """
        raise ValueError(
            f"{self.title} makes no data set for a measurement; name one: reelshard bench DATASET --train ..."
        )

    def rehearsals(self, recipe: R_contra) -> Mapping[str, Callable[[ShardDataset, int], str]]:
        """Further checks of `preflight`: name -> check of (data set, rows of a batch), which says what it found."""
        return {}

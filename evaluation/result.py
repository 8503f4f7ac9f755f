"""What an evaluator is, and what it gives: numbers, and all that is needed to know what they are numbers of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from pipeline.world import World

Config_contra = TypeVar("Config_contra", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Data as an evaluator reads it.

    Attributes:
        batches: this rank's part: every sample once, in order, on the model's device; with `index` and `valid`.
        digest: names the data set.
        label_names: of its classes, where it has labels.
        key_of: names a sample by its number.
    """

    batches: Iterable[Mapping[str, Tensor]]
    digest: str = ""
    label_names: Sequence[str] = ()
    key_of: Callable[[int], str] = str


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of an evaluation, the same on every rank.

    Attributes:
        metrics: the numbers, by name.
        rows: what they were computed from, in the types of JSON: one mapping a sample, class or seed.
        protocol: how it was measured: the evaluator's name, its configuration, and whatever else decides the numbers.
        digests: of the data, by its role, and of the model's weights as `model`.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return asdict(self)


class Evaluator(Protocol[Config_contra]):
    """Measures a trained model, or a part of it such as its encoder."""

    def __call__(self, model: nn.Module, data: Mapping[str, Split], config: Config_contra, world: World) -> Result:
        """Measure.

        Args:
            model: on its device; it is evaluated in eval mode and in the autocast that the caller has chosen, and is
                left as it was.
            data: by role; which roles there have to be, the evaluator says ("train" and "val" for a probe).
            config: the evaluator's own.
            world: the ranks, which each read their part and all get the result.
        """
        ...

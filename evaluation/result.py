"""What an evaluator is, and what it gives: numbers, and all that is needed to know what they are numbers of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
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
        view_hash: of the view that its clips show; None where nobody wrote it down.
        about: a sample's metadata by its number (`video_id`, `view_index`, `captions`, ...), from its JSON.
        num_samples: of all ranks.
        stored: a field of a sample as it lies in the shards, by number and name: for what is measured over all of it.
        source: what the data set says of where its samples come from.
    """

    batches: Iterable[Mapping[str, Tensor]]
    digest: str = ""
    label_names: Sequence[str] = ()
    key_of: Callable[[int], str] = str
    view_hash: str | None = None
    about: Callable[[int], Mapping[str, Any]] = lambda number: {}
    num_samples: int = 0
    stored: Callable[[int, str], Any] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of an evaluation, the same on every rank.

    Attributes:
        metrics: the numbers, by name; shares are fractions of 1.
        rows: what they were computed from, in the types of JSON: one mapping a sample, class or seed.
        protocol: how it was measured: the evaluator's name, its configuration, and whatever else decides the numbers.
        digests: of the data, by its role, of the model's weights as `model`, of the view as `view`.
        intervals: 95 % intervals of metrics, by name: (low, high).
        tables: further tables by name, a mapping a row: "per_class" (`class`, `count`, `top1`), "confusion" (`class`,
            `predicted`: class -> count).
        seed: of whatever was drawn; None where nothing was.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Result":
        """What `to_json` gave, perhaps by an earlier version.

        Raises:
            ValueError: It is no result.
        """
        names = {one.name for one in fields(cls)}
        if not isinstance(record, Mapping) or not isinstance(record.get("metrics"), Mapping):
            raise ValueError("it is no result: it has no metrics")
        known = {name: value for name, value in record.items() if name in names}
        intervals = {name: (low, high) for name, (low, high) in dict(known.get("intervals", {})).items()}
        return cls(**{**known, "intervals": intervals})


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

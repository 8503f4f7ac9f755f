"""What the trainer expects of an objective, and what an objective may declare about its parts.

An objective is an `nn.Module` whose forward scores a batch, `Objective` below. Whatever else it has to say, it says by
attributes, each of which may be left out:

    class CaptionObjective(nn.Module):
        frozen = ("vision",)                     # in eval, without gradients, not given to the optimiser
        trainable = ("connector", "language")    # checkpoints hold these, and the digest of the rest, which is frozen
        uses_all = False                         # batches of text leave the connector without a gradient

        def parameter_groups(self) -> dict[str, ParameterGroup]:
            return {"language": ParameterGroup(prefixes=("language",), lr=1e-5)}

It may be `Diagnosed` besides, which puts further numbers into a run's rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from model.parts import ParameterGroup, lies_in

REST = "rest"  # the group of the parameters that no group names


class Objective(Protocol):
    """Scores a batch, sample by sample."""

    def forward(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Score a batch, or some of its rows.

        Returns:
            f32 `[B]` by name. `loss` is trained on. `weight` (not negative, without a gradient; 1 each where it is left
            out) says how much a sample counts, for instance its number of tokens: the loss of a global batch is
            sum(weight * loss) / sum(weight) over all its samples, however it is cut into ranks and chunks. All other
            names are further scores, averaged in the same way and reported.
        """
        ...


@runtime_checkable
class Diagnosed(Protocol):
    """Says more of itself where a row of metrics is written: by what is too dear, or too dull, for every step."""

    def diagnose(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Look at a batch, or at some of its rows, without gradients and in evaluation mode.

        Returns:
            f32 `[B]` by name, and `weight`, as of `Objective.forward`; there need be no loss.
        """
        ...

    def review(self, row: Mapping[str, float]) -> tuple[Mapping[str, float], Mapping[str, str]]:
        """Look at a row of metrics, with what `diagnose` found in it.

        Returns:
            Further numbers of the row, and what is wrong with it: a name that stays the same while it stays wrong, and
            a line for the log.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What an objective declares, checked against its parameters and buffers.

    Attributes:
        frozen: prefixes of the parts that are not trained.
        trainable: prefixes of the parts that a checkpoint holds, all else being frozen too; None holds everything.
        groups: parts with a learning rate of their own.
        uses_all: whether every batch gives every trained parameter a gradient. Where it is false, ranks look for the
            others in each step; a parameter without a gradient on all ranks is left as it is by that step: no weight
            decay, no momentum, and its step is not counted.
    """

    frozen: tuple[str, ...] = ()
    trainable: tuple[str, ...] | None = None
    groups: Mapping[str, ParameterGroup] = field(default_factory=dict)
    uses_all: bool = True

    def is_frozen(self, name: str) -> bool:
        """Whether this parameter, buffer or module stays as it is."""
        return lies_in(name, self.frozen) or not self.is_kept(name)

    def is_kept(self, name: str) -> bool:
        """Whether a checkpoint holds this parameter or buffer."""
        return self.trainable is None or lies_in(name, self.trainable)

    def rests(self, module: str) -> bool:
        """Whether this module stays in evaluation mode: it is frozen, and holds nothing that is trained."""
        holds_a_part = any(prefix.startswith(f"{module}.") for prefix in self.trainable or ())
        return self.is_frozen(module) and not holds_a_part

    def group_of(self, name: str) -> str:
        """The name of a parameter's group."""
        return next((group for group, part in self.groups.items() if lies_in(name, part.prefixes)), REST)


def declared(objective: nn.Module) -> Declared:
    """What an objective declares.

    Raises:
        ValueError: A prefix names nothing, two groups share a parameter, or nothing is left to train.
    """
    trainable = getattr(objective, "trainable", None)
    found = Declared(
        frozen=_prefixes(getattr(objective, "frozen", ()), "frozen"),
        trainable=None if trainable is None else _prefixes(trainable, "trainable"),
        groups=dict(objective.parameter_groups()) if hasattr(objective, "parameter_groups") else {},  # type: ignore[operator]
        uses_all=bool(getattr(objective, "uses_all", True)),
    )
    names = [name for name, _ in objective.named_parameters()]
    _refuse_empty_parts(found, [*names, *(name for name, _ in objective.named_buffers())], type(objective).__name__)
    for name in names:
        sharing = [group for group, part in found.groups.items() if lies_in(name, part.prefixes)]
        if len(sharing) > 1:
            raise ValueError(f"the parameter groups {' and '.join(sharing)} both take {name}; a parameter has one rate")
    if not any(
        parameter.requires_grad and not found.is_frozen(name) for name, parameter in objective.named_parameters()
    ):
        raise ValueError(f"{type(objective).__name__} has no parameter to train: all {len(names)} are frozen")
    return found


def _prefixes(value: Iterable[str] | str, name: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"{name} is the text {value!r}; it has to be a tuple of prefixes, ({value!r},)")
    return tuple(value)


def _refuse_empty_parts(found: Declared, names: list[str], objective: str) -> None:
    """A prefix without a parameter is a slip of the pen, which would train what was to be frozen."""
    parts = {"frozen": found.frozen, "trainable": found.trainable or ()}
    parts |= {f"the parameter group {name}": part.prefixes for name, part in found.groups.items()}
    for what, prefixes in parts.items():
        for prefix in prefixes:
            if not any(lies_in(name, (prefix,)) for name in names):
                heads = sorted({name.partition(".")[0] for name in names})
                raise ValueError(
                    f"{what} names {prefix!r}, of which {objective} has nothing; it has {', '.join(heads)}"
                )

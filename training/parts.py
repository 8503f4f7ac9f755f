"""The parts of an objective on their way into and out of a run: what is frozen, what is kept, what does not fit."""

from collections.abc import Mapping

from torch import Tensor, nn

from model.parts import weights_digest
from training.objective import Declared

NUM_NAMED = 4


def freeze(objective: nn.Module, parts: Declared) -> None:
    """Take the frozen parts out of gradients, and put every module into its mode of training."""
    for name, parameter in objective.named_parameters():
        if parts.is_frozen(name):
            parameter.requires_grad_(False)
    train_mode(objective, parts)


def train_mode(objective: nn.Module, parts: Declared) -> None:
    """Training mode for what is trained, evaluation mode for what is frozen."""
    objective.train()
    for name, module in objective.named_modules():
        if name and parts.rests(name):
            module.training = False


def own_state(objective: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; of one that has several, as tied embeddings do, by its first."""
    first: dict[int, str] = {}
    for name, value in objective.state_dict(keep_vars=True).items():
        first.setdefault(id(value), name)
    names = set(first.values())
    return {name: value for name, value in objective.state_dict().items() if name in names}


def kept_state(objective: nn.Module, parts: Declared) -> dict[str, Tensor]:
    """Parameters and buffers that a checkpoint holds, by name."""
    return {name: value for name, value in own_state(objective).items() if parts.is_kept(name)}


def frozen_digest(objective: nn.Module, parts: Declared) -> str:
    """Names what a checkpoint does not hold, see `weights_digest`; "" if it holds everything."""
    if parts.trainable is None:
        return ""
    return weights_digest({name: value for name, value in objective.state_dict().items() if not parts.is_kept(name)})


def load_state(objective: nn.Module, given: Mapping[str, Tensor], needed: set[str], what: str) -> None:
    """Copy tensors into an objective; what is not given stays as it is.

    Args:
        objective: takes them.
        given: by the names of its `state_dict`.
        needed: names that have to be among them.
        what: whose tensors these are, for the message.

    Raises:
        ValueError: a needed one is missing, one has no place here, or another shape; they are named, nothing is copied.
    """
    own = objective.state_dict()
    wrong = [f"{name} is missing" for name in own if name in needed and name not in given]
    wrong += [f"{name} has no place here" for name in sorted(given) if name not in own]
    wrong += [
        f"{name} has shape {list(given[name].shape)}, here it has {list(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - NUM_NAMED} more" if len(wrong) > NUM_NAMED else ""
        raise ValueError(f"{what} does not fit: {'; '.join(wrong[:NUM_NAMED])}{more}")
    objective.load_state_dict(dict(given), strict=False)

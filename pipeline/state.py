"""What a loader's state holds, and whether one fits: it may come from a file that somebody edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import LoaderConfig
from shards.dataset import ShardDataset

NUM_EPOCHS = 2**63
STATE_FORMAT = 2
TILING = 2  # how samples of like length are put together: states of another way mean other batches


def identity_of(config: LoaderConfig, dataset: ShardDataset, digest: str) -> dict[str, Any]:
    """What must agree for a loader's state to mean the same batches; `digest` is that of the fields that are read."""
    return {
        "format": STATE_FORMAT,
        "dataset": digest,
        "seed": config.seed,
        "global_batch_size": config.global_batch_size,
        "shuffle": int(config.shuffle),
        **({"window": window} if (window := config.window_of(dataset)) else {}),
        "drop_last": int(config.drop_last),
        "length_budget": dict(config.length_budget) if config.length_budget else 0,
        **({"tiling": TILING} if config.length_budget else {}),
    }


def refuse_unfit(state: Mapping[str, Any], config: LoaderConfig, dataset: ShardDataset, digest: str) -> None:
    """Refuse what is no state of such a loader.

    Raises:
        ValueError: it is no state, or of another data set, seed or global batch size; both values are named.
    """
    identity = identity_of(config, dataset, digest)
    if isinstance(state, Mapping) and "window" in state:
        identity |= {"window": config.window_of(dataset)}
    if isinstance(state, Mapping) and state.get("format") == 1:  # it named the whole data set
        identity |= {"format": 1, "dataset": dataset.digest}
    refuse_other(state, identity, "the loader")


def position_in(state: Mapping[str, Any], num_batches: Callable[[int], int]) -> tuple[int, int]:
    """Epoch and batch that a loader's state names.

    Raises:
        ValueError: they are no numbers, or the epoch has no such batch.
    """
    epoch = whole_number(state, "epoch", NUM_EPOCHS, "the loader")
    batch = whole_number(state, "batch", NUM_EPOCHS, "the loader")
    if batch >= num_batches(epoch):
        raise ValueError(
            f"the loader's state names batch {batch} of epoch {epoch}; the epoch has {num_batches(epoch)} batches"
        )
    return epoch, batch


def refuse_other(state: Mapping[str, Any], identity: Mapping[str, Any], what: str) -> None:
    """Compare what must agree for a state to mean the same batches.

    Raises:
        ValueError: it is no state, or of another `what`; both values are named.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{what}'s state must be a mapping, as state_dict() returns it, got {shown(state)}")
    for name, mine in identity.items():
        got = state.get(name)
        if type(got) is not type(mine) or got != mine:
            raise ValueError(f"{what}'s state does not fit: {name} is {shown(got)} in the state and {mine!r} here")


def whole_number(state: Mapping[str, Any], name: str, below: int, what: str) -> int:
    """An entry of a state, from 0 to `below - 1`.

    Raises:
        ValueError: it is not there, or something else.
    """
    value = state.get(name)
    if type(value) is not int or not 0 <= value < below:
        got = shown(value) if name in state else "none"
        raise ValueError(f"{what}'s state needs a whole number from 0 to {below - 1} as {name}, got {got}")
    return value


def shown(value: object) -> str:
    """A value in a message: on one line, not endless, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:77]}..."

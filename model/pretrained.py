"""Loading other people's checkpoints: quietly, never unpickled, and only if every weight has found its place."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NUM_NAMED = 4


def load_pretrained(
    cls: Any,
    name: str,
    *,
    dtype: torch.dtype,
    heads: tuple[str, ...] = (),
    allowed: str,
    what: str = "teacher",
    **changes: Any,
) -> nn.Module:
    """Load the weights of a checkpoint into a class of transformers; nothing is printed.

    Args:
        cls: the class, with `from_pretrained`.
        name: an id on the Hub, or a folder that `save_pretrained` made.
        dtype: of the weights.
        heads: beginnings of the names of weights that the class has no use for.
        allowed: what can be given instead, for messages.
        what: the model is called in them.
        changes: of its configuration, such as the size of pictures.

    Raises:
        ValueError: the checkpoint cannot be loaded, or its weights are not those of its configuration.
    """
    with quiet(), one_line(name, allowed, what):
        model, loaded = cls.from_pretrained(
            name, dtype=dtype, weights_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **changes
        )
    _refuse_other_weights(name, loaded, heads, what)
    found: nn.Module = model.eval().requires_grad_(False)
    return found


def weights_sha256(module: nn.Module) -> str:
    """Return the sha256 (hex) of all parameters: names, dtypes, shapes and bytes, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def choose_device(device: str) -> torch.device:
    """The device of a name such as "cuda:0"; "auto" is the first GPU, or the CPU."""
    return torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of a name in `DTYPES`; "auto" is float16 on a GPU and float32 on a CPU."""
    return DTYPES.get(dtype, torch.float32 if device.type == "cpu" else torch.float16)


def spell_device(device: torch.device) -> str:
    """What provenance says of a device: the model of a GPU, since models differ in their rounding."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports and progress bars off the terminal; what matters of them is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def one_line(name: str, allowed: str, what: str = "teacher") -> Iterator[None]:
    """Say in one line why a checkpoint cannot be loaded."""
    try:
        if name.startswith((".", "/", "~")) and not Path(name).is_dir():  # no id on the Hub begins like this
            raise FileNotFoundError("there is no such folder.")
        yield
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"cannot load the {what} {name!r}: {reason} {allowed}") from error


def _refuse_other_weights(name: str, loaded: Mapping[str, Any], heads: tuple[str, ...], what: str) -> None:
    """Look at what `from_pretrained` could not place: it fills the gaps with random numbers and goes on."""
    missing = sorted(loaded["missing_keys"])
    unexpected = sorted(key for key in loaded["unexpected_keys"] if not key.startswith(heads))
    reshaped = sorted(key for key, *_ in loaded["mismatched_keys"])
    found = {"missing": missing, "of another shape": reshaped, "unexpected": unexpected}
    wrong = [f"{what}: {_some(keys)}" for what, keys in found.items() if keys]
    if wrong:
        raise ValueError(
            f"the weights of the {what} {name!r} do not fit its configuration; {'; '.join(wrong)}. What it gives would "
            "be noise: take the checkpoint whole, or another one"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more

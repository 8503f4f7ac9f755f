"""Weights of another run as the start of one, or as what is evaluated."""

from pathlib import Path

from torch import nn

from training.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from training.objective import declared
from training.parts import frozen_digest, kept_state, load_state, own_state


def load_initial(objective: nn.Module, path: Path) -> str:
    """Start an objective from the weights of another run.

    Everything that is trained here has to be among them; what is frozen here may be.

    Args:
        objective: takes the weights.
        path: a run's folder, of which the newest whole checkpoint counts, or that of a checkpoint.

    Returns:
        Which checkpoint that was, and what it gave.

    Raises:
        ValueError: There is no checkpoint, or it does not fit; what is missing, has no place here or another shape is
            named, and nothing is copied.
    """
    folder, checkpoint = _find(path)
    parts = declared(objective)
    own = own_state(objective)
    needed = {name for name in own if not parts.is_frozen(name)}
    load_state(objective, checkpoint.model, needed, f"the checkpoint {folder}")
    line = f"{folder}: {len(checkpoint.model)} of {len(own)} tensors"
    here = frozen_digest(objective, parts)
    if checkpoint.frozen_digest and checkpoint.frozen_digest != here:
        line += f"; it was trained beside another frozen part ({checkpoint.frozen_digest}, not {here or 'this one'})"
    return line


def restore(objective: nn.Module, checkpoint: Checkpoint) -> None:
    """Make an objective what it was at a checkpoint.

    Raises:
        ValueError: The checkpoint is of another objective, or was trained beside another frozen part.
    """
    parts = declared(objective)
    here = frozen_digest(objective, parts)
    if checkpoint.frozen_digest != here:
        was = checkpoint.frozen_digest or "none"
        raise ValueError(
            f"the checkpoint at step {checkpoint.step} was trained with another frozen part: its digest was {was} "
            f"and is {here or 'none'} here; use the frozen weights of then"
        )
    load_state(
        objective, checkpoint.model, set(kept_state(objective, parts)), f"the checkpoint at step {checkpoint.step}"
    )


def _find(path: Path) -> tuple[Path, Checkpoint]:
    if (path / "checkpoint.json").is_file():
        return path, load_checkpoint(path)
    found = newest_checkpoint(path / "checkpoints")
    if found is None:
        raise ValueError(f"{path} is neither a checkpoint nor a run that has a whole one")
    return path / "checkpoints" / f"step-{found.step:08d}", found

"""What a student says of held-out clips: the teacher's tokens where they are hidden from it, and how good that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.world import World
from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_target
from tools.figures import Sample, load_sample
from tools.loaders import TrainingLoader
from tools.systems import system_of
from tools.systems.clips import ClipRecipe
from training.checkpoint import newest_checkpoint
from training.initial import restore

SPEAKERS = ("trained", "untrained", "mean")  # the last says the mean of the training clips at each place


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One held-out clip and what the trained student makes of its hidden tokens.

    Attributes:
        sample: the clip, and the teacher's tokens of all places.
        hidden: bool [T', h, w], the places that are hidden from the student.
        predicted: f32 [T', h, w, D]; zero where nothing is hidden.
        cosine: mean over the hidden tokens, by who speaks (see `SPEAKERS`).
    """

    sample: Sample
    hidden: NDArray[np.bool_]
    predicted: NDArray[np.float32]
    cosine: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """Mean over the held-out clips, by who speaks (see `SPEAKERS`).

    Attributes:
        loss: the one that the student is trained on.
        cosine: between the teacher's tokens and what is said of them, over the hidden ones.
    """

    loss: Mapping[str, float]
    cosine: Mapping[str, float]


@torch.inference_mode()
def score_student(
    recipe: ClipRecipe, run_dir: Path, train: ShardDataset, held_out: ShardDataset, shown: int
) -> tuple[HeldOutScores, list[Guess]]:
    """Let the trained student, an untrained one and the mean of the training clips guess what is hidden.

    Args:
        recipe: the student's.
        run_dir: its run.
        train: what it was trained on.
        held_out: what it has not seen; with targets.
        shown: of how many classes the first clip is given back.

    Raises:
        ValueError: there is no whole checkpoint, or a data set is not what the recipe is about.
    """
    mean = _mean_tokens(train)
    objectives = _objectives(recipe, run_dir)
    chosen = _first_of_classes(held_out, shown)
    losses: dict[str, list[Tensor]] = {name: [] for name in SPEAKERS}
    cosines: dict[str, list[Tensor]] = {name: [] for name in SPEAKERS}
    guesses: dict[int, Guess] = {}
    for batch in _batches(recipe, held_out):
        said: dict[str, Tensor] = {name: one.predict(batch) for name, one in objectives.items()}
        shape = said["trained"].shape
        tokens = _hidden_tokens(batch["masked"], said["trained"].flatten(1, -2).shape[1], recipe.model.num_positions)
        said["mean"] = mean[tokens].reshape(shape)
        target = _targets(held_out, batch["index"])  # [B, N, D]
        wanted = target.gather(1, tokens[..., None].expand(-1, -1, target.shape[2]))
        for name, words in said.items():
            losses[name].append(objectives["trained"].score(words, batch)["loss"])
            cosines[name].append(F.cosine_similarity(words.flatten(1, -2), wanted, dim=-1).mean(dim=1))
        for row, number in enumerate(batch["index"].tolist()):
            if number in chosen:
                found = {name: float(values[-1][row]) for name, values in cosines.items()}
                words = said["trained"].flatten(1, -2)[row]
                guesses[number] = _guess(load_sample(held_out, number), tokens[row], words, found)
    means = [{name: float(torch.cat(parts).mean()) for name, parts in each.items()} for each in (losses, cosines)]
    return HeldOutScores(loss=means[0], cosine=means[1]), [guesses[number] for number in chosen]


def _objectives(recipe: ClipRecipe, run_dir: Path) -> dict[str, Any]:
    """The student as it is now, and as it was before training."""
    checkpoint = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"{run_dir} has no whole checkpoint; train one with `reelshard train --out {run_dir}`")
    found: dict[str, nn.Module] = {}
    for name in ("trained", "untrained"):
        torch.manual_seed(recipe.train.seed)
        found[name] = system_of(recipe).make_objective(recipe).eval()
    restore(found["trained"], checkpoint)
    return found


def _batches(recipe: ClipRecipe, held_out: ShardDataset) -> Iterator[dict[str, Tensor]]:
    """Every held-out sample once, with the mask of its first epoch."""
    loader = TrainingLoader(recipe, {"": held_out}, torch.device("cpu"), World(), held_out=True)
    with closing(loader):
        for batch in loader:
            valid = batch["valid"]
            yield {name: value[valid] for name, value in batch.items()}


def _mean_tokens(dataset: ShardDataset) -> Tensor:
    """The mean over the clips at each place: f32 [N, D], token i at time i // S."""
    total = sum(_target(dataset, number).astype(np.float64) for number in range(len(dataset)))
    return torch.from_numpy(np.asarray(total / len(dataset), dtype=np.float32))


def _targets(dataset: ShardDataset, numbers: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([_target(dataset, number) for number in numbers.tolist()]))


def _target(dataset: ShardDataset, number: int) -> NDArray[np.float32]:
    tokens = np.asarray(dataset.read(number, "target"))
    return (tubes_to_target(tokens) if dataset.schema["target"].layout == "tubes" else tokens).astype(np.float32)


def _hidden_tokens(masked: Tensor, num_hidden: int, num_positions: int) -> Tensor:
    """Numbers of the hidden tokens, i64 [B, M]; a mask of positions hides each at all times."""
    if masked.shape[1] == num_hidden:
        return masked
    starts = torch.arange(num_hidden // masked.shape[1]) * num_positions
    return (starts[:, None] + masked[:, None, :]).flatten(1)


def _first_of_classes(dataset: ShardDataset, count: int) -> list[int]:
    """The first sample of each of some classes."""
    found: dict[Any, int] = {}
    for number in range(len(dataset)):
        found.setdefault(dataset.metadata(number)["label"], number)
    return list(found.values())[:count]


def _guess(sample: Sample, tokens: Tensor, words: Tensor, cosine: Mapping[str, float]) -> Guess:
    assert sample.target is not None
    grid = sample.target.shape
    hidden = np.zeros(grid[:3], dtype=bool)
    predicted = np.zeros(grid, dtype=np.float32)
    hidden.reshape(-1)[tokens.numpy()] = True
    predicted.reshape(-1, grid[-1])[tokens.numpy()] = words.numpy()
    return Guess(sample=sample, hidden=hidden, predicted=predicted, cosine=cosine)

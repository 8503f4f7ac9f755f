"""The projection head of retrieval: frozen video features into the space of frozen caption embeddings."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCALE = math.log(100)  # CLIP's own bound on its inverse temperature


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Training of the projection head, and the intervals; features and embeddings stay as they are.

    Attributes:
        steps: of the optimiser, over passes of the training videos, each with one of its captions, drawn anew in every
            pass.
        batch_size: videos in a step, each the wrong answer to the others.
        hidden: width of the head's one hidden layer.
        lr: peak learning rate of AdamW, cosine to zero.
        weight_decay: of AdamW.
        temperature: at the beginning; it is learned, and never below 0.01.
        num_draws: of the bootstrap.
        seed: of the head's first weights, of order, captions and bootstrap.
    """

    steps: int = 2000
    batch_size: int = 256
    hidden: int = 512
    lr: float = 1e-3
    weight_decay: float = 5e-2
    temperature: float = 0.07
    num_draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.hidden, self.num_draws) < 1 or self.batch_size < 2:
            raise ValueError(
                f"steps={self.steps}, hidden={self.hidden}, num_draws={self.num_draws}, batch_size={self.batch_size};"
                " the first three have to be at least 1, batch_size at least 2 (the others are the wrong answers)"
            )
        if self.lr <= 0 or self.weight_decay < 0 or not 0.01 <= self.temperature <= 1:
            raise ValueError(
                f"lr={self.lr}, weight_decay={self.weight_decay}, temperature={self.temperature}; lr has to be "
                "positive, weight_decay not negative, temperature between 0.01 and 1"
            )


@dataclass(frozen=True)
class Pairs:
    """Videos with their captions, on the CPU, in the order of the samples.

    Attributes:
        video: f32 `[n, D]`, one feature vector a video.
        text: f32 `[m, E]`, caption embeddings, those of one video together.
        owner: i64 `[m]`, the row of `video` that each caption is of; not falling.
        index: i64 `[n]`, the samples' numbers.
    """

    video: Tensor
    text: Tensor
    owner: Tensor
    index: Tensor


class ProjectionHead(nn.Module):
    """Both sides as unit vectors: the video's through a small network, the captions' as they are but centred.

    Videos are standardised, and the mean caption is taken off, by what the training videos and captions are like.
    """

    def __init__(self, train: Pairs, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.centre: Tensor
        self.register_buffer("mean", train.video.mean(dim=0))
        self.register_buffer("scale", train.video.std(dim=0, correction=0).clamp(min=1e-6))
        self.register_buffer("centre", train.text.mean(dim=0))
        self.inner = _linear(train.video.shape[1], hidden, generator)
        self.outer = _linear(hidden, train.text.shape[1], generator)

    def forward(self, video: Tensor) -> Tensor:
        """Features `[n, D]` to unit vectors `[n, E]`."""
        standard = (video - self.mean) / self.scale
        return F.normalize(self.outer(F.gelu(self.inner(standard))), dim=-1)

    def embed(self, text: Tensor) -> Tensor:
        """Caption embeddings `[m, E]` to unit vectors `[m, E]`."""
        return F.normalize(text - self.centre, dim=-1)


def train_head(train: Pairs, config: RetrievalConfig, device: torch.device) -> ProjectionHead:
    """Train a head by symmetric InfoNCE (Radford et al. 2021): the diagonal of a batch's similarities, both ways.

    The last state is taken: nothing is chosen by held-out data.

    Raises:
        ValueError: fewer than two videos have captions.
    """
    if (num_captioned := len(train.owner.unique())) < 2:  # type: ignore[no-untyped-call]
        raise ValueError(f"{num_captioned} training videos have captions; contrastive training needs at least two")
    generator = torch.Generator().manual_seed(config.seed)
    head = ProjectionHead(train, config.hidden, generator).to(device)
    log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature), device=device))
    groups: list[dict[str, Any]] = [{"params": list(head.parameters())}, {"params": [log_scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    video, text = train.video.to(device), head.embed(train.text.to(device))
    for rows, captions in islice(_steps(train, config.batch_size, generator), config.steps):
        logits = log_scale.clamp(max=MAX_SCALE).exp() * head(video[rows]) @ text[captions].T
        right = torch.arange(len(rows), device=device)
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return head.eval()


def similarity(head: ProjectionHead, pairs: Pairs, device: torch.device) -> Tensor:
    """Cosines f64 `[m, n]` of all captions with all videos.

    They are computed in double precision and rounded to a millionth, so that what only rounding sets apart is a tie.
    """
    head = copy.deepcopy(head).double().to(device)
    with torch.inference_mode():
        cosines: Tensor = head.embed(pairs.text.double().to(device)) @ head(pairs.video.double().to(device)).T
    return cosines.cpu().round(decimals=6)


def _linear(width: int, out: int, generator: torch.Generator) -> nn.Linear:
    """A layer from this generator alone: the global one stays where it is."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, width, out)  # type: ignore[no-untyped-call]
    nn.init.trunc_normal_(layer.weight, std=width**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _steps(train: Pairs, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of `video` and of `text` of one step after the other, without end: pass after pass over what has captions.

    Batches of a pass are of nearly one length, at most `size`: a short last one would have few wrong answers.
    """
    counts = train.owner.bincount(minlength=len(train.video))
    starts, captioned = counts.cumsum(0) - counts, counts.nonzero()[:, 0]
    while True:
        order = captioned[torch.randperm(len(captioned), generator=generator)]
        drawn = (torch.rand(len(order), generator=generator, dtype=torch.float64) * counts[order]).long()
        batches = [part.tensor_split(math.ceil(len(order) / size)) for part in (order, starts[order] + drawn)]
        yield from zip(*batches, strict=True)

"""Where the right answer stands: ranks in text-video retrieval, the numbers made of them, and their intervals.

Text to video: every caption is a query of its own among all videos. Video to text: a video's query is answered by the
captions of all videos as groups, a group scoring as its best caption does (the multi-caption protocol; with one caption
a video it is the plain one).

The rank of the right answer is 1 + (those that score higher) + (others that score the same) / 2. So a collapsed model,
which scores all the same, stands in the middle and not at the top, and no order of equal values is relied on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RECALLS = (1, 5, 10)
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The outcome of queries.

    Attributes:
        values: f64 `[q]`, from 1 on; halves where an odd number of others ties with the right answer.
        owner: i64 `[q]`, the video that each query is about; not falling.
        num_tied: queries whose right answer scores the same as another.
        num_candidates: of how many the right one was to be found.
    """

    values: NDArray[np.float64]
    owner: NDArray[np.int64]
    num_tied: int
    num_candidates: int


def text_to_video(similarity: Tensor, owner: Tensor) -> Ranks:
    """Rank the right video of every caption among all videos.

    Args:
        similarity: `[m, n]`, of m captions with n videos; a video without captions is a wrong answer to all.
        owner: i64 `[m]`, the video that each caption is of; not falling.

    Raises:
        ValueError: there is no caption, captions do not lie together by video, or a similarity is not a number.
    """
    _check(similarity, owner)
    return _rank(similarity, owner, owner)


def video_to_text(similarity: Tensor, owner: Tensor) -> Ranks:
    """Rank the caption group of every video among the groups; a video without captions has no group and no query.

    Args:
        similarity: as of `text_to_video`.
        owner: as of `text_to_video`.

    Raises:
        ValueError: as of `text_to_video`.
    """
    _check(similarity, owner)
    videos, group = torch.unique(owner, return_inverse=True)
    best = similarity.new_full((len(videos), similarity.shape[1]), -torch.inf)
    best = best.scatter_reduce(0, group[:, None].expand_as(similarity), similarity, "amax")  # [groups, n]
    return _rank(best[:, videos].T, torch.arange(len(videos), device=owner.device), videos)


def _check(similarity: Tensor, owner: Tensor) -> None:
    if not len(owner):
        raise ValueError("no video has a caption; retrieval needs a data set built with captions")
    if bool((owner.diff() < 0).any()):
        raise ValueError("the captions of a video do not lie together; sort them by video")
    if bool(similarity.isnan().any()):
        raise ValueError("similarities are not numbers (NaN): the encoder or the projection head has diverged")


def _rank(scores: Tensor, right: Tensor, owner: Tensor) -> Ranks:
    """Rank the right candidate of each query: scores `[q, candidates]`, right `[q]`."""
    own = scores.gather(1, right[:, None])
    higher, equal = (scores > own).sum(dim=1), (scores == own).sum(dim=1) - 1
    return Ranks(
        values=(1 + higher.double() + equal.double() / 2).cpu().numpy(),
        owner=owner.cpu().numpy(),
        num_tied=int((equal > 0).sum()),
        num_candidates=scores.shape[1],
    )


def summarize(ranks: Ranks) -> dict[str, float]:
    """Recalls `r1`, `r5`, `r10` as fractions, `median_rank` (numpy's: the mean of the middle two), `mean_rank`."""
    recalls = {f"r{most}": float((ranks.values <= most).mean()) for most in RECALLS}
    return {**recalls, "median_rank": float(np.median(ranks.values)), "mean_rank": float(ranks.values.mean())}


def bootstrap(ranks: Ranks, num_draws: int, seed: int) -> Mapping[str, tuple[float, float]]:
    """Where the numbers of `summarize` lie with 95 % confidence: percentiles over draws of as many videos, with return.

    A video is drawn with all its captions, which are no independent queries; the candidates stay as they are.
    """
    order = np.argsort(ranks.values, kind="stable")
    values = ranks.values[order]
    videos, video_of = np.unique(ranks.owner, return_inverse=True)
    random = np.random.default_rng(seed)
    drawn: list[dict[str, float]] = []
    for _ in range(num_draws):
        times = np.bincount(random.integers(len(videos), size=len(videos)), minlength=len(videos))
        drawn.append(_weighted(values, times[video_of[order]]))
    found = {name: np.quantile([each[name] for each in drawn], INTERVAL) for name in drawn[0]}
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def _weighted(values: NDArray[np.float64], times: NDArray[np.int64]) -> dict[str, float]:
    """`summarize` of sorted ranks of which each is there so many times."""
    until = np.cumsum(times)
    total = int(until[-1])
    middle = values[np.searchsorted(until, [(total - 1) // 2, total // 2], side="right")]
    below = np.searchsorted(values, RECALLS, side="right")
    counts = np.concatenate([[0], until])[below]
    recalls = {f"r{most}": float(count / total) for most, count in zip(RECALLS, counts, strict=True)}
    return {**recalls, "median_rank": float(middle.mean()), "mean_rank": float((values * times).sum() / total)}

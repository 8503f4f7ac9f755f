"""Text-video retrieval by a frozen encoder: a projection head learns on one data set, and is measured on others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from evaluation.encoder import Encoder, dense_clip
from evaluation.features import video_name
from evaluation.ranks import gather_rows
from evaluation.result import Result, Split
from evaluation.retrieval_head import Pairs, ProjectionHead, RetrievalConfig, similarity, train_head
from evaluation.retrieval_ranks import Ranks, bootstrap, summarize, text_to_video, video_to_text
from pipeline.world import World

CAPTIONS = "captions"  # the field with the embeddings of a video's captions, f16 rows [captions, E]
DIRECTIONS = {"t2v": text_to_video, "v2t": video_to_text}
PROTOCOL = {
    "evaluator": "retrieval",
    "features": "mean of the tokens of a whole clip, and of the views of a video, standardised by those of train",
    "head": "linear, GELU, linear on the video's side; captions frozen, centred by the mean of train's",
    "loss": "symmetric InfoNCE, one caption of each video drawn anew in every pass; the last state is scored",
    "t2v": "every caption is a query among all videos",
    "v2t": "every video is a query among the groups of captions, a group scoring as its best caption",
    "rank": "1 + those that score higher + others that score the same / 2, of cosines rounded to a millionth",
    "median_rank": "the mean of the two middle ranks of an even number",
    "interval": "bootstrap, 95 %, over videos with all their captions; the candidates stay",
}


def retrieval(model: nn.Module, data: Mapping[str, Split], config: RetrievalConfig, world: World) -> Result:
    """Retrieval as an `Evaluator`, on `train` and `val`; see `retrieve`."""
    if set(data) != {"train", "val"}:
        raise ValueError(f"retrieval needs the data train and val, got {', '.join(data) or 'none'}")
    return retrieve(model, data, config, world)["val"]


def retrieve(model: nn.Module, data: Mapping[str, Split], config: RetrievalConfig, world: World) -> dict[str, Result]:
    """Train one head on `train`, and measure it on every other role.

    A row of a result is a video: its key, the rank that each of its captions finds it at, and the rank that it finds
    its captions at.

    Args:
        model: an `Encoder`.
        data: by role, each with `clip` and the rows `captions`; a video may have none.
        config: of the head.
        world: the ranks, which each encode their part and all get the results.

    Returns:
        A result for each role but `train`.

    Raises:
        ValueError: a split is not there, has no captions, or its captions are embedded otherwise than those of train.
    """
    if not isinstance(model, Encoder):
        raise ValueError(f"retrieval measures an Encoder, got {type(model).__name__}")
    if "train" not in data or len(data) < 2:
        raise ValueError(f"retrieval needs the data train and one to measure on, got {', '.join(data) or 'none'}")
    pairs = {role: encode_pairs(model, split, role, world) for role, split in data.items()}
    widths = {role: found.text.shape[1] for role, found in pairs.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"captions are embedded {widths} wide; embed them all with one text encoder")
    with torch.autocast(model.device.type, enabled=False):
        head = train_head(pairs["train"], config, model.device)
        return {
            role: _measure(model, head, pairs, {name: data[name] for name in ("train", role)}, config)
            for role in data
            if role != "train"
        }


def encode_pairs(encoder: Encoder, split: Split, role: str, world: World) -> Pairs:
    """Encode the videos of a split and take the stored embeddings of their captions; the same on every rank.

    Raises:
        ValueError: there are no captions.
    """
    videos, numbers, texts, owners = [], [], [], []
    for batch in split.batches:
        if CAPTIONS not in batch:
            raise ValueError(f"the data {role} has no field {CAPTIONS!r}; add it with `reelshard add-field`")
        keep = batch["valid"].cpu()
        pooled = encoder(dense_clip(batch["clip"], encoder)).float().mean(dim=1).cpu()  # [B, D]
        number, (rows, length) = batch["index"].cpu()[keep], _captions_of(batch, keep)
        videos.append(pooled[keep])
        numbers.append(number)
        texts.append(rows[torch.arange(rows.shape[1]) < length[:, None]].float())
        owners.append(number.repeat_interleave(length))
    if not videos:
        raise ValueError(f"there is no batch of the data {role}")
    video, number, text, owner = (
        gather_rows(torch.cat(part), world, encoder.device) for part in (videos, numbers, texts, owners)
    )
    if not len(text):
        raise ValueError(f"no video of the data {role} has a caption; build it from annotations with captions")
    order, by_owner = number.argsort(), owner.argsort(stable=True)
    number = number[order]
    found = Pairs(video[order], text[by_owner], torch.searchsorted(number, owner[by_owner]), number)
    return average_views(found, [video_name(each, split.about, split.key_of) for each in number.tolist()])


def average_views(pairs: Pairs, videos: Sequence[str]) -> Pairs:
    """Put the samples of one video together: the mean of their features, with the captions of the first of them.

    Args:
        pairs: of samples.
        videos: that each sample is of.
    """
    first: dict[str, int] = {}
    leader = torch.tensor([first.setdefault(name, row) for row, name in enumerate(videos)])  # [n]
    kept, group, count = torch.unique(leader, return_inverse=True, return_counts=True)
    if len(kept) == len(videos):
        return pairs
    total = pairs.video.new_zeros(len(kept), pairs.video.shape[1]).index_add_(0, group, pairs.video)
    leads = leader[pairs.owner] == pairs.owner
    return Pairs(total / count[:, None], pairs.text[leads], group[pairs.owner[leads]], pairs.index[kept])


def _captions_of(batch: Mapping[str, Tensor], keep: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings `[B, longest, E]` and how many each sample has; of a field with one a sample, `[B, 1, E]`."""
    rows = batch[CAPTIONS].cpu()[keep]
    if f"{CAPTIONS}_length" not in batch:
        return rows[:, None], torch.ones(len(rows), dtype=torch.long)
    return rows, batch[f"{CAPTIONS}_length"].cpu()[keep]


def _measure(
    encoder: Encoder,
    head: ProjectionHead,
    pairs: Mapping[str, Pairs],
    data: Mapping[str, Split],
    config: RetrievalConfig,
) -> Result:
    """Measure a head on the last of two roles, of which the first is `train`."""
    role = list(data)[-1]
    train, test, split = pairs["train"], pairs[role], data[role]
    cosines = similarity(head, test, encoder.device)
    found = {name: rank(cosines, test.owner) for name, rank in DIRECTIONS.items()}
    metrics = {"chance": 1 / len(test.video)}  # of text to video, R@1
    intervals: dict[str, tuple[float, float]] = {}
    for name, ranks in found.items():
        drawn = bootstrap(ranks, config.num_draws, config.seed)
        for metric, value in summarize(ranks).items():
            metrics[f"{name}_{metric}"], intervals[f"{name}_{metric}"] = value, drawn[metric]
    counts = test.owner.bincount(minlength=len(test.video))
    return Result(
        metrics=metrics,
        intervals=intervals,
        rows=_rows(found, counts, [split.key_of(sample) for sample in test.index.tolist()]),
        protocol={
            **encoder.protocol(),
            **PROTOCOL,
            **{f"num_{name}_tied": ranks.num_tied for name, ranks in found.items()},
            "num_train_videos": len(train.video),
            "num_train_captions": len(train.text),
            "num_videos": len(test.video),
            "num_captions": len(test.text),
            "num_without_captions": int((counts == 0).sum()),
            **{name: value for name, value in asdict(config).items() if name != "seed"},
        },
        digests={
            **{name: part.digest for name, part in data.items()},
            "model": encoder.digest,
            **({"view": split.view_hash} if split.view_hash else {}),
        },
        seed=config.seed,
    )


def _rows(found: Mapping[str, Ranks], counts: Tensor, keys: list[str]) -> list[dict[str, object]]:
    starts = counts.cumsum(0) - counts
    to_video = [
        found["t2v"].values[start : start + count].tolist()
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
    ]
    to_text = dict(zip(found["v2t"].owner.tolist(), found["v2t"].values.tolist(), strict=True))
    return [
        {"key": key, "t2v_ranks": ranks, "v2t_rank": to_text.get(number)}
        for number, (key, ranks) in enumerate(zip(keys, to_video, strict=True))
    ]

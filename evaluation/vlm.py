"""What words cost a foveated VLM, by how it looks at the frames: the same words each time, and two baselines beside.

One pass over the frames serves all of it. The gap between `coarse_fine`, in which it is trained, and `autoregressive`,
in which it is used, is taken over the samples of 8 frames or more: of one frame there is none, by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evaluation.ranks import gather_rows
from evaluation.result import Result, Split
from evaluation.standard_errors import per_word
from model.foveated import MODES, FoveatedVLM, Mode, SeenVideos
from pipeline.world import World

OTHER, TEXT = "other_frames", "text_alone"
BASELINES = (OTHER, TEXT)
MIN_FRAMES = 8  # of a sample in the gap
Scored = Literal["text", "answer"]


@dataclass(frozen=True, kw_only=True)
class VLMConfig:
    """What is scored, and how the frames are looked at.

    Attributes:
        modes: of them the first one is that of the baselines, unless `coarse_fine` is among them.
        scored: "text" scores all words, "answer" what the assistant says.
    """

    modes: tuple[Mode, ...] = MODES
    scored: Scored = "answer"

    def __post_init__(self) -> None:
        if not self.modes or len(set(self.modes)) < len(self.modes) or not set(self.modes) <= set(MODES):
            raise ValueError(f"the modes are {', '.join(self.modes) or 'none'}; name each once of {', '.join(MODES)}")

    @property
    def of_baselines(self) -> Mode:
        """How the frames of another sample are looked at."""
        return "coarse_fine" if "coarse_fine" in self.modes else self.modes[0]


def wanted_tokens(batch: Mapping[str, Tensor], scored: Scored) -> Tensor | None:
    """Which tokens of a batch a configuration scores, bool `[B, L]`; None is all of them."""
    return batch["answer"].bool() if scored == "answer" else None


@torch.no_grad()
def measure_vlm(model: nn.Module, data: Mapping[str, Split], config: VLMConfig, world: World) -> Result:
    """Score held-out samples; an evaluator, see `evaluation.result`.

    Returns:
        Metrics: `ce_MODE`, `ce_other_frames` (each sample with the frames of the one before it), `ce_text_alone` (all
        but a first word that nothing precedes), in nats a word; `gap`, by how much autoregressive is above fine, of it;
        `gain_BASELINE`, by how much of the baseline the right frames are below it on the same words, and
        `gain_BASELINE_errors`, that difference in standard errors (of samples, paired). What there is nothing to take
        from, such as the frames of text alone, is left out.
    """
    assert isinstance(model, FoveatedVLM)
    names = (*config.modes, *BASELINES)
    split, found, device = data["val"], [], torch.device("cpu")
    was_training = model.training
    model.eval()
    for batch, others in _with_others(split.batches):
        device = batch["index"].device
        found.append(_score(model, batch, others, config))
    model.train(was_training)
    columns = ("index", "num_frames", "num_tokens", "num_behind", *names, "right_behind")
    rows = torch.cat(found) if found else torch.zeros(0, len(columns), dtype=torch.float64)
    rows = gather_rows(rows, world, device)
    rows = rows[rows[:, 0].argsort()]
    table = dict(zip(columns, rows.unbind(dim=1), strict=True))
    spelled = [_spelled(row, columns, split) for row in rows.tolist()]
    return Result(
        metrics=_metrics(table, config),
        rows=spelled,
        protocol={"evaluator": "vlm", **asdict(config), "baselines_by": config.of_baselines, "gap_from": MIN_FRAMES},
        digests={"val": split.digest},
        tables={"by_source": _by_source(table, [row["source"] for row in spelled], config)},
    )


def _with_others(
    batches: Iterable[Mapping[str, Tensor]],
) -> Iterator[tuple[Mapping[str, Tensor], list[Tensor | None]]]:
    """Batches, and for each of their rows the frames of the sample before it that has any."""
    before: Tensor | None = None
    for batch in batches:
        own = _own_frames(batch)
        with_frames = [frames for frames in own if frames is not None]
        if before is None and len(with_frames) > 1:
            before = with_frames[-1]  # the first sample of all takes those of a later one
        others: list[Tensor | None] = []
        for frames in own:
            others.append(before)
            before = before if frames is None else frames
        yield batch, others
        before = None if before is None else before.clone()  # the batch's memory is filled again


def _own_frames(batch: Mapping[str, Tensor]) -> list[Tensor | None]:
    """The real frames of each row, None where there are none."""
    if "frames" not in batch:
        return [None] * len(batch["index"])
    lengths = batch["frames_length"].tolist()
    return [frames[:length] if length else None for frames, length in zip(batch["frames"], lengths, strict=True)]


def _padded(frames: list[Tensor | None], like: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of several samples as `[B, T, ...]` and their lengths."""
    lengths = [0 if some is None else len(some) for some in frames]
    together = like.new_zeros(len(frames), max(lengths, default=0), *like.shape[2:])
    for row, some in enumerate(frames):
        if some is not None:
            together[row, : len(some)] = some
    return together, torch.tensor(lengths, device=like.device)


def _score(vlm: FoveatedVLM, batch: Mapping[str, Tensor], others: list[Tensor | None], config: VLMConfig) -> Tensor:
    """Sums over the words of each valid sample, f64 on the CPU, a row each; not a number where there is none."""
    tokens, lengths = batch["tokens"], batch["tokens_length"]
    wanted = wanted_tokens(batch, config.scored)
    seen = vlm.see(batch["frames"], batch["frames_length"]) if "frames" in batch else None
    scored = vlm.scored(seen, tokens, lengths, wanted)
    behind = vlm.scored(None, tokens, lengths, wanted)  # what text alone can score
    costs = {mode: _costs(vlm, seen, mode, tokens, scored) for mode in config.modes}
    strange: SeenVideos | None = None
    if "frames" in batch:
        strange = vlm.see(*_padded(others, batch["frames"]))
    by_other = _costs(vlm, strange, config.of_baselines, tokens, scored & vlm.scored(strange, tokens, lengths, wanted))
    has_other = torch.tensor([some is not None for some in others], device=tokens.device)
    has_other &= batch["frames_length"] > 0 if "frames" in batch else torch.zeros_like(has_other)
    sums: dict[str, Tensor] = {mode: each.double().sum(dim=1) for mode, each in costs.items()}
    sums[OTHER] = by_other.double().sum(dim=1).where(has_other, math.nan)
    sums[TEXT] = _costs(vlm, None, config.of_baselines, tokens, behind).double().sum(dim=1)
    right = (costs[config.of_baselines] * behind).double().sum(dim=1)
    num_frames = batch["frames_length"] if "frames" in batch else torch.zeros_like(lengths)
    counts = (batch["index"], num_frames, scored.sum(dim=1), behind.sum(dim=1))
    rows = torch.stack([*(count.double() for count in counts), *sums.values(), right], dim=1)
    return rows[batch["valid"]].cpu()


def _costs(vlm: FoveatedVLM, seen: SeenVideos | None, mode: Mode, tokens: Tensor, scored: Tensor) -> Tensor:
    return vlm.costs(seen, None if seen is None else vlm.show(seen, mode), tokens, scored)


def _metrics(table: Mapping[str, Tensor], config: VLMConfig) -> dict[str, float]:
    words, behind = table["num_tokens"], table["num_behind"]
    metrics = {f"ce_{mode}": _mean(table[mode], words) for mode in config.modes}
    metrics |= {f"ce_{OTHER}": _mean(table[OTHER], words), f"ce_{TEXT}": _mean(table[TEXT], behind)}
    metrics |= _gain(OTHER, table[config.of_baselines], table[OTHER], words)
    metrics |= _gain(TEXT, table["right_behind"], table[TEXT], behind)
    long = table["num_frames"] >= MIN_FRAMES
    if {"coarse_fine", "autoregressive"} <= set(config.modes):
        fine, stepwise = (_mean(table[mode][long], words[long]) for mode in ("coarse_fine", "autoregressive"))
        metrics["gap"] = (stepwise - fine) / fine if fine else math.nan
        metrics |= {"num_gap_samples": float(long.sum()), "num_gap_tokens": float(words[long].sum())}
    metrics |= {"num_samples": float(len(words)), "num_tokens": float(words.sum())}
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _mean(sums: Tensor, words: Tensor) -> float:
    """Over all words of the samples that have a value."""
    there = ~sums.isnan()
    total = float(words[there].sum())
    return float(sums[there].sum()) / total if total else math.nan


def _gain(name: str, right: Tensor, wrong: Tensor, words: Tensor) -> dict[str, float]:
    """How much less the right words cost than the wrong, sample by sample: as a share, and in standard errors."""
    there = ~wrong.isnan() & (words > 0)
    right, wrong, words = right[there], wrong[there], words[there]
    if len(words) < 2:
        return {f"gain_{name}": math.nan, f"gain_{name}_errors": math.nan}
    difference, error = per_word(wrong - right, words)
    share = difference / (float(wrong.sum()) / float(words.sum())) if float(wrong.sum()) else math.nan
    return {f"gain_{name}": share, f"gain_{name}_errors": difference / error if error else math.nan}


def _by_source(table: Mapping[str, Tensor], sources: list[str], config: VLMConfig) -> list[dict[str, Any]]:
    """The costs of a word by source, in the order of their names."""
    found = []
    for source in sorted(set(sources)):
        own = torch.tensor([other == source for other in sources])
        words, behind = table["num_tokens"][own], table["num_behind"][own]
        costs = {f"ce_{name}": _mean(table[name][own], words) for name in (*config.modes, OTHER)}
        costs[f"ce_{TEXT}"] = _mean(table[TEXT][own], behind)
        counts = {"num_samples": int(own.sum()), "num_tokens": int(words.sum())}
        there = {name: value for name, value in costs.items() if not math.isnan(value)}
        found.append({"source": source, **counts, **there})
    return found


def _spelled(row: list[float], columns: tuple[str, ...], split: Split) -> dict[str, Any]:
    named = dict(zip(columns, row, strict=True))
    counts = {name: int(named.pop(name)) for name in ("index", "num_frames", "num_tokens", "num_behind")}
    number = counts.pop("index")
    about = {"key": split.key_of(number), "source": str(split.about(number).get("source", ""))}
    return {**about, **counts, **{name: None if math.isnan(value) else value for name, value in named.items()}}

"""The attentive probe: a query that looks at all frozen tokens, trained while the tokens stream by.

Nothing of the tokens is kept: a clip has 1,568 of them, 1.2 MB in f16, and a data set a thousand times its labels. All
settings of a sweep are trained on the same pass; the one that does best on a held-out part of the training videos
counts.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.choice import Setting, held_out_part, labelled_part, settings_of
from evaluation.classified import classify
from evaluation.features import origin_name, video_name
from evaluation.heads import AttentiveHead, cosine
from evaluation.probe import digests_of, refuse_other_splits
from evaluation.ranks import gather_rows, sum_ranks
from evaluation.result import Result, Split
from evaluation.scores import Held, top_k
from pipeline.world import World

# The tokens f32 `[B, N, D]` of the rows (bool `[B]`) of a batch, by layer.
TokensOf = Callable[[Mapping[str, Tensor], Tensor], Mapping[int, Tensor]]


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig:
    """Training of the attentive classifier; the values are V-JEPA's on SSv2.

    Attributes:
        blocks: 1 is V-JEPA's probe, 4 is V-JEPA 2's.
        heads: of its attention.
        epochs: passes over the training data.
        lrs: peak learning rates of AdamW to choose among, cosine to zero.
        weight_decays: of AdamW to choose among; biases, norms and the query have none.
        clip_grad: longest gradient.
        held_out: share of the training videos that settings are chosen on, and nothing is trained on; of no effect
            where there is nothing to choose.
        label_share: of the labels of each class that are used.
        seed: of weights, order and what is held out.
    """

    blocks: int = 1
    heads: int = 16
    epochs: int = 20
    lrs: tuple[float, ...] = (1e-3,)
    weight_decays: tuple[float, ...] = (0.01,)
    clip_grad: float = 1.0
    held_out: float = 0.1
    label_share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.blocks, self.heads, self.epochs) < 1:
            raise ValueError(f"blocks={self.blocks}, heads={self.heads}, epochs={self.epochs}; give at least 1 of each")
        if not self.lrs or not self.weight_decays or min(self.lrs) <= 0 or min(self.weight_decays) < 0:
            raise ValueError(
                f"lrs={self.lrs}, weight_decays={self.weight_decays}; there has to be one of each, rates are positive "
                "and decays not negative"
            )
        if not 0 < self.held_out < 1 or self.clip_grad <= 0:
            raise ValueError(f"held_out={self.held_out} has to be between 0 and 1, clip_grad={self.clip_grad} positive")


@dataclass(frozen=True, kw_only=True)
class Attended:
    """An attentive probe's result, and the classifier that gave it.

    Attributes:
        result: see `Result`.
        head: that was chosen.
        layer: of the encoder whose tokens it reads.
    """

    result: Result
    head: AttentiveHead
    layer: int


class _Learner:
    """One classifier of a sweep, with its optimiser."""

    def __init__(self, head: AttentiveHead, layer: int, setting: Setting, config: AttentiveConfig) -> None:
        self.head, self.layer, self.setting, self.config = head, layer, setting, config
        flat = [parameter for parameter in head.parameters() if parameter.ndim < 2 or parameter is head.query]
        rest = [parameter for parameter in head.parameters() if parameter.ndim >= 2 and parameter is not head.query]
        self.optimizer = torch.optim.AdamW(
            [{"params": rest, "weight_decay": setting.weight_decay}, {"params": flat, "weight_decay": 0.0}],
            lr=setting.lr,
        )

    def step(self, tokens: Mapping[int, Tensor], labels: Tensor, count: int, rate: float, world: World) -> None:
        """One step on `count` samples of all ranks; `rate` is the share of the peak rate."""
        self.optimizer.zero_grad(set_to_none=False)
        if len(labels):
            loss = F.cross_entropy(self.head(tokens[self.layer]), labels, reduction="sum") / count
            loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.head.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = sum_ranks(torch.cat([gradient.reshape(-1) for gradient in gradients]), world)
        start = 0
        for parameter in parameters:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        for group in self.optimizer.param_groups:
            group["lr"] = self.setting.lr * rate
        self.optimizer.step()


def attentive_probe(
    tokens_of: TokensOf,
    layers: Sequence[int],
    data: Mapping[str, Split],
    config: AttentiveConfig,
    world: World,
    *,
    width: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    about: Mapping[str, Any],
    digest: str,
) -> Attended:
    """Train attentive probes on streamed tokens, choose one on a held-out part of `train`, and score it on `val`.

    Args:
        tokens_of: gives the frozen tokens.
        layers: that are tried.
        data: `train`, whose passes are each in another order, and `val`.
        config: the training.
        world: the ranks, which each read their part.
        width: of the tokens, D.
        device: where the probes are trained.
        dtype: of their arithmetic; other than f32 is autocast.
        about: what the protocol says of the encoder.
        digest: of its weights.

    Raises:
        ValueError: Labels and classes do not fit together, or no sample has a label.
    """
    refuse_other_splits(data)
    train, val, names = data["train"], data["val"], tuple(data["train"].label_names)
    trained, held_out = _parts(train, layers, config)
    generator = torch.Generator().manual_seed(config.seed)
    learners = []
    for layer in layers:
        for setting in settings_of(config.lrs, config.weight_decays):
            head = AttentiveHead(width, len(names), blocks=config.blocks, heads=config.heads, generator=generator)
            learners.append(_Learner(head.to(device), layer, setting, config))
    with torch.autocast(device.type, dtype if dtype != torch.float32 else torch.bfloat16, dtype != torch.float32):
        _train(learners, tokens_of, train, trained.to(device), world)
        chosen, tried = learners[0], list[dict[str, Any]]()
        if held_out is not None:
            scores, held, _ = _score(learners, tokens_of, train, held_out.to(device), world)
            right = [top_k(held.average(each), held.labels, 1).float().mean().item() for each in scores]
            chosen = learners[max(range(len(right)), key=right.__getitem__)]
            tried = [_row(each, top1) for each, top1 in zip(learners, right, strict=True)]
        scores, held, num_unlabelled = _score([chosen], tokens_of, val, None, world)
    found = classify(scores, held, names, seed=config.seed)
    used = [train.about(number)["label"] for number in trained.nonzero()[:, 0].tolist()]
    most_frequent = torch.tensor(used).bincount().argmax()
    result = Result(
        metrics={**found.metrics, "chance": float((held.labels == most_frequent).float().mean())},
        rows=found.rows,
        intervals=found.intervals,
        tables={**found.tables, **({"tried": tried} if tried else {})},
        protocol={
            "evaluator": "attentive probe",
            "features": f"all tokens of a clip; {config.blocks} block(s), {config.heads} heads",
            **about,
            **found.protocol,
            "layer": chosen.layer,
            "chosen_lr": chosen.setting.lr,
            "chosen_weight_decay": chosen.setting.weight_decay,
            "chosen_on": "nothing was chosen" if held_out is None else f"{config.held_out:.0%} of the training videos",
            "num_train": len(used),
            "num_unlabelled": num_unlabelled,
            **asdict(config),
        },
        digests=digests_of(data, digest),
        seed=config.seed,
    )
    return Attended(result=result, head=chosen.head, layer=chosen.layer)


def _parts(train: Split, layers: Sequence[int], config: AttentiveConfig) -> tuple[Tensor, Tensor | None]:
    """Which samples are trained on and which settings are chosen on, bool `[n]`; None where nothing is chosen."""
    abouts = [train.about(number) for number in range(train.num_samples)]
    labels = torch.tensor([_label(about) for about in abouts], dtype=torch.int64)
    videos = [video_name(number, abouts.__getitem__, train.key_of) for number in range(train.num_samples)]
    used = labels >= 0
    if not used.any():
        raise ValueError("no sample has a label; a probe needs a data set built from labelled videos")
    if int(labels.max()) >= len(train.label_names):
        raise ValueError(f"label {int(labels.max())} does not exist: there are {len(train.label_names)} classes")
    if config.label_share < 1:
        used &= labelled_part(labels, videos, config.label_share, config.seed)
    if len(layers) * len(settings_of(config.lrs, config.weight_decays)) == 1:
        return used, None
    origins = [origin_name(number, abouts.__getitem__, train.key_of) for number in range(train.num_samples)]
    there = [origin for origin, is_used in zip(origins, used.tolist(), strict=True) if is_used]
    out = torch.zeros_like(used)
    out[used] = held_out_part(there, config.held_out, config.seed)
    return used & ~out, out


def _label(about: Mapping[str, Any]) -> int:
    label = about.get("label")
    return label if isinstance(label, int) else -1


def _train(learners: Sequence[_Learner], tokens_of: TokensOf, train: Split, used: Tensor, world: World) -> None:
    assert isinstance(train.batches, Sized)
    epochs = learners[0].config.epochs
    step, num_steps = 0, epochs * len(train.batches)
    for _ in range(epochs):
        for batch in train.batches:
            rows = batch["valid"] & used[batch["index"]]
            count = int(sum_ranks(rows.sum(), world))
            if count:
                tokens = tokens_of(batch, rows) if rows.any() else {}  # another rank may have some
                for learner in learners:
                    learner.step(tokens, batch["label"][rows], count, cosine(step, num_steps), world)
            step += 1


def _score(
    learners: Sequence[_Learner], tokens_of: TokensOf, split: Split, used: Tensor | None, world: World
) -> tuple[list[Tensor], Held, int]:
    """Probabilities f32 `[m, C]` of the samples that are used, by learner; the samples; how many have no label."""
    scores = [[torch.zeros(0, learner.head.linear.out_features)] for learner in learners]
    labels, index = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    num_unlabelled, device = 0, torch.device("cpu")
    with torch.no_grad():
        for batch in split.batches:
            device, label = batch["valid"].device, batch["label"]
            valid = batch["valid"] if used is None else batch["valid"] & used[batch["index"]]
            rows = valid & (label >= 0)
            num_unlabelled += int((valid & (label < 0)).sum())
            if not rows.any():
                continue
            tokens = tokens_of(batch, rows)
            for found, learner in zip(scores, learners, strict=True):
                found.append(learner.head(tokens[learner.layer]).float().softmax(dim=1).cpu())
            labels.append(label[rows].cpu())
            index.append(batch["index"][rows].cpu())
    numbers = gather_rows(torch.cat(index), world, device)
    order = numbers.argsort()
    together = [gather_rows(torch.cat(found), world, device)[order] for found in scores]
    own = gather_rows(torch.cat(labels), world, device)[order]
    videos = [video_name(number, split.about, split.key_of) for number in numbers[order].tolist()]
    return together, Held.of(own, videos), int(sum_ranks(torch.tensor(num_unlabelled, device=device), world))


def _row(learner: _Learner, top1: float) -> dict[str, Any]:
    setting = learner.setting
    return {"layer": learner.layer, "lr": setting.lr, "weight_decay": setting.weight_decay, "top1": top1}

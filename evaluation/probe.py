"""The linear probe: how much of the labels a linear map reads off frozen features."""

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.features import Features, extract_features
from evaluation.result import Result, Split
from model.parts import weights_digest
from pipeline.world import World


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Training of the linear classifier; the features are computed once and stay as they are.

    Attributes:
        epochs: passes over the training features.
        batch_size: samples in a step.
        lr: peak learning rate of AdamW, cosine to zero.
        weight_decay: of AdamW.
        seeds: one classifier is trained per seed (initial weights and order); the mean and spread are reported.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-2
    weight_decay: float = 1e-2
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.lr <= 0 or self.weight_decay < 0 or not self.seeds:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, weight_decay={self.weight_decay}, "
                f"seeds={self.seeds}; epochs and batch_size have to be at least 1, lr positive, weight_decay not "
                "negative, and there has to be a seed"
            )


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Top-1 accuracies on the held-out features, each in [0, 1].

    Attributes:
        top1: mean over the seeds.
        top1_spread: standard deviation over the seeds (0 for one seed).
        top1_per_seed: one per seed.
        top1_interval: 95 % interval of `top1` for the number of held-out samples (Wilson).
        train_top1: mean over the seeds, on the training features.
        num_train: training samples.
        num_val: held-out samples.
    """

    top1: float
    top1_spread: float
    top1_per_seed: tuple[float, ...]
    top1_interval: tuple[float, float]
    train_top1: float
    num_train: int
    num_val: int


@dataclass(frozen=True, kw_only=True)
class _Predictions:
    """What the classifier of one seed says.

    Attributes:
        val: i64 `[num_val]`, classes of the held-out samples.
        train_top1: its accuracy on what it was trained on.
    """

    val: Tensor
    train_top1: float


def probe(model: nn.Module, data: Mapping[str, Split], config: ProbeConfig, world: World) -> Result:
    """The linear probe as an `Evaluator`: of an encoder (see `extract_features`), on `train` and `val`.

    A row is a held-out sample, with what each seed's classifier makes of it.

    Raises:
        ValueError: A split is not there, has no labels, or other classes than the other one.
    """
    for role in ("train", "val"):
        if role not in data:
            raise ValueError(f"a probe needs the data train and val, got {', '.join(data) or 'none'}")
    names = tuple(data["train"].label_names)
    if names != tuple(data["val"].label_names):
        raise ValueError("the label names of train and val differ; build both from the same labels")
    device = next(model.parameters()).device
    precision = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
    with _in_eval(model):
        train, val = (extract_features(model, data[role].batches, world=world) for role in ("train", "val"))
    with torch.autocast(device.type, enabled=False):
        predictions = _predict(train, val, len(names), config, device)
    found = _score(predictions, train, val)
    low, high = found.top1_interval
    assert val.index is not None
    guesses = torch.stack([each.val for each in predictions], dim=1).tolist()
    return Result(
        metrics={
            "top1": found.top1,
            "top1_spread": found.top1_spread,
            "top1_low": low,
            "top1_high": high,
            "train_top1": found.train_top1,
            "chance": chance(train, val),
        },
        rows=[
            {"key": data["val"].key_of(sample), "label": label, "predicted": guess}
            for sample, label, guess in zip(val.index.tolist(), val.labels.tolist(), guesses, strict=True)
        ],
        protocol={
            "evaluator": "linear probe",
            "features": "mean of the tokens of a whole clip, standardised by those of train",
            "interval": "Wilson, 95 %, for the number of held-out samples",
            "precision": str(precision).removeprefix("torch."),
            "num_classes": len(names),
            "num_train": found.num_train,
            "num_val": found.num_val,
            "num_unlabelled": train.num_unlabelled + val.num_unlabelled,
            **asdict(config),
        },
        digests={**{role: data[role].digest for role in ("train", "val")}, "model": weights_digest(model.state_dict())},
    )


def linear_probe(
    train: Features, val: Features, num_classes: int, config: ProbeConfig, device: torch.device | str = "cpu"
) -> ProbeResult:
    """Train a linear classifier on standardised features, once per seed, and score it on held-out ones.

    Raises:
        ValueError: If a label is not below `num_classes`.
    """
    return _score(_predict(train, val, num_classes, config, torch.device(device)), train, val)


def _predict(
    train: Features, val: Features, num_classes: int, config: ProbeConfig, device: torch.device
) -> list[_Predictions]:
    """What the classifier of each seed says."""
    highest = int(max(train.labels.max(), val.labels.max()))
    if highest >= num_classes:
        raise ValueError(f"label {highest} does not exist: there are {num_classes} classes")
    mean, scale = train.values.mean(dim=0), train.values.std(dim=0, correction=0).clamp(min=1e-6)
    train_x, val_x = (((part.values - mean) / scale).to(device) for part in (train, val))
    train_y = train.labels.to(device)
    found = []
    for seed in config.seeds:
        classifier = _train_classifier(train_x, train_y, num_classes, config, seed)
        with torch.inference_mode():
            guess, train_guess = (classifier(x).argmax(dim=1).cpu() for x in (val_x, train_x))
        found.append(_Predictions(val=guess, train_top1=_top1(train_guess, train.labels)))
    return found


def _score(predictions: Sequence[_Predictions], train: Features, val: Features) -> ProbeResult:
    scores = [_top1(each.val, val.labels) for each in predictions]
    return ProbeResult(
        top1=statistics.fmean(scores),
        top1_spread=statistics.stdev(scores) if len(scores) > 1 else 0.0,
        top1_per_seed=tuple(scores),
        top1_interval=wilson_interval(statistics.fmean(scores), len(val.labels)),
        train_top1=statistics.fmean(each.train_top1 for each in predictions),
        num_train=len(train.labels),
        num_val=len(val.labels),
    )


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Where a share that was counted on `count` samples lies, with 95 % confidence: Wilson's score interval.

    It stays within [0, 1] and has a width at 0 and 1 too (Wilson 1927). It is about which samples were held out; what
    another training run or another machine would have given is not in it.
    """
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def chance(train: Features, val: Features) -> float:
    """Top-1 on `val` of always saying the most frequent label of `train`."""
    most_frequent = train.labels.bincount().argmax()
    return float((val.labels == most_frequent).float().mean())


def _train_classifier(x: Tensor, y: Tensor, num_classes: int, config: ProbeConfig, seed: int) -> nn.Linear:
    """Minibatch AdamW on the cross-entropy, with a cosine from `lr` to zero."""
    generator = torch.Generator().manual_seed(seed)
    classifier = nn.Linear(x.shape[1], num_classes)
    nn.init.trunc_normal_(classifier.weight, std=0.01, generator=generator)
    nn.init.zeros_(classifier.bias)
    classifier.to(x.device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    num_steps = config.epochs * math.ceil(len(x) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(config.epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), config.batch_size):
            rows = order[start : start + config.batch_size]
            loss = F.cross_entropy(classifier(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return classifier


def _top1(guess: Tensor, labels: Tensor) -> float:
    return int((guess == labels).sum()) / len(labels)


@contextlib.contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then each module's own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

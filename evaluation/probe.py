"""The linear probe: how much of the labels a linear map reads off frozen features."""

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.choice import labelled_part
from evaluation.classified import classify
from evaluation.encoder import Encoder
from evaluation.features import Features, collect, extract_features, layer_vectors, origins_of, videos_of
from evaluation.heads import LinearHead
from evaluation.linear import Choice, ProbeConfig, choose, probabilities, train_linear
from evaluation.result import Result, Split
from evaluation.scores import Held, wilson_interval
from model.parts import weights_digest
from pipeline.world import World
from shards.progress import Progress, untold


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
class FeatureSet:
    """The frozen features of a data set, and what a probe has to know of it.

    Attributes:
        layers: by the number of the encoder's layer, in the order in which they are tried.
        videos: that each sample is of.
        origins: the longer video that each is a clip of, where that is known; else its video.
        split: where they come from.
    """

    layers: Mapping[int, Features]
    videos: Sequence[str]
    origins: Sequence[str]
    split: Split

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        split: Split,
        world: World,
        layers: Sequence[int] | None = None,
        advance: Progress = untold,
    ) -> "FeatureSet":
        """Encode a data set once, for all layers; None is the last one.

        Raises:
            ValueError: no sample has a label, or the encoder has no such layer.
        """
        numbers = tuple(layers or (encoder.num_layers,))
        found = collect(split.batches, layer_vectors(encoder, numbers), world=world, advance=advance)
        return cls.of_features(dict(zip(numbers, found, strict=True)), split)

    @classmethod
    def of_features(cls, layers: Mapping[int, Features], split: Split) -> "FeatureSet":
        """Features that are there."""
        first = next(iter(layers.values()))
        names = split.about, split.key_of
        return cls(layers=layers, videos=videos_of(first, *names), origins=origins_of(first, *names), split=split)

    @property
    def labels(self) -> Tensor:
        """i64 `[n]`."""
        return next(iter(self.layers.values())).labels

    def part(self, chosen: Tensor) -> "FeatureSet":
        """The samples that are chosen, by a mask bool `[n]`."""
        layers = {number: features.part(chosen) for number, features in self.layers.items()}
        videos, origins = (list(compress(names, chosen.tolist())) for names in (self.videos, self.origins))
        return replace(self, layers=layers, videos=videos, origins=origins)


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A probe's result, and the classifiers that gave it.

    Attributes:
        result: see `Result`.
        heads: one a seed.
        layer: of the encoder whose features they read.
    """

    result: Result
    heads: Sequence[LinearHead]
    layer: int


def probe(model: nn.Module, data: Mapping[str, Split], config: ProbeConfig, world: World) -> Result:
    """The linear probe as an `Evaluator`: of an encoder (see `extract_features`), on `train` and `val`.

    A row is a held-out video, with what each seed's classifier makes of it.

    Raises:
        ValueError: A split is not there, has no labels, or other classes than the other one.
    """
    refuse_other_splits(data)
    layer = model.num_layers if isinstance(model, Encoder) else 1
    with in_eval(model):
        found = {role: extract_features(model, data[role].batches, world=world) for role in ("train", "val")}
    train, val = (FeatureSet.of_features({layer: found[role]}, data[role]) for role in ("train", "val"))
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    about = protocol_of(model)  # in the caller's autocast, which it names
    with torch.autocast(device.type, enabled=False):
        return probe_features(train, val, config, device, about=about, digest=digest_of(model)).result


def probe_features(
    train: FeatureSet,
    val: FeatureSet,
    config: ProbeConfig,
    device: torch.device,
    *,
    about: Mapping[str, Any],
    digest: str,
    share: float = 1.0,
) -> Probed:
    """Choose layer and settings on a part of `train`, train on all of it, and score on `val`.

    Args:
        train: what is learned from.
        val: what is scored on, and nothing is chosen on.
        config: the training.
        device: where the classifiers are trained.
        about: what the protocol says of the encoder.
        digest: of its weights.
        share: of the labels of each class that are used.

    Raises:
        ValueError: Labels and classes do not fit together, or there is nothing to choose on.
    """
    refuse_other_splits({"train": train.split, "val": val.split})
    names, seed = tuple(train.split.label_names), config.seeds[0]
    held = Held.of(val.labels, val.videos)
    if (highest := int(max(train.labels.max(), held.labels.max()))) >= len(names):
        raise ValueError(f"label {highest} does not exist: there are {len(names)} classes")
    used = train if share == 1 else train.part(labelled_part(train.labels, train.videos, share, seed))
    choice = choose(used.layers, used.origins, len(names), config, device, scored=used.videos)
    features, val_features = used.layers[choice.layer], val.layers[choice.layer]
    heads = [train_linear(features, len(names), config, choice.setting, seed=s, device=device) for s in config.seeds]
    found = classify([probabilities(head, val_features, device) for head in heads], held, names, seed=seed)
    train_top1 = statistics.fmean(_top1(probabilities(head, features, device), features.labels) for head in heads)
    result = Result(
        metrics={**found.metrics, "train_top1": train_top1, "chance": _chance(features.labels, held.labels)},
        rows=found.rows,
        intervals=found.intervals,
        tables={**found.tables, **({"tried": choice.tried} if choice.tried else {})},
        protocol={
            "evaluator": "linear probe",
            "features": "mean of the tokens of a whole clip, standardised by those of train",
            **about,
            **found.protocol,
            **_chosen(choice, config),
            "label_share": share,
            "num_train": len(features.labels),
            "num_unlabelled": sum(next(iter(part.layers.values())).num_unlabelled for part in (train, val)),
            **asdict(config),
        },
        digests=digests_of({"train": train.split, "val": val.split}, digest),
        seed=seed,
    )
    return Probed(result=result, heads=heads, layer=choice.layer)


def digests_of(data: Mapping[str, Split], model: str) -> dict[str, str]:
    """What names the data by role, the model, and the view where it is known."""
    view = next((split.view_hash for split in data.values() if split.view_hash), None)
    digests = {**{role: split.digest for role, split in data.items()}, "model": model}
    return digests if view is None else {**digests, "view": view}


def refuse_other_splits(data: Mapping[str, Split]) -> None:
    """Compare the classes of `train` and `val`.

    Raises:
        ValueError: One is not there, or they differ.
    """
    for role in ("train", "val"):
        if role not in data:
            raise ValueError(f"a probe needs the data train and val, got {', '.join(data) or 'none'}")
    if tuple(data["train"].label_names) != tuple(data["val"].label_names):
        raise ValueError("the label names of train and val differ; build both from the same labels")


def as_probe_result(result: Result) -> ProbeResult:
    """The numbers of a result, those of each seed counted from its rows."""
    metrics, protocol = result.metrics, result.protocol
    right = [[guess == row["label"] for guess in row["predicted"]] for row in result.rows]
    return ProbeResult(
        top1=metrics["top1"],
        top1_spread=metrics["top1_spread"],
        top1_per_seed=tuple(sum(seed) / len(seed) for seed in zip(*right, strict=True)),
        top1_interval=(metrics["top1_low"], metrics["top1_high"]),
        train_top1=metrics["train_top1"],
        num_train=protocol["num_train"],
        num_val=protocol["num_val"],
    )


def chance(train: Features, val: Features) -> float:
    """Top-1 on `val` of always saying the most frequent label of `train`."""
    return _chance(train.labels, val.labels)


def _chance(train: Tensor, val: Tensor) -> float:
    return float((val == train.bincount().argmax()).float().mean())


def _chosen(choice: Choice, config: ProbeConfig) -> dict[str, Any]:
    """What the protocol says of the choice; the values of the configuration stand beside it."""
    drawn = f"{config.held_out:.0%} of the training videos ({choice.num_held_out}), seed {config.seeds[0]}"
    return {
        "layer": choice.layer,
        "chosen_lr": choice.setting.lr,
        "chosen_weight_decay": choice.setting.weight_decay,
        "chosen_on": f"{drawn}; then trained on all" if choice.tried else "nothing was chosen",
    }


def _top1(scores: Tensor, labels: Tensor) -> float:
    return int((scores.argmax(dim=1) == labels).sum()) / len(labels)


def digest_of(model: nn.Module) -> str:
    """Of an encoder's weights."""
    return model.digest if isinstance(model, Encoder) else weights_digest(model.state_dict())


def protocol_of(model: nn.Module) -> dict[str, Any]:
    """What the protocol says of an encoder."""
    return model.protocol() if isinstance(model, Encoder) else {"precision": _precision(model)}


def _precision(model: nn.Module) -> str:
    device = next(model.parameters()).device
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then each module's own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


__all__ = ["ProbeConfig", "ProbeResult", "chance", "probe", "wilson_interval"]

"""Linear classifiers on the means of frozen tokens: their training, and the choice of layer and settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.choice import Setting, held_out_part, settings_of
from evaluation.features import Features
from evaluation.heads import LinearHead
from evaluation.scores import Held, top_k


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Training of the linear classifier; the features are computed once and stay as they are.

    Attributes:
        epochs: passes over the training features.
        batch_size: samples in a step.
        lr: peak learning rate of AdamW, cosine to zero.
        weight_decay: of AdamW.
        seeds: one classifier is trained per seed (initial weights and order); the mean and spread are reported. The
            first one also draws what is held out.
        lrs: learning rates to choose among, in the place of `lr`.
        weight_decays: weight decays to choose among, in the place of `weight_decay`.
        held_out: share of the training videos that the choice is made on; the chosen settings then train on all.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-2
    weight_decay: float = 1e-2
    seeds: tuple[int, ...] = (0, 1, 2)
    lrs: tuple[float, ...] = ()
    weight_decays: tuple[float, ...] = ()
    held_out: float = 0.1

    def __post_init__(self) -> None:
        rates = [setting.lr for setting in self.settings]
        decays = [setting.weight_decay for setting in self.settings]
        if min(self.epochs, self.batch_size) < 1 or min(rates) <= 0 or min(decays) < 0 or not self.seeds:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, lr={self.lr}, weight_decay={self.weight_decay}, "
                f"seeds={self.seeds}, lrs={self.lrs}, weight_decays={self.weight_decays}; epochs and batch_size have "
                "to be at least 1, lr positive, weight_decay not negative, and there has to be a seed"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}; it has to be between 0 and 1 (both excluded)")

    @property
    def settings(self) -> list[Setting]:
        """What is chosen among; one where nothing is."""
        return settings_of(self.lrs or (self.lr,), self.weight_decays or (self.weight_decay,))


@dataclass(frozen=True)
class Choice:
    """What was chosen on the held-out part of the training videos.

    Attributes:
        layer: whose features are used.
        setting: that the classifier is trained with.
        tried: a row each: `layer`, `lr`, `weight_decay`, `top1` there; empty where there was nothing to choose.
        num_held_out: videos it was chosen on.
    """

    layer: int
    setting: Setting
    tried: list[dict[str, Any]]
    num_held_out: int = 0


def choose(
    layers: Mapping[int, Features],
    origins: Sequence[str],
    num_classes: int,
    config: ProbeConfig,
    device: torch.device,
    *,
    scored: Sequence[str] | None = None,
) -> Choice:
    """Choose layer and settings by top-1 on a part of the training videos, trained on the rest; the first of equals.

    Args:
        layers: features by layer.
        origins: of each sample; those of one video, or of one longer video, are held out together.
        num_classes: classes.
        config: the training.
        device: where it is done.
        scored: whose scores are averaged, by sample; None for the origins.

    Raises:
        ValueError: There is something to choose, and one video only.
    """
    settings, numbers = config.settings, list(layers)
    if len(settings) == 1 and len(numbers) == 1:
        return Choice(numbers[0], settings[0], [])
    seed = config.seeds[0]
    out = held_out_part(origins, config.held_out, seed)
    names = [name for name, is_out in zip(scored or origins, out.tolist(), strict=True) if is_out]
    held = Held.of(layers[numbers[0]].labels[out], names)
    tried: list[dict[str, Any]] = []
    for layer, features in layers.items():
        rest, part = features.part(~out), features.part(out)
        for setting in settings:
            head = train_linear(rest, num_classes, config, setting, seed=seed, device=device)
            right = top_k(held.average(probabilities(head, part, device)), held.labels, 1)
            top1 = float(right.float().mean())
            tried.append({"layer": layer, "lr": setting.lr, "weight_decay": setting.weight_decay, "top1": top1})
    best = max(tried, key=lambda row: row["top1"])
    return Choice(best["layer"], Setting(best["lr"], best["weight_decay"]), tried, len(held.labels))


def train_linear(
    features: Features,
    num_classes: int,
    config: ProbeConfig,
    setting: Setting,
    *,
    seed: int,
    device: torch.device,
) -> LinearHead:
    """Minibatch AdamW on the cross-entropy, with a cosine from the learning rate to zero.

    Raises:
        ValueError: If a label is not below `num_classes`.
    """
    if int(features.labels.max()) >= num_classes:
        raise ValueError(f"label {int(features.labels.max())} does not exist: there are {num_classes} classes")
    generator = torch.Generator().manual_seed(seed)
    head = LinearHead(features.values.shape[1], num_classes, generator)
    head.mean = features.values.mean(dim=0)
    head.scale = features.values.std(dim=0, correction=0).clamp(min=1e-6)
    x, y = ((features.values - head.mean) / head.scale).to(device), features.labels.to(device)
    head.to(device)
    optimizer = torch.optim.AdamW(head.linear.parameters(), lr=setting.lr, weight_decay=setting.weight_decay)
    num_steps = config.epochs * math.ceil(len(x) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(config.epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), config.batch_size):
            rows = order[start : start + config.batch_size]
            loss = F.cross_entropy(head.linear(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return head.eval()


def probabilities(head: LinearHead, features: Features, device: torch.device) -> Tensor:
    """What a classifier says of features, f32 `[n, C]`, on the CPU."""
    with torch.no_grad():
        return head.of_means(features.values.to(device)).softmax(dim=1).cpu()

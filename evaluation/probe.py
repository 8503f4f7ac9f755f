"""The linear probe: how much of the labels a linear map reads off frozen features."""

from dataclasses import dataclass


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

"""AdamW and its learning rate over a run."""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine that ends at a floor.

    Attributes:
        lr: peak learning rate, reached at the end of the warm-up.
        min_lr: the floor, reached at the last step.
        warmup: steps over which the rate rises from zero: below 1 a share of all steps, otherwise their number.
        betas: decay of AdamW's two moments.
        weight_decay: applied to matrices and kernels; never to biases, norms, tokens and positions.
        clip_grad_norm: the largest global gradient norm, above which gradients are scaled down.
    """

    lr: float = 2e-4
    min_lr: float = 1e-5
    warmup: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.lr or self.lr == 0:
            raise ValueError(f"lr={self.lr} and min_lr={self.min_lr}; needed is 0 <= min_lr <= lr with lr above 0")
        if self.warmup < 0 or (self.warmup >= 1 and self.warmup != int(self.warmup)):
            raise ValueError(
                f"warmup={self.warmup}; allowed is a share of the steps below 1, or a whole number of them"
            )
        if self.weight_decay < 0 or self.clip_grad_norm <= 0:
            raise ValueError(
                f"weight_decay={self.weight_decay} and clip_grad_norm={self.clip_grad_norm}; "
                "the first may not be negative, the second has to be positive"
            )


def refuse_long_warmup(num_steps: int, config: OptimConfig) -> None:
    """Compare the warm-up with the run: a rate that never reaches its peak is a mistake.

    Raises:
        ValueError: Naming both.
    """
    if config.warmup >= 1 and config.warmup > num_steps:
        raise ValueError(
            f"optim.warmup is {config.warmup:.0f} steps, the whole run has {num_steps}; give fewer, or a share of the "
            "run below 1 such as --optim.warmup 0.05"
        )


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """The rate of one step: 0 at step 0, `lr` at the end of the warm-up, `min_lr` at `num_steps` and after."""
    num_warmup = config.warmup * num_steps if config.warmup < 1 else config.warmup
    if step < num_warmup:
        return config.lr * step / num_warmup
    progress = min(1.0, (step - num_warmup) / max(1e-9, num_steps - num_warmup))
    return config.min_lr + (config.lr - config.min_lr) / 2 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, by name, in up to two groups: with and without weight decay.

    The fused kernel is one launch on a GPU, and can leave a step out without the host knowing (`found_inf`).
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [(name, p) for name, p in trainable if _decays(name, p)]
    plain = [(name, p) for name, p in trainable if not _decays(name, p)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # AdamW takes names in all groups or in none
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("pos_embed")

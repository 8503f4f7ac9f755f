"""AdamW and its learning rate over a run."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from training.objective import REST, Declared


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


def make_optimizer(model: nn.Module, config: OptimConfig, parts: Declared | None = None) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, by name, in up to two groups a part: with and without weight decay.

    The fused kernel is one launch on a GPU, and can leave a step out without the host knowing (`found_inf`). A
    parameter without a gradient is left as it is by a step: no decay, no momentum.
    """
    parts = parts or Declared()
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = []
    for part in (*parts.groups, REST):
        own = [(name, p) for name, p in trainable if parts.group_of(name) == part]
        scale = parts.groups[part].scale_of(config.lr) if part in parts.groups else 1.0
        for decays, weight_decay in ((True, config.weight_decay), (False, 0.0)):
            params = [(name, p) for name, p in own if _decays(name, p) == decays]
            if params:  # AdamW takes names in all groups or in none
                groups.append({"params": params, "weight_decay": weight_decay, "part": part, "scale": scale})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the run's learning rate, or its own multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def rates(optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    """The learning rate of each part that has one of its own, where the run's is `rate`."""
    return {group["part"]: rate * group["scale"] for group in optimizer.param_groups if group["part"] != REST}


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("pos_embed")

"""The state of optimisers and generators as tensors by name, for checkpoints."""

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimiser's state by parameter name: "exp_avg/<parameter>" and so on."""
    return {
        f"{kind}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for kind, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore what `optimizer_tensors` gave; parameters without state start without.

    Raises:
        ValueError: If there is state for a parameter that the optimiser does not have.
    """
    state = optimizer.state_dict()
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    number_of = dict(zip(names, numbers, strict=True))
    per_parameter: dict[int, Tensors] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if name not in number_of:
            raise ValueError(f"the checkpoint has optimiser state for {name}, which is not trained here")
        per_parameter.setdefault(number_of[name], {})[kind] = value
    optimizer.load_state_dict({**state, "state": per_parameter})


def rng_tensors(device: torch.device) -> Tensors:
    """The state of torch's generators, u8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_rng_tensors(tensors: Tensors, device: torch.device) -> None:
    """Restore torch's generators; a GPU's only where it was saved on one."""
    torch.set_rng_state(tensors["cpu"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)

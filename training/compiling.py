"""Whether a step is compiled."""

import importlib.util
import os
import shlex
import shutil
from typing import Literal, get_args

import torch

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Compile = Literal["auto", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
COMPILE: tuple[str, ...] = get_args(Compile)
OLDEST = (7, 0)  # compute capability for which Triton writes kernels


def compile_mode(setting: Compile | None, device: torch.device) -> CompileMode | None:
    """The mode of `torch.compile` on a device; None for none.

    "auto" compiles on a GPU wherever that can be done: half of a step's time goes into reading and writing between
    matrix products, which a compiler fuses. On a CPU it is none, as compiling takes longer than it saves there.
    """
    if setting != "auto":
        return setting
    return None if why_not_compiled(device) else "default"


def why_not_compiled(device: torch.device) -> str:
    """What keeps "auto" from compiling; nothing where it does."""
    if device.type != "cuda":
        return "not a GPU"
    if importlib.util.find_spec("triton") is None:
        return "there is no Triton"
    if torch.cuda.get_device_capability(device) < OLDEST:
        return f"{torch.cuda.get_device_name(device)} is older than Triton writes kernels for"
    compilers = (os.environ["CC"],) if os.environ.get("CC") else ("cc", "gcc", "clang")
    if not any(shutil.which(shlex.split(compiler)[0]) for compiler in compilers):
        return "Triton needs a C compiler"
    return ""

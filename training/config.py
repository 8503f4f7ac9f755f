"""How long a run trains, and what it leaves behind."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from pipeline.accelerator import TWINS, Accelerator, accelerator_of
from training.compiling import COMPILE, Compile

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Tracker = Literal["wandb", "tensorboard"]
BestMode = Literal["min", "max"]
GRAPH_MODES = ("reduce-overhead", "max-autotune")
MAX_EPOCHS = 1_000_000  # they are counted out one by one


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop, apart from what is trained on what.

    Attributes:
        epochs: how often the whole run goes through the data: it takes as many steps as these epochs have batches.
        steps: optimiser steps of the whole run, one global batch each; where they are given, `epochs` does not count.
        seed: draws the initial weights.
        device: "auto" is the rank's GPU where there is one, otherwise the CPU; or a torch device; or "twin", a CPU that
            plays a GPU and finds waits that are missing ("twin:fp16": a GPU without bf16).
        precision: of the forward pass; the weights are f32 always. "bf16" is autocast, and refused by a card that has
            none; "fp16" is autocast with a loss scaler; "auto" is bf16 on a GPU, fp16 on one without; fp32 on a CPU.
        chunk_size: clips of a rank's batch that go forward and backward at once; the gradients of the chunks add up
            to those of the batch. None takes the batch whole; smaller chunks need less memory.
        recompute: keep no activations of a block but its input, and compute it again on the way back (gradient
            checkpointing): less memory, about a third more arithmetic.
        compile: mode of `torch.compile`, or None for none; "auto" is "default" on a GPU that it can be done for.
        max_nonfinite: steps in a row whose loss or gradient is not finite, and which are skipped, that end the run.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints, and two validations where there is data for them; the last
            step always leaves one.
        evaluate_every: steps between two measurements by evaluators (`--evaluate`), a multiple of `checkpoint_every`;
            null measures at every checkpoint. The last step is always measured.
        keep_checkpoints: how many of the newest checkpoints are kept; the best one stays too.
        best_metric: which number of a checkpoint's row of metrics says which is the best: `validation_loss`, another
            `validation_` score, `loss`, or what an evaluator measured, such as `probe_top1`.
        best_mode: whether its lowest ("min") or its highest value ("max") is the best.
        trackers: send the metrics to "wandb" or "tensorboard" as well.
    """

    epochs: int | None = 10
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    chunk_size: int | None = None
    recompute: bool = False
    compile: Compile | None = "auto"
    max_nonfinite: int = 20
    log_every: int = 10
    checkpoint_every: int = 500
    evaluate_every: int | None = None
    keep_checkpoints: int = 2
    best_metric: str = "validation_loss"
    best_mode: BestMode = "min"
    trackers: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs and steps are both null; one of them has to say how long to train")
        for name in ("epochs", "steps", "max_nonfinite", "log_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; it has to be at least 1")
        if self.epochs is not None and self.epochs > MAX_EPOCHS:
            raise ValueError(f"epochs={self.epochs}; allowed are at most {MAX_EPOCHS:,}")
        every = self.evaluate_every
        if every is not None and (every < 1 or every % self.checkpoint_every):
            raise ValueError(
                f"evaluate_every={every} is not a multiple of checkpoint_every={self.checkpoint_every}; evaluators "
                "measure what a checkpoint keeps"
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size={self.chunk_size}; it has to be at least 1, or null for the whole batch")
        for name, value, allowed in (
            ("precision", self.precision, get_args(Precision)),
            ("best_mode", self.best_mode, get_args(BestMode)),
            ("compile", self.compile, (None, *COMPILE)),
            *(("trackers", tracker, get_args(Tracker)) for tracker in self.trackers),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}; allowed are {', '.join(map(str, allowed))}")

    def evaluates(self, step: int, num_steps: int) -> bool:
        """Whether evaluators measure at a step that leaves a checkpoint."""
        return step == num_steps or self.evaluate_every is None or step % self.evaluate_every == 0

    def num_steps(self, num_batches: Callable[[int], int]) -> int:
        """Optimiser steps of the whole run, on data that has `num_batches(epoch)` batches in an epoch."""
        return self.steps if self.steps is not None else self._steps_of_epochs(num_batches)

    def resolved(self, num_batches: Callable[[int], int]) -> "TrainConfig":
        """The same with its steps counted out; `epochs` is null in it unless the run is that many whole epochs."""
        steps = self.num_steps(num_batches)
        whole = self.epochs is not None and self._steps_of_epochs(num_batches) == steps
        return dataclasses.replace(self, steps=steps, epochs=self.epochs if whole else None)

    def _steps_of_epochs(self, num_batches: Callable[[int], int]) -> int:
        return sum(num_batches(epoch) for epoch in range(self.epochs or 0))

    def torch_device(self, local_rank: int = 0) -> torch.device:
        """The device this process trains on; of several GPUs, each rank of a machine has its own.

        Raises:
            ValueError: There is no device of that name.
        """
        name = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device("cpu" if name in TWINS else name)
        except RuntimeError:
            raise ValueError(
                f"train.device is {name!r}; give auto, cpu, cuda, one GPU such as cuda:1, or {' or '.join(TWINS)}"
            ) from None
        return torch.device("cuda", local_rank) if device.type == "cuda" and device.index is None else device

    def accelerator(self, local_rank: int = 0) -> Accelerator:
        """The same with its streams and events."""
        return accelerator_of(self.device if self.device in TWINS else self.torch_device(local_rank))

    def autocast_dtype(self, device: torch.device | Accelerator) -> torch.dtype | None:
        """The dtype of the forward pass, or None for plain f32.

        Raises:
            ValueError: bf16 is asked for, and the device has none.
        """
        accelerator = accelerator_of(device)
        if self.precision == "auto":
            return accelerator.half
        if self.precision == "bf16" and not accelerator.has_bf16:
            raise ValueError(
                f"train.precision is bf16, and {accelerator.name} has no bf16: take a card that has (NVIDIA: compute "
                "capability 8.0 or more), or --train.precision fp16, which scales the loss"
            )
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[self.precision]

    def refuse_overwritten_gradients(self, accelerator: Accelerator) -> None:
        """Replayed kernels put the gradients of each chunk where those of the chunk before still are.

        Raises:
            ValueError: A batch is cut into chunks, and compiled in a mode that replays.
        """
        replays = self.compile in GRAPH_MODES and accelerator.captures_graphs
        if replays and self.chunk_size is not None:
            raise ValueError(
                f"train.compile is {self.compile} and train.chunk_size {self.chunk_size}: that mode replays kernels as "
                "CUDA graphs, and the gradients of a chunk would be written over by the next; take --train.compile "
                "max-autotune-no-cudagraphs, or --train.chunk_size null"
            )

"""A frozen encoder, whoever trained it: u8 clips in, tokens of its last layer or of any other one out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.parts import weights_digest
from pipeline.dense import dense_video
from shards.format.pixels import IMAGENET_MEAN, IMAGENET_STD

Kind = Literal["run", "weights", "videomae", "pixels", "untrained"]
PIXEL_SIDE = 8


@dataclass(frozen=True)
class Trunk:
    """The network itself.

    Attributes:
        module: normalised video f32 `[B, 3, T, H, W]` to tokens, `[B, N, D]` or `[B, T', S, D]`.
        blocks: its blocks in order, each of which gives tokens of the same width; modules of `module`.
    """

    module: nn.Module
    blocks: Sequence[nn.Module] = ()


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """What is known of an encoder beside its weights.

    Attributes:
        name: for people, such as "run runs/x, step 900" or "MCG-NJU/videomae-base".
        kind: where it came from.
        clip_shape: of the clips that it takes, (3, T, H, W).
        grid: times and places of its tokens, (T', S); token i is at t = i // S, s = i % S.
        width: of its tokens, D.
        view: what it was trained on, or what its configuration says of its clips; None where nobody wrote it down.
        view_hash: of that view; None where nobody wrote it down.
        step: of its training; None where nobody wrote it down.
        final_norm: whether the tokens of the last layer are normalised (VideoMAEs fine-tuned for classes are not).
        mean: of the pixels scaled to [0, 1] that it was trained on, by channel.
        std: their deviation.
    """

    name: str
    kind: Kind
    clip_shape: tuple[int, int, int, int]
    grid: tuple[int, int]
    width: int
    view: Mapping[str, Any] | None = None
    view_hash: str | None = None
    step: int | None = None
    final_norm: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class Encoder(nn.Module):
    """A frozen encoder on its device: no gradients, and evaluation mode whatever is asked.

    Attributes:
        facts: what is known of it.
        digest: of its weights.
        dtype: of its arithmetic; weights and tokens are f32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, trunk: Trunk, facts: EncoderFacts, *, fresh: Callable[[], Trunk], dtype: torch.dtype = torch.float32
    ) -> None:
        """Freeze a network.

        Args:
            trunk: with its weights.
            facts: what is known of it.
            fresh: the same architecture with weights from torch's generator.
            dtype: of the arithmetic; other than f32 is autocast.
        """
        super().__init__()
        self.facts, self.dtype = facts, dtype
        self.digest = weights_digest(trunk.module.state_dict())
        self.trunk = trunk.module.requires_grad_(False)
        self._blocks = tuple(trunk.blocks)
        self._fresh = fresh
        self.register_buffer("mean", torch.tensor(facts.mean).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(facts.std).view(1, 3, 1, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode: it is frozen."""
        del mode
        return super().train(False)

    @property
    def name(self) -> str:
        """For people."""
        return self.facts.name

    @property
    def kind(self) -> Kind:
        """Where it came from."""
        return self.facts.kind

    @property
    def view(self) -> Mapping[str, Any] | None:
        """What it was trained on."""
        return self.facts.view

    @property
    def view_hash(self) -> str | None:
        """Of that view."""
        return self.facts.view_hash

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Of the clips that it takes, (3, T, H, W)."""
        return self.facts.clip_shape

    @property
    def grid(self) -> tuple[int, int]:
        """Times and places of its tokens."""
        return self.facts.grid

    @property
    def width(self) -> int:
        """Of its tokens."""
        return self.facts.width

    @property
    def num_layers(self) -> int:
        """Layers that `layer` knows."""
        return max(1, len(self._blocks))

    @property
    def device(self) -> torch.device:
        """Where it is, and clips have to be."""
        return self.mean.device

    def forward(self, clip: Tensor) -> Tensor:
        """Encode clips; they are normalised in here.

        Args:
            clip: u8 `[B, 3, T, H, W]`.

        Returns:
            f32 `[B, N, D]`, the tokens of the last layer.

        Raises:
            ValueError: The clips are not of the shape it takes.
        """
        return self.layers(clip, (self.num_layers,))[0]

    def layer(self, clip: Tensor, number: int) -> Tensor:
        """The tokens f32 `[B, N, D]` that layer `number` gives, from 1 to `num_layers`; see `layers`."""
        return self.layers(clip, (number,))[0]

    @torch.no_grad()
    def layers(self, clip: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """The tokens of several layers, in one pass.

        The last layer's have gone through the last norm, where there is one; others are what the block gave.

        Args:
            clip: u8 `[B, 3, T, H, W]`.
            numbers: of layers, from 1 to `num_layers`.

        Returns:
            f32 `[B, N, D]` each, in the order of `numbers`.

        Raises:
            ValueError: The clips are not of the shape it takes, or there is no such layer.
        """
        if clip.dtype != torch.uint8 or tuple(clip.shape[1:]) != self.clip_shape:
            raise ValueError(
                f"{self.name} takes clips u8 [B, {', '.join(map(str, self.clip_shape))}], got {clip.dtype} "
                f"{list(clip.shape)}"
            )
        for number in numbers:
            if not 1 <= number <= self.num_layers:
                raise ValueError(f"{self.name} has layers 1 to {self.num_layers}, there is no layer {number}")
        pixels = (clip.float() / 255 - self.mean) / self.std
        wanted = {number for number in numbers if number < self.num_layers}
        with self._watched(wanted) as found, self._precision():
            found[self.num_layers] = self.trunk(pixels)
        return [found[number].float().flatten(1, -2) for number in numbers]

    def untrained(self, seed: int = 0) -> Encoder:
        """The same architecture with fresh weights, on the same device; the global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            trunk = self._fresh()
        facts = replace(self.facts, name=f"untrained (seed {seed}), as {self.name}", kind="untrained", step=None)
        return Encoder(trunk, facts, fresh=self._fresh, dtype=self.dtype).to(self.device)

    def protocol(self) -> dict[str, Any]:
        """What a result says of it, in the types of JSON."""
        facts = self.facts
        return {
            "encoder": self.name,
            "encoder_kind": self.kind,
            "step": facts.step,
            "clip": list(self.clip_shape),
            "grid": list(self.grid),
            "width": self.width,
            "final_norm": facts.final_norm,
            "precision": str(self.dtype).removeprefix("torch."),
        }

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        lower = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if lower else torch.bfloat16, enabled=lower)

    @contextlib.contextmanager
    def _watched(self, numbers: set[int]) -> Iterator[dict[int, Tensor]]:
        """What the blocks of these numbers give while this lasts."""
        found: dict[int, Tensor] = {}

        def keep(number: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                found[number] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self._blocks[number - 1].register_forward_hook(keep(number)) for number in numbers]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


class _Pixels(nn.Module):
    """The clip itself, made small: one token of all its values."""

    def __init__(self, num_times: int) -> None:
        super().__init__()
        self.num_times = num_times

    def forward(self, pixels: Tensor) -> Tensor:
        """Average `[B, 3, T, H, W]` over T' times and 8 x 8 places: `[B, 1, 3 * T' * 64]`."""
        return F.adaptive_avg_pool3d(pixels, (self.num_times, PIXEL_SIDE, PIXEL_SIDE)).flatten(1)[:, None]


def pixel_encoder(like: Encoder) -> Encoder:
    """What a probe reads off the pixels of the clips that `like` takes, averaged over T' times and 8 x 8 places."""
    trunk = Trunk(_Pixels(like.grid[0]))
    facts = EncoderFacts(
        name=f"pixels, {like.grid[0]} x {PIXEL_SIDE} x {PIXEL_SIDE}",
        kind="pixels",
        clip_shape=like.clip_shape,
        grid=(1, 1),
        width=3 * like.grid[0] * PIXEL_SIDE**2,
        final_norm=False,
        mean=like.facts.mean,
        std=like.facts.std,
    )
    return Encoder(trunk, facts, fresh=lambda: trunk).to(like.device)


def dense_clip(clip: Tensor, encoder: Encoder) -> Tensor:
    """Clips as a loader gives them, frames or tubes u8, as the encoder takes them: `[B, 3, T, H, W]`.

    Raises:
        ValueError: They are not whole clips of the encoder's size.
    """
    return dense_video(clip, size=encoder.clip_shape[2:])

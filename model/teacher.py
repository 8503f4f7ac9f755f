"""The frozen VideoMAE teacher: clips in, projected f16 tokens out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.pretrained import (
    DTYPES,
    choose_device,
    choose_dtype,
    load_pretrained,
    one_line,
    quiet,
    spell_device,
    weights_sha256,
)
from shards.format.pixels import IMAGENET_MEAN, IMAGENET_STD

PROJECTION_NAME = "projection.npy"
# What a VideoMAE has above its encoder, by the beginning of the names: a classifier, or what pretraining needs.
HEADS = ("classifier.", "fc_norm.", "decoder.", "encoder_to_decoder.", "mask_token")
ALLOWED = "Give a VideoMAE id on the Hub or a folder made by save_pretrained, or `--teacher none` for clips only"


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Who makes the targets, and what is kept of what it says.

    Attributes:
        id: an id on the Hub, or a folder that `save_pretrained` made; "none" for clips without targets.
        projection_dim: width of the targets, D, by a fixed random projection; null keeps the teacher's own values.
        projection_seed: of the projection.
        dtype: "float32", "float16" or "bfloat16"; "auto" is float16 on a GPU and float32 on a CPU.
    """

    id: str = "MCG-NJU/videomae-huge-finetuned-kinetics"
    projection_dim: int | None = 384
    projection_seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("teacher.id is empty; give a VideoMAE id on the Hub, a folder, or 'none'")
        if self.projection_dim is not None and self.projection_dim < 1:
            raise ValueError(f"teacher.projection_dim is {self.projection_dim}; give at least 1, or null for none")
        if self.projection_seed < 0:
            raise ValueError(f"teacher.projection_seed is {self.projection_seed}; it may not be negative")
        if self.dtype not in (*DTYPES, "auto"):
            raise ValueError(f"the teacher's dtype is {self.dtype!r}; choose auto, {', '.join(DTYPES)}")

    @property
    def name(self) -> str:
        """The id; of a folder its last part, which is the same on every machine."""
        folder = Path(self.id)
        return folder.resolve().name if folder.is_absolute() or folder.is_dir() else self.id


class VideoMAETeacher(nn.Module):
    """VideoMAE's last hidden state, optionally through a fixed random projection.

    Checkpoints finetuned for classification pool before their last norm, so their tokens are the un-normalised residual
    stream; `provenance["layer_norm"]` says which kind this is.
    """

    mean: Tensor
    std: Tensor
    projection: Tensor | None

    def __init__(self, backbone: nn.Module, name: str, projection: NDArray[np.float32] | None, seed: int) -> None:
        """Take a loaded backbone and a projection f32 [hidden, D], or None to keep the hidden width.

        Raises:
            ValueError: the projection does not start from the backbone's width.
        """
        super().__init__()
        config: Any = backbone.config
        if projection is not None and projection.shape[0] != config.hidden_size:
            raise ValueError(
                f"the projection is {projection.shape}, the teacher's tokens have {config.hidden_size} values"
            )
        self.backbone = backbone.eval().requires_grad_(False)
        self.name, self.seed = name, seed
        self.clip_shape = (int(config.num_frames), int(config.image_size), int(config.image_size), 3)
        times, side = config.num_frames // config.tubelet_size, config.image_size // config.patch_size
        self.num_tokens = int(times * side * side)
        self.hidden_size = int(config.hidden_size)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).mul(255), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).mul(255), persistent=False)
        weights = None if projection is None else torch.from_numpy(projection)
        self.register_buffer("projection", weights, persistent=False)
        self._weights_sha256 = weights_sha256(backbone)  # while still on the CPU

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a clip, [T, H, W, 3]."""
        return self.clip_shape

    @property
    def output_dtype(self) -> str:
        """Of the targets."""
        return "<f2"

    @property
    def output_shape(self) -> tuple[int, int]:
        """Tokens and width of a target, (N, D); token i is t * S + s."""
        return self.num_tokens, self.hidden_size if self.projection is None else self.projection.shape[1]

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """The projection as an npy file, to be kept beside the targets it made."""
        if self.projection is None:
            return {}
        file = io.BytesIO()
        np.save(file, self.projection.cpu().numpy(), allow_pickle=False)
        return {PROJECTION_NAME: file.getvalue()}

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that decides the targets' bits."""
        config: Any = self.backbone.config
        device = self.mean.device
        projection = None
        if self.projection is not None:
            sha256 = hashlib.sha256(self.projection.cpu().numpy().tobytes()).hexdigest()
            projection = {"seed": self.seed, "shape": list(self.projection.shape), "sha256": sha256}
        import transformers

        return {
            "id": self.name,
            "revision": getattr(config, "_commit_hash", None),
            "weights_sha256": self._weights_sha256,
            "layer_norm": self.backbone.layernorm is not None,
            "hidden_size": self.hidden_size,
            "projection": projection,
            "dtype": str(next(self.backbone.parameters()).dtype).removeprefix("torch."),
            "device": spell_device(device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @torch.inference_mode()
    def forward(self, clips: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Turn clips into targets.

        Args:
            clips: u8 [B, T, H, W, 3].

        Returns:
            f16 [B, N, D]; a value beyond float16 comes out infinite, and the builder refuses it.

        Raises:
            ValueError: the clips are not of the teacher's shape.
        """
        if clips.shape[1:] != self.clip_shape:
            raise ValueError(
                f"the teacher takes clips {list(self.clip_shape)} ([T, H, W, 3]), got {list(clips.shape[1:])}; "
                "set view.num_frames and view.size to the teacher's"
            )
        pixels = torch.from_numpy(clips).to(self.mean.device)
        pixels = (pixels.float() - self.mean) / self.std  # [B, T, H, W, 3]
        pixels = pixels.permute(0, 1, 4, 2, 3).to(next(self.backbone.parameters()).dtype)  # [B, T, 3, H, W]
        tokens: Tensor = self.backbone(pixel_values=pixels).last_hidden_state  # [B, N, hidden], or N + 1 with a CLS
        if tokens.shape[1] == self.num_tokens + 1:
            tokens = tokens[:, 1:]
        if tokens.shape[1:] != (self.num_tokens, self.hidden_size):
            raise ValueError(f"the teacher gave {list(tokens.shape[1:])}, not {self.num_tokens} x {self.hidden_size}")
        tokens = tokens.float()
        if self.projection is not None:
            tokens = tokens @ self.projection  # [B, N, D]
        return tokens.half().cpu().numpy()


def random_projection(hidden_size: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return the fixed projection f32 [hidden_size, dim]: standard normal / sqrt(hidden_size), which keeps f16 safe."""
    normal = np.random.default_rng(seed).standard_normal((hidden_size, dim), dtype=np.float32)
    return normal / np.float32(np.sqrt(hidden_size))


def load_videomae_teacher(config: TeacherConfig, device: str = "auto") -> VideoMAETeacher:
    """Load a VideoMAE checkpoint as a teacher; nothing is printed.

    Args:
        config: which, and what becomes of its tokens.
        device: such as "cuda:0"; "auto" takes the first GPU, or the CPU.

    Raises:
        ValueError: the checkpoint cannot be loaded, or its weights are not those of a VideoMAE of its configuration.
    """
    from transformers import VideoMAEModel

    place = choose_device(device)
    precision = choose_dtype(config.dtype, place)
    backbone: Any = load_pretrained(VideoMAEModel, config.id, dtype=precision, heads=HEADS, allowed=ALLOWED)
    hidden_size, seed = int(backbone.config.hidden_size), config.projection_seed
    dim = config.projection_dim
    projection = None if dim is None else random_projection(hidden_size, dim, seed)
    return VideoMAETeacher(backbone, config.name, projection, seed).to(place)


def teacher_width(config: TeacherConfig) -> int:
    """Width of the targets, D, from the checkpoint's configuration alone: no weights are read.

    Raises:
        ValueError: there is no such checkpoint.
    """
    from transformers import VideoMAEConfig

    if config.projection_dim is not None:
        return config.projection_dim
    with quiet(), one_line(config.id, ALLOWED):
        return int(VideoMAEConfig.from_pretrained(config.id).hidden_size)

"""The frozen SAM3 teacher: pictures in, one level of its feature pyramid in f16 out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    spell_device,
    weights_sha256,
)

MEAN = STD = 0.5  # of pixels from 0 to 1, as SAM3's processor has them
KEPT = ("position_ids", "inv_freq")  # ends of the names of buffers that lose places in half precision
ALLOWED = "Give a SAM3 id on the Hub or a folder made by save_pretrained, or `--teacher none` for frames and masks only"


@dataclass(frozen=True, kw_only=True)
class Sam3TeacherConfig:
    """Who makes the features.

    Attributes:
        id: an id on the Hub, or a folder that `save_pretrained` made; "none" for frames and masks without features.
        image_size: side of the pictures in pixels; positions are made anew for it.
        level: of the feature pyramid, 0 to 3; of a picture of 504 px level 3 is 18 x 18 cells.
        dtype: "float32", "float16" or "bfloat16"; "auto" is float16 on a GPU and float32 on a CPU.
    """

    id: str = "facebook/sam3"
    image_size: int = 504
    level: int = 3
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("teacher.id is empty; give a SAM3 id on the Hub, a folder, or 'none'")
        if self.image_size < 1:
            raise ValueError(f"teacher.image_size is {self.image_size}; it must be at least 1")
        if not 0 <= self.level <= 3:
            raise ValueError(f"teacher.level is {self.level}; the pyramid has the levels 0 to 3")
        if self.dtype not in (*DTYPES, "auto"):
            raise ValueError(f"teacher.dtype is {self.dtype!r}; choose auto, {', '.join(DTYPES)}")

    @property
    def name(self) -> str:
        """The id; of a folder its last part, which is the same on every machine."""
        folder = Path(self.id)
        return folder.resolve().name if folder.is_absolute() or folder.is_dir() else self.id


class Sam3Teacher(nn.Module):
    """SAM3's vision encoder; the rest of the model is never run."""

    def __init__(self, encoder: nn.Module, config: Sam3TeacherConfig, dtype: torch.dtype, revision: str | None) -> None:
        """Take a vision encoder in float32, and the precision that it is to run in.

        Raises:
            ValueError: pictures of that size give no such level.
        """
        super().__init__()
        self._weights_sha256 = weights_sha256(encoder)
        self._config, self._dtype, self._revision = config, dtype, revision
        kept = {name: buffer.clone() for name, buffer in encoder.named_buffers() if name.endswith(KEPT)}
        self.encoder = encoder.eval().requires_grad_(False).to(dtype)
        for name, buffer in kept.items():
            owner, _, last = name.rpartition(".")
            setattr(self.encoder.get_submodule(owner), last, buffer)
        self._level = self._find_level()

    def _find_level(self) -> tuple[int, ...]:
        config: Any = self.encoder.config
        side, patch = self._config.image_size, int(config.backbone_config.patch_size)
        if side % (2 * patch):
            raise ValueError(
                f"teacher.image_size is {side}, which the teacher does not cut into patches of {patch} px, two by two: "
                f"give a multiple of {2 * patch}"
            )
        factors = [float(factor) for factor in config.scale_factors]
        cells = int(side // patch * factors[self._config.level])
        return int(config.fpn_hidden_size), cells, cells

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a picture, [H, W, 3]."""
        return self._config.image_size, self._config.image_size, 3

    @property
    def output_dtype(self) -> str:
        """Of the features."""
        return "<f2"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the features, (C, h, w)."""
        return self._level

    @property
    def files(self) -> Mapping[str, bytes]:
        """Nothing lies beside the shards."""
        return {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that decides the features' bits."""
        import transformers

        return {
            "id": self._config.name,
            "revision": self._revision,
            "weights_sha256": self._weights_sha256,  # of the vision encoder
            "image_size": self._config.image_size,
            "level": self._config.level,
            "mean": MEAN,
            "std": STD,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": spell_device(self._device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @torch.inference_mode()
    def forward(self, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Turn pictures into features.

        Args:
            pictures: u8 [B, H, W, 3].

        Returns:
            f16 [B, C, h, w]; a value beyond float16 comes out infinite, and the builder refuses it.

        Raises:
            ValueError: the pictures are not of the teacher's shape.
        """
        if pictures.shape[1:] != self.input_shape:
            raise ValueError(
                f"the teacher takes pictures {list(self.input_shape)} ([H, W, 3]), got {list(pictures.shape[1:])}; "
                "give view.size and teacher.image_size one value"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._device).permute(0, 3, 1, 2)  # [B, 3, H, W]
        pixels = (pixels.float() / 255 - MEAN) / STD
        levels = self.encoder(pixel_values=pixels.to(self._dtype)).fpn_hidden_states
        features: Tensor = levels[self._config.level]
        if tuple(features.shape[1:]) != self._level:
            raise ValueError(f"the teacher gave {list(features.shape[1:])}, not {list(self._level)}")
        return features.float().half().cpu().numpy()


def load_sam3_teacher(config: Sam3TeacherConfig, device: str = "auto") -> Sam3Teacher:
    """Load the vision encoder of a SAM3 checkpoint, of images or of videos; nothing is printed.

    Args:
        config: which, and what is kept of it.
        device: such as "cuda:0"; "auto" takes the first GPU, or the CPU.

    Raises:
        ValueError: the checkpoint cannot be loaded, or its weights are not those of a SAM3 of its configuration.
    """
    from transformers import Sam3Model

    place = choose_device(device)
    precision = choose_dtype(config.dtype, place)
    model: Any = load_pretrained(
        Sam3Model, config.id, dtype=torch.float32, allowed=ALLOWED, image_size=config.image_size
    )
    revision = getattr(model.config, "_commit_hash", None)
    return Sam3Teacher(model.vision_encoder, config, precision, revision).to(place)

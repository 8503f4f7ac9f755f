"""Decodes on a device what codecs have stored (shards/codecs): the same bits as `pipeline.read.decode` gives.

The whole arithmetic is of whole numbers, or one product in f32, so no device rounds otherwise. Pixels come out as the
f32 that normalisation takes anyway; between stored bytes and normalised pixels there is no copy of them as u8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shards.codecs.int8 import FRONT_BYTES, SCALE_BYTES
from shards.codecs.yuv420 import BLUE_OF_U, GREEN_OF_U, GREEN_OF_V, RED_OF_V
from shards.format.schema import Field

_DTYPES = {"<f2": torch.float16, "<f4": torch.float32}


def decoded(field: Field, stored: Tensor) -> Tensor:
    """A field of a batch as it would be without its codec.

    Args:
        field: what is stored.
        stored: u8 `[B, P, ...]`, any number P of positions, on any device.
    """
    return _pixels(field, stored, torch.int16).to(torch.uint8) if field.codec == "yuv420" else _tokens(field, stored)


def as_pixels(field: Field | None, tensor: Tensor) -> Tensor:
    """Pixels from 0 to 255 in f32, all of them whole: of u8, or where there is a `field`, of what its codec stored."""
    if field is None:
        return tensor.to(torch.float32)
    if field.codec == "yuv420":
        return _pixels(field, tensor, torch.float32)
    return _tokens(field, tensor).to(torch.float32)


def _pixels(field: Field, stored: Tensor, dtype: torch.dtype) -> Tensor:
    """RGB from 0 to 255, whole numbers of a dtype that also holds what is cut off."""
    height, width = field.fixed_shape[-3:-1]
    frames = stored.reshape(-1, stored.shape[-1])
    light = frames[:, : height * width].view(-1, height // 2, 2, width // 2, 2, 1)
    colours = frames[:, height * width :].view(-1, 2, height // 2, width // 2).to(torch.int32) - 128
    u, v = colours.unbind(1)
    half = 1 << 14
    red, blue = (RED_OF_V * v + half) >> 15, (BLUE_OF_U * u + half) >> 15
    green = -((GREEN_OF_U * u + GREEN_OF_V * v + half) >> 15)
    offsets = torch.stack((red, green, blue), -1).to(dtype)
    pixels = torch.add(offsets[:, :, None, :, None], light).clamp_(0, 255)
    return pixels.view(*stored.shape[:-1], height, width, 3)


def _tokens(field: Field, stored: Tensor) -> Tensor:
    assert field.dtype is not None
    scales = stored[..., :SCALE_BYTES].clone(memory_format=torch.contiguous_format).view(torch.float32)
    numbers = stored[..., FRONT_BYTES:].view(torch.int8)
    tokens = torch.empty(numbers.shape, dtype=_DTYPES[field.dtype], device=stored.device)
    return torch.mul(numbers, scales, out=tokens)

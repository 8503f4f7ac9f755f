"""Decodes on a device what codecs have stored (shards/codecs): the same bits as `pipeline.read.decode` gives.

The whole arithmetic is of whole numbers, or one product in f32, so no device rounds otherwise. Pixels come out as the
f32 that normalisation takes anyway; between stored bytes and normalised pixels there is no copy of them as u8. Every
value is computed from the bytes it comes from, with none gathered in between, so that a compiler makes one kernel of a
field, what follows included (`pipeline.convert`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from shards.codecs.int8 import FRONT_BYTES, SCALE_BYTES
from shards.codecs.yuv420 import BLUE_OF_U, GREEN_OF_U, GREEN_OF_V, RED_OF_V
from shards.format.schema import Field

_DTYPES = {"<f2": torch.float16, "<f4": torch.float32}
# Of U, of V and of 1 in red, green and blue, before 15 bits are cut off. That rounds down, so that the green one, which
# is subtracted, has one less than a half: -((a + 16384) >> 15) is (16383 - a) >> 15.
_HALF = 1 << 14
_COLOURS = ((0, -GREEN_OF_U, BLUE_OF_U), (RED_OF_V, -GREEN_OF_V, 0), (_HALF, _HALF - 1, _HALF))


@functools.cache
def colours_on(device: torch.device) -> Tensor:
    """What the functions here need on a device, made once, as that has to be waited for: i32 `[3, 3]`."""
    return torch.tensor(_COLOURS, dtype=torch.int32, device=device)


def decoded(field: Field, stored: Tensor, colours: Tensor) -> Tensor:
    """A field of a batch as it would be without its codec.

    Args:
        field: what is stored.
        stored: u8 `[B, P, ...]`, any number P of positions, on any device.
        colours: `colours_on` it.
    """
    if field.codec == "yuv420":
        return _pixels(field, stored, colours, torch.int16).to(torch.uint8)
    return _tokens(field, stored)


def as_pixels(field: Field | None, tensor: Tensor, colours: Tensor) -> Tensor:
    """Pixels from 0 to 255 in f32, all of them whole: of u8, or where there is a `field`, of what its codec stored."""
    if field is None:
        return tensor.to(torch.float32)
    if field.codec == "yuv420":
        return _pixels(field, tensor, colours, torch.float32)
    return _tokens(field, tensor).to(torch.float32)


def _pixels(field: Field, stored: Tensor, colours: Tensor, dtype: torch.dtype) -> Tensor:
    """RGB from 0 to 255, whole numbers of a dtype that also holds what is cut off."""
    height, width = field.fixed_shape[-3:-1]
    frames = stored.reshape(-1, stored.shape[-1])
    light = frames[:, : height * width].view(-1, height // 2, 2, width // 2, 2, 1)
    planes = frames[:, height * width :].view(-1, 2, height // 2, 1, width // 2, 1, 1)
    u, v = (planes.to(torch.int32) - 128).unbind(1)
    of_u, of_v, half = colours.unbind()
    offsets = (of_u * u + of_v * v + half) >> 15
    pixels = torch.add(offsets.to(dtype), light).clamp_(0, 255)
    return pixels.view(*stored.shape[:-1], height, width, 3)


def _tokens(field: Field, stored: Tensor) -> Tensor:
    assert field.dtype is not None
    bits, *more = stored[..., :SCALE_BYTES, None].to(torch.int32).unbind(-2)
    for place, byte in enumerate(more, 1):
        bits = bits | byte << 8 * place
    numbers = stored[..., FRONT_BYTES:].view(torch.int8)
    tokens = torch.empty(numbers.shape, dtype=_DTYPES[field.dtype], device=stored.device)
    return torch.mul(numbers, bits.view(torch.float32), out=tokens)

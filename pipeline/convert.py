"""What lies on a device to what a model takes: decoded, and pixels normalised, each field in one step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.batch.batch import Batch
from pipeline.coded import as_pixels, colours_on, decoded
from shards.format.schema import Field

PixelStatistics = tuple[tuple[float, ...], tuple[float, ...]]


class Converter:
    """Converts batches that are on a device.

    Compiled, a field is one kernel, from the bytes that lie there to what the model takes: each byte is read and each
    number written once. What is decoded is the same to the bit; what is normalised may differ in the last bit, as a
    compiler multiplies and adds in one rounding.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        normalize: Mapping[str, PixelStatistics],
        *,
        compiled: bool,
    ) -> None:
        """Prepare; nothing is compiled before the first batch.

        Args:
            device: where batches lie.
            dtype: of normalised pixels.
            normalize: field -> (mean, std) per channel (last axis) of pixels scaled to [0, 1].
            compiled: by `torch.compile`, or one operation after the other.
        """
        self.normalised = frozenset(normalize)
        self._dtype, self._colours = dtype, colours_on(device)
        self._scale: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (mean, std) in normalize.items():
            scale = 1 / (255 * torch.tensor(std, device=device))
            shift = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)
            self._scale[name] = (scale, shift)
        self._normalise, self._decode = _normalised, decoded
        if compiled:
            self._normalise, self._decode = torch.compile(_normalised), torch.compile(decoded)

    def __call__(self, batch: Batch) -> Batch:
        """With floats in place of u8 pixels, and arrays in place of what codecs have stored; both are let go."""
        tensors = dict(batch)
        for name, scale in self._scale.items():
            if name in tensors:
                field = batch.coded.get(name)
                tensors[name] = self._normalise(field, tensors[name], self._colours, scale, self._dtype)
        for name, field in batch.coded.items():
            if name not in self._scale:
                tensors[name] = self._decode(field, tensors[name], self._colours)
        return batch.replace(tensors, decoded=True)


def _normalised(
    field: Field | None, tensor: Tensor, colours: Tensor, scale_and_shift: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Tensor:
    scale, shift = scale_and_shift
    return torch.addcmul(shift, as_pixels(field, tensor, colours), scale).to(dtype)

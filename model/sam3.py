"""A small SAM3 that finds all objects a text names in a picture, and a memory of the frames before it.

    pixels -> vision encoder -> feature pyramid -> DETR encoder -> [memory attention] -> decoder -> boxes, scores
    text   -> text encoder, once a prompt ------------^                   |                 |
                                                                          +-> mask decoder <+ -> masks

The parts are those of transformers' Sam3Model, called one by one: sizes are plain integers, so that a GPU is never
waited for and torch.export takes all of it. In floats it is what Sam3Model gives, to the bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.memory import MemoryAttention, MemoryResampler

CONTEXT_LEVEL = 3  # of the pyramid, the coarsest: what is remembered of a frame
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and deviation of pixels, by channel
HALVES: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LEAST_SHARE = 1e-3  # of a picture's side, before its logarithm is taken
SHARPNESS = 8.0  # of the distances to a box, of which the logarithm is taken


class Text(NamedTuple):
    """Prompts as the detector reads them.

    Attributes:
        features: f32 `[B, L, D]`.
        mask: bool `[B, L]`, true where there is a word.
    """

    features: Tensor
    mask: Tensor


class Seen(NamedTuple):
    """Pictures behind the vision encoder.

    Attributes:
        levels: the pyramid, finest first: `[B, D, h, w]` each.
        positions: of the level that the detector reads, f32 `[B, D, h, w]`.
    """

    levels: tuple[Tensor, ...]
    positions: Tensor

    @property
    def context(self) -> Tensor:
        """What is remembered of them, `[B, D, h, w]`."""
        return self.levels[CONTEXT_LEVEL]


class Predictions(NamedTuple):
    """What is found in B pictures by Q queries each.

    Attributes:
        masks: logits `[B, Q, h, w]`.
        boxes: `[B, Q, 4]`, xyxy, in shares of the picture's sides.
        logits: `[B, Q]`, whether a query has found what the text names.
        presence: logits `[B, 1]`, whether there is any.
        ious: `[B, Q]`, from 0 to 1, how well a mask is thought to fit: sigmoid(logits), or a head's own.
    """

    masks: Tensor
    boxes: Tensor
    logits: Tensor
    presence: Tensor
    ious: Tensor


class IoUHead(nn.Module):
    """Three linear layers on a query, which say how well its mask fits; transformers' SAM3 has none."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, queries: Tensor) -> Tensor:
        """Of queries `[B, Q, D]`, `[B, Q]` from 0 to 1."""
        return self.layers(queries).squeeze(-1).sigmoid()  # type: ignore[no-any-return]


class Sam3Student(nn.Module):
    """Composed of a loaded Sam3Model and, where it is to remember, of two modules more."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        sam: nn.Module,
        *,
        memory: tuple[MemoryResampler, MemoryAttention] | None = None,
        iou_head: IoUHead | None = None,
        statistics: Statistics = HALVES,
    ) -> None:
        """Put the parts together.

        Args:
            sam: a Sam3Model.
            memory: what sums up the past and what reads the sum; None sees single pictures only.
            iou_head: None has sigmoid(logits) in its place.
            statistics: mean and standard deviation of pixels from 0 to 1, by channel.
        """
        super().__init__()
        self.sam: Any = sam
        self.iou_head = iou_head
        self.memory_resampler = memory[0] if memory else None
        self.memory_attention = memory[1] if memory else None
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in statistics)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def width(self) -> int:
        """Channels of the pyramid, of the text's features and of the memory."""
        return int(self.sam.config.detr_encoder_config.hidden_size)

    def pixels(self, frames: Tensor) -> Tensor:
        """Of u8 frames `[B, 3, H, W]`, the f32 pixels that it was made for."""
        return (frames.float() - self.pixel_mean) / self.pixel_std

    def read(self, tokens: Tensor, mask: Tensor) -> Text:
        """Read prompts.

        Args:
            tokens: i64 `[B, L]`.
            mask: bool `[B, L]`, true where there is a word.
        """
        return Text(self.sam.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output, mask)

    def see(self, pixels: Tensor) -> Seen:
        """Let the vision encoder pass over pixels `[B, 3, H, W]`."""
        encoder = self.sam.vision_encoder
        patch = encoder.config.backbone_config.patch_size
        height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        tokens = encoder.backbone(pixels).last_hidden_state  # [B, height * width, C]
        grid = tokens.view(len(pixels), height, width, -1).permute(0, 3, 1, 2)
        levels = tuple(layer(grid) for layer in encoder.neck.fpn_layers)
        read = levels[CONTEXT_LEVEL - 1]
        return Seen(levels, encoder.neck.position_encoding(read.shape, read.device, torch.float32))

    def image(self, pixels: Tensor, text: Text) -> Predictions:
        """Find in pictures `[B, 3, H, W]` what `text`, of as many rows, names."""
        return self.find(self.see(pixels), text)

    def video(self, pixels: Tensor, text: Text, memory: Tensor) -> Predictions:
        """Find in pictures `[B, 3, H, W]` what `text` names, given what is remembered of the frames before them.

        Args:
            pixels: of B frames.
            text: of as many rows.
            memory: `[B, T, D, h, w]`, what `Seen.context` is of the T frames before each, oldest first.

        Raises:
            ValueError: it has no memory, or that is not of its width.
        """
        return self.find(self.see(pixels), text, memory)

    def forward(
        self, pixels: Tensor, features: Tensor, mask: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The same with plain tensors, for torch.export: the parts of a `Text` in, those of `Predictions` out."""
        return tuple(self.find(self.see(pixels), Text(features, mask), memory))

    def find(self, seen: Seen, text: Text, memory: Tensor | None = None) -> Predictions:
        """Find what `text` names in pictures that were seen, with a memory or without.

        Raises:
            ValueError: see `video`.
        """
        tokens, positions = self._encode(seen, text)
        if memory is not None:
            tokens = self._remember(tokens, memory)
        sam, (height, width) = self.sam, seen.positions.shape[-2:]
        queries, boxes, presence = self._decode(tokens, positions, text, height, width)
        offsets = _inverse_sigmoid(boxes) + sam.detr_decoder.box_head(queries)
        logits = sam.dot_product_scoring(
            decoder_hidden_states=queries, text_features=text.features, text_mask=text.mask
        ).squeeze(-1)[-1]
        found, presence = queries[-1], presence[-1]
        return Predictions(
            masks=self._masks(found, seen, tokens, text),
            boxes=_corners(offsets.sigmoid())[-1],
            logits=logits,
            presence=presence,
            ious=logits.sigmoid() if self.iou_head is None else self.iou_head(found),
        )

    def _encode(self, seen: Seen, text: Text) -> tuple[Tensor, Tensor]:
        """Tokens of the pictures that have read the text, and their positions, `[B, height * width, D]` each."""
        tokens = seen.levels[CONTEXT_LEVEL - 1].flatten(2).transpose(1, 2)
        positions = seen.positions.flatten(2).transpose(1, 2)
        mask = _attention_mask(text, tokens.shape[1])
        for layer in self.sam.detr_encoder.layers:
            tokens = layer(
                tokens, prompt_feats=text.features, vision_pos_encoding=positions, prompt_cross_attn_mask=mask
            )
        return tokens, positions

    def _remember(self, tokens: Tensor, memory: Tensor) -> Tensor:
        if self.memory_resampler is None or self.memory_attention is None:
            raise ValueError("this student has no memory: it sees single pictures only")
        if memory.shape[2] != self.width:
            raise ValueError(f"the memory's features have {memory.shape[2]} channels, the student's have {self.width}")
        read: Tensor = self.memory_attention(tokens, self.memory_resampler(memory))
        return read

    def _decode(
        self, tokens: Tensor, positions: Tensor, text: Text, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of every layer the queries `[L, B, Q, D]`, the boxes they began from, cxcywh, and the logits `[L, B, 1]`."""
        decoder, batch = self.sam.detr_decoder, len(tokens)
        boxes = decoder.reference_points.weight.unsqueeze(0).expand(batch, -1, -1).sigmoid()
        first = (decoder.presence_token.weight, decoder.query_embed.weight)
        hidden = torch.cat([part.unsqueeze(0).expand(batch, -1, -1) for part in first], dim=1)  # [B, 1 + Q, D]
        mask = _attention_mask(text, hidden.shape[1])
        queries, begun, presence = [], [], []
        for layer in decoder.layers:
            near = F.pad(self._nearness(boxes, height, width), (0, 0, 1, 0))  # the presence token looks everywhere
            hidden = layer(
                hidden,
                query_pos=decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes)),
                text_features=text.features,
                vision_features=tokens,
                vision_pos_encoding=positions,
                text_cross_attn_mask=mask,
                vision_cross_attn_mask=near,
            )
            queries.append(decoder.output_layer_norm(hidden[:, 1:]))
            begun.append(boxes)
            boxes = (decoder.box_head(queries[-1]) + _inverse_sigmoid(boxes)).sigmoid().detach()
            logits = decoder.presence_head(decoder.presence_layer_norm(hidden[:, :1])).squeeze(-1)
            most = decoder.clamp_presence_logit_max_val
            presence.append(logits.clamp(min=-most, max=most))
        return torch.stack(queries), torch.stack(begun), torch.stack(presence)

    def _nearness(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """What a query's attention to a place gains by the place's distances to its box, `[B, heads, Q, h * w]`."""
        corners = _corners(boxes)  # [B, Q, 4]
        bias = []
        for size, sides, embed in (
            (height, corners[..., 1::2], self.sam.detr_decoder.box_rpb_embed_y),
            (width, corners[..., 0::2], self.sam.detr_decoder.box_rpb_embed_x),
        ):
            steps = torch.arange(size, device=boxes.device, dtype=boxes.dtype)
            places = steps / torch.full((), size, device=boxes.device)  # a division, where a number is a product
            distances = (places[:, None] - sides[:, :, None]) * SHARPNESS  # [B, Q, size, 2]
            logs = torch.sign(distances) * torch.log2(torch.abs(distances) + 1.0) / math.log2(SHARPNESS)
            bias.append(embed(logs))  # [B, Q, size, heads]
        both: Tensor = (bias[0].unsqueeze(3) + bias[1].unsqueeze(2)).flatten(2, 3)  # [B, Q, h * w, heads]
        return both.permute(0, 3, 1, 2).contiguous()

    def _masks(self, queries: Tensor, seen: Seen, tokens: Tensor, text: Text) -> Tensor:
        """Logits `[B, Q, h, w]` of the finest level's size."""
        decoder = self.sam.mask_decoder
        asked, _ = decoder.prompt_cross_attn(
            query=decoder.prompt_cross_attn_norm(tokens),
            key=text.features,
            value=text.features,
            attention_mask=_attention_mask(text, tokens.shape[1]),
        )
        tokens = tokens + decoder.prompt_cross_attn_dropout(asked)
        read = seen.levels[CONTEXT_LEVEL - 1]
        grid = tokens.transpose(1, 2).reshape(read.shape)
        places = decoder.pixel_decoder([*seen.levels[: CONTEXT_LEVEL - 1], grid])
        embedded = decoder.instance_projection(places)
        return torch.einsum("bqc,bchw->bqhw", decoder.mask_embedder(queries), embedded)


def _attention_mask(text: Text, num_asking: int) -> Tensor:
    """Who may look at which word, bool `[B, 1, num_asking, L]`."""
    return text.mask[:, None, None, :].expand(-1, 1, num_asking, -1)


def _inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=LEAST_SHARE) / (1 - x).clamp(min=LEAST_SHARE))


def _corners(boxes: Tensor) -> Tensor:
    """Of boxes as centre and size, their corners."""
    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], dim=-1)

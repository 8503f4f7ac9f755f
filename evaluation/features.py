"""Frozen features: every clip of a data set as one vector, of one layer of an encoder or of several."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from evaluation.encoder import Encoder, dense_clip
from evaluation.ranks import gather_rows
from model.tubelets import video_or_tubes
from pipeline.world import World
from shards.progress import Progress, untold

# Turns a batch into vectors f32 `[B, D]`, one tensor a layer.
Vectors = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Features:
    """The features of a data set, on the CPU, in the order of its samples.

    Attributes:
        values: f32 `[n, D]`.
        labels: i64 `[n]`; -1 for none, where samples without a label are kept.
        num_unlabelled: samples left out since they have no label.
        index: i64 `[n]`, the samples' numbers; None where nobody needs them.
    """

    values: Tensor
    labels: Tensor
    num_unlabelled: int = 0
    index: Tensor | None = None

    def part(self, chosen: Tensor) -> "Features":
        """Those that are chosen, by a mask bool `[n]`."""
        index = None if self.index is None else self.index[chosen]
        return replace(self, values=self.values[chosen], labels=self.labels[chosen], index=index)


def extract_features(
    encoder: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    world: World = World(),  # noqa: B008
) -> Features:
    """Encode clips whole (nothing is masked) and average their tokens over time and space.

    Args:
        encoder: an `Encoder`; or a module that maps a video `[B, 3, T, H, W]` or tubes `[B, S, T', tubelet, patch,
            patch, 3]` to tokens `[B, T', S, D]`, which is left in evaluation mode.
        batches: this rank's, on the encoder's device, with `index`, `label`, `valid` and `clip`: u8 for an `Encoder`,
            normalised for a module.
        world: the ranks, all of which get the features of all.

    Raises:
        ValueError: If no sample has a label.
    """
    encoder.eval()
    vectors = layer_vectors(encoder, (encoder.num_layers,)) if isinstance(encoder, Encoder) else _module(encoder)
    (found,) = collect(batches, vectors, world=world)
    return found


def layer_vectors(encoder: Encoder, layers: Sequence[int]) -> Vectors:
    """The means of the tokens of some layers."""
    return lambda batch: [tokens.mean(dim=1) for tokens in encoder.layers(dense_clip(batch["clip"], encoder), layers)]


def _module(encoder: nn.Module) -> Vectors:
    return lambda batch: [encoder(video_or_tubes(batch["clip"])).float().mean(dim=(1, 2))]


def collect(
    batches: Iterable[Mapping[str, Tensor]],
    vectors: Vectors,
    *,
    world: World = World(),  # noqa: B008
    advance: Progress = untold,
    unlabelled: bool = False,
) -> list[Features]:
    """The features of all ranks' batches, one `Features` a layer.

    Args:
        batches: this rank's, see `extract_features`.
        vectors: turns a batch into vectors.
        world: the ranks, all of which get the features of all.
        advance: told the number of clips after every batch.
        unlabelled: whether samples without a label are kept, too.

    Raises:
        ValueError: If no sample is left.
    """
    values: list[list[Tensor]] = []
    labels, index, num_valid, device = [], [], 0, torch.device("cpu")
    with torch.no_grad():
        for batch in batches:
            device = batch["valid"].device
            valid = batch["valid"].cpu()
            label = batch["label"].cpu() if "label" in batch else torch.full((len(valid),), -1)
            keep = valid if unlabelled else valid & (label >= 0)
            values.append([each.float().cpu()[keep] for each in vectors(batch)])
            labels.append(label[keep])
            index.append(batch["index"].cpu()[keep])
            num_valid += int(valid.sum())
            advance(int(valid.sum()))
        if not values:
            raise ValueError("there is no batch to take features of")
        layers = [gather_rows(torch.cat(rows), world, device) for rows in zip(*values, strict=True)]
        all_labels, numbers = (gather_rows(torch.cat(rows), world, device) for rows in (labels, index))
        num_valid = int(gather_rows(torch.tensor([num_valid]), world, device).sum())
    if not len(all_labels):
        raise ValueError("no sample has a label; a probe needs a data set built from labelled videos")
    order = numbers.argsort()
    return [
        Features(layer[order], all_labels[order], num_unlabelled=num_valid - len(order), index=numbers[order])
        for layer in layers
    ]


def videos_of(
    features: Features, about: Callable[[int], Mapping[str, object]], key_of: Callable[[int], str]
) -> list[str]:
    """The video that each sample is of: `video_id` in its metadata, or its key where that says nothing."""
    assert features.index is not None
    return [video_name(number, about, key_of) for number in features.index.tolist()]


def video_name(number: int, about: Callable[[int], Mapping[str, object]], key_of: Callable[[int], str]) -> str:
    """The video that a sample is of."""
    found = about(number).get("video_id")
    return found if isinstance(found, str) and found else key_of(number)


def origins_of(
    features: Features, about: Callable[[int], Mapping[str, object]], key_of: Callable[[int], str]
) -> list[str]:
    """What each sample was cut out of, see `origin_name`."""
    assert features.index is not None
    return [origin_name(number, about, key_of) for number in features.index.tolist()]


def origin_name(number: int, about: Callable[[int], Mapping[str, object]], key_of: Callable[[int], str]) -> str:
    """The longer video that a sample's video is a clip of, where its source says so (UCF101, MSVD); else its video."""
    extra = about(number).get("extra")
    group = extra.get("group") if isinstance(extra, Mapping) else None
    return f"group {group}" if isinstance(group, str) and group else video_name(number, about, key_of)

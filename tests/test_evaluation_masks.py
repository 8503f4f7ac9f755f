"""What a memory is worth: queries with the right one, with none, and with another video's, in numbers by hand."""

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from evaluation.masks import MasksConfig, measure_masks
from evaluation.result import Result, Split
from evaluation.standard_errors import paired
from model.sam3 import Predictions
from pipeline.world import World

SIDE = 20


def square(left: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[5:15, left : left + 10] = 1
    return mask


class Recaller(nn.Module):
    """Finds a square where its memory says that it is, and none where that says -1; without a memory, always at 0."""

    def find(self, batch: Mapping[str, Tensor]) -> Predictions:
        count = len(batch["index"])
        lefts = batch["fpn"][:, 0, 0, 0, 0] if "fpn" in batch else torch.zeros(count)
        masks = torch.stack([square(max(0, int(left))) for left in lefts])[:, None] * 2 - 1
        presence = (lefts >= 0).float()[:, None] * 2 - 1
        return Predictions(masks, torch.zeros(count, 1, 4), torch.zeros(count, 1), presence, torch.zeros(count, 1))

    def score(self, found: Predictions, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wrong = ((found.masks[:, 0] > 0).float() != batch["object_masks"][:, 0]).float().mean(dim=(1, 2))
        return {"loss": wrong}


def batch_of(lefts: list[int], first: int = 0, valid: int | None = None) -> dict[str, Tensor]:
    """Samples with a square at each left, none where that is -1; the memory of each says so."""
    objects = torch.zeros(len(lefts), 3, SIDE, SIDE, dtype=torch.uint8)
    for row, left in enumerate(lefts):
        if left >= 0:
            objects[row, 0] = square(left)
    return {
        "index": torch.arange(first, first + len(lefts)),
        "valid": torch.arange(len(lefts)) < (len(lefts) if valid is None else valid),
        "fpn": torch.tensor(lefts, dtype=torch.float16)[:, None, None, None, None].expand(-1, 8, 4, 2, 2),
        "object_masks": objects,
        "num_objects": torch.tensor([int(left >= 0) for left in lefts]),
        "num_lost": torch.zeros(len(lefts), dtype=torch.long),
    }


def measured(batches: list[dict[str, Tensor]], config: MasksConfig | None = None) -> Result:
    def each() -> Iterator[Mapping[str, Tensor]]:
        yield from batches

    split = Split(batches=each(), digest="abc", key_of="video-{}".format)
    return measure_masks(Recaller(), {"val": split}, config or MasksConfig(), World())


def test_each_memory_is_scored_on_the_same_queries_and_compared_sample_by_sample() -> None:
    # Right: always there. None: squares at 0; IoU 1, 1/3 (5 of 15 columns), 0. Other: that of the sample before; for
    # the first that of the last of its batch, which says that there is none (its square is at 0).
    metrics = measured([batch_of([0, 5, 10, -1])]).metrics
    assert metrics["iou_right"] == 1.0
    assert metrics["iou_none"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert metrics["iou_other"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert metrics["presence_right"] == 1.0
    assert metrics["presence_none"] == 0.75
    assert metrics["presence_other"] == 0.5
    assert metrics["presence_base_rate"] == 0.75
    gains = torch.tensor([0, 2 / 3, 1], dtype=torch.float64)
    assert metrics["iou_gain_none"] == pytest.approx(float(gains.mean()))
    assert metrics["iou_gain_none_errors"] == pytest.approx(float(gains.mean() / (gains.std() / math.sqrt(3))))
    # The right loss is that of a square at 0 where there is none: 100 of 400 pixels, of one sample in four.
    assert metrics["loss_right"] == pytest.approx(0.25 / 4)
    assert metrics["loss_none"] == pytest.approx((0 + 100 / 400 + 200 / 400 + 0.25) / 4)
    assert metrics["loss_gain_none"] == pytest.approx(metrics["loss_none"] - metrics["loss_right"])


def test_the_memory_before_is_that_of_the_batch_before_and_padding_does_not_count() -> None:
    first, second = batch_of([0, 10]), batch_of([10, 5, 0], first=2, valid=2)
    result = measured([first, second])
    assert [row["key"] for row in result.rows] == ["video-0", "video-1", "video-2", "video-3"]
    # The others' squares lie at 10 (the last of the first batch), 0, 10 and 10.
    assert [row["iou_other"] for row in result.rows] == pytest.approx([0.0, 0.0, 1.0, 1 / 3])


def test_a_student_without_a_memory_is_scored_alone() -> None:
    metrics = measured([batch_of([0, 5])], MasksConfig(memories=("none",))).metrics
    assert metrics["iou_none"] == pytest.approx(2 / 3)
    assert not [name for name in metrics if "gain" in name or "right" in name]


def test_what_there_is_nothing_to_take_from_is_left_out() -> None:
    result = measured([batch_of([-1])])
    assert not [name for name in result.metrics if "iou" in name or "other" in name or "gain" in name]
    assert result.rows[0]["iou_right"] is None
    assert result.metrics["presence_right"] == 1.0


def test_a_paired_difference_is_spelled_in_its_own_standard_errors() -> None:
    ours, other = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 2.0])
    assert paired(ours, other) == pytest.approx((1.0, 1.0 / (1.0 / math.sqrt(3))))
    assert paired(ours, other, less_is_better=True)[0] == -1.0
    assert all(math.isnan(value) for value in paired(ours[:1], other[:1]))


@pytest.mark.parametrize("memories", [(), ("right", "right"), ("none", "past")])
def test_memories_are_named_once_each(memories: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name each once of right, none, other"):
        MasksConfig(memories=memories)  # type: ignore[arg-type]

"""Retrieval as an evaluator: what it learns from captions, what it refuses, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluation.encoder import Encoder, EncoderFacts, Trunk
from evaluation.result import Evaluator, Result, Split
from evaluation.retrieval import CAPTIONS, encode_pairs, retrieval, retrieve
from evaluation.retrieval_head import Pairs, RetrievalConfig, similarity, train_head
from pipeline.world import World

FAST = RetrievalConfig(steps=120, batch_size=32, hidden=32, lr=5e-3, num_draws=50)
ALONE, CPU = World(), torch.device("cpu")
FRAMES, SIZE, WIDTH = 2, 8, 16
NUM_COLOURS = 8


def trunk() -> Trunk:
    return Trunk(nn.Sequential(nn.Conv3d(3, 12, (2, 4, 4), (2, 4, 4)), nn.Flatten(2), Transposed()))


class Transposed(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.transpose(1, 2)


def encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    facts = EncoderFacts(
        name="tiny", kind="run", clip_shape=(3, FRAMES, SIZE, SIZE), grid=(1, 4), width=12, view_hash="v", step=3
    )
    return Encoder(trunk(), facts, fresh=trunk)


def clips(colours: Sequence[int], seed: int) -> Tensor:
    """Clips u8 `[n, T, H, W, 3]` of one colour each, with noise."""
    palette = np.random.default_rng(0).integers(40, 216, (NUM_COLOURS, 3))
    noise = np.random.default_rng(seed).integers(-9, 10, (len(colours), FRAMES, SIZE, SIZE, 3))
    return torch.from_numpy((palette[list(colours)][:, None, None, None] + noise).astype(np.uint8))


def split(
    colours: Sequence[int],
    captions: Sequence[int] | None = None,
    *,
    seed: int = 0,
    width: int = WIDTH,
    batch_size: int = 7,
    named: Sequence[int] | None = None,
) -> Split:
    """Videos in batches, with so many captions each, which name the colour, or what `named` says."""
    counts = captions if captions is not None else [1] * len(colours)
    words = torch.from_numpy(np.random.default_rng(1).standard_normal((NUM_COLOURS, width)).astype(np.float16))
    shown, said = clips(colours, seed), named if named is not None else colours
    batches = []
    for start in range(0, len(colours), batch_size):
        numbers = range(start, min(start + batch_size, len(colours)))
        longest = max(counts[number] for number in numbers)
        rows = torch.full((len(numbers), longest, width), 99.0, dtype=torch.float16)  # padding is never read
        for row, number in enumerate(numbers):
            rows[row, : counts[number]] = words[said[number]]
        batches.append(
            {
                "clip": shown[start : start + len(numbers)],
                CAPTIONS: rows,
                f"{CAPTIONS}_length": torch.tensor([counts[number] for number in numbers]),
                "index": torch.tensor(list(numbers)),
                "valid": torch.ones(len(numbers), dtype=torch.bool),
            }
        )
    return Split(batches=batches, digest=f"data {seed}", key_of="video{}".format)


def many(count: int, seed: int) -> list[int]:
    return [int(colour) for colour in np.random.default_rng(seed).integers(0, NUM_COLOURS, count)]


EACH = list(range(NUM_COLOURS))  # one video of each colour


@pytest.fixture(scope="module")
def results() -> Mapping[str, Result]:
    data = {
        "train": split(many(64, 3), seed=1),
        "one caption": split(EACH, seed=2),
        "several captions": split(EACH, [1, 3, 0, 2, 1, 4, 1, 2], seed=4),
    }
    return retrieve(encoder(), data, FAST, ALONE)


def test_a_head_trained_on_some_videos_finds_others_by_their_captions_and_back(results: Mapping[str, Result]) -> None:
    for result in results.values():
        assert result.metrics["t2v_r1"] > 0.8
        assert result.metrics["v2t_r1"] > 0.8
    assert results["one caption"].metrics["chance"] == 1 / NUM_COLOURS


def test_captions_of_other_videos_teach_nothing() -> None:
    colours = many(200, 0)
    strange = split(colours, named=many(200, 5), seed=1)
    found = retrieval(encoder(), {"train": strange, "val": split(many(60, 1), seed=2)}, FAST, ALONE)
    assert abs(found.metrics["t2v_median_rank"] - 30) < 12


def test_it_is_an_evaluator_and_gives_the_same_numbers_whatever_the_global_generator() -> None:
    evaluator: Evaluator[RetrievalConfig] = retrieval
    data = {"train": split(many(64, 3), seed=1), "val": split(many(20, 4), seed=2)}
    torch.manual_seed(1)
    first = evaluator(encoder(), data, FAST, ALONE)
    model = encoder()
    state = torch.get_rng_state()
    assert retrieval(model, data, FAST, ALONE) == first
    assert torch.equal(state, torch.get_rng_state())
    other = retrieval(encoder(), data, replace(FAST, seed=1), ALONE)
    assert other.seed == 1
    assert other.rows != first.rows


def test_the_rows_are_videos_and_give_the_metrics(results: Mapping[str, Result]) -> None:
    result = results["several captions"]
    assert [row["key"] for row in result.rows] == [f"video{number}" for number in range(NUM_COLOURS)]
    assert [len(row["t2v_ranks"]) for row in result.rows] == [1, 3, 0, 2, 1, 4, 1, 2]
    assert result.rows[2]["v2t_rank"] is None
    ranks = [rank for row in result.rows for rank in row["t2v_ranks"]]
    assert result.metrics["t2v_mean_rank"] == pytest.approx(np.mean(ranks))
    back = [row["v2t_rank"] for row in result.rows if row["v2t_rank"] is not None]
    assert result.metrics["v2t_median_rank"] == np.median(back)
    assert result.metrics["v2t_r5"] == np.mean([rank <= 5 for rank in back])


def test_it_says_how_and_on_what_it_was_measured(results: Mapping[str, Result]) -> None:
    result = results["several captions"]
    assert result.protocol.items() >= {name: value for name, value in asdict(FAST).items() if name != "seed"}.items()
    counts = {name: result.protocol[f"num_{name}"] for name in ("videos", "captions", "without_captions")}
    assert counts == {"videos": 8, "captions": 14, "without_captions": 1}
    assert (result.protocol["encoder"], result.protocol["step"]) == ("tiny", 3)
    assert result.digests == {"train": "data 1", "several captions": "data 4", "model": encoder().digest}
    assert set(result.intervals) == {name for name in result.metrics if name != "chance"}
    for name, (low, high) in result.intervals.items():
        assert low <= result.metrics[name] <= high
    assert Result.from_json(json.loads(json.dumps(result.to_json()))).metrics == result.metrics


def test_captions_that_say_the_same_are_ties_and_counted() -> None:
    data = {"train": split(many(64, 3), seed=1), "val": split([0, 0, 1], seed=2)}
    found = retrieval(encoder(), data, FAST, ALONE)
    assert found.protocol["num_v2t_tied"] == 2
    assert found.metrics["v2t_mean_rank"] == pytest.approx((1.5 + 1.5 + 1) / 3)


def test_rows_that_pad_a_batch_and_padded_captions_are_left_out() -> None:
    whole = split([0, 1, 2, 3, 4], [2, 1, 3, 0, 1], batch_size=5)
    (batch,) = whole.batches
    batch = {**batch, "valid": torch.tensor([True, True, False, True, True]), "index": torch.tensor([9, 4, 0, 2, 7])}
    found = encode_pairs(encoder(), Split(batches=[batch]), "val", ALONE)
    assert found.index.tolist() == [2, 4, 7, 9]
    assert found.owner.tolist() == [1, 2, 3, 3]
    assert (found.text < 90).all()
    torch.testing.assert_close(found.text[1], batch[CAPTIONS][4, 0].float())


def test_the_size_of_a_batch_decides_nothing() -> None:
    colours, captions = many(11, 0), [1, 2, 0, 1, 3, 1, 1, 2, 1, 0, 1]
    by_seven, by_two = (
        encode_pairs(encoder(), split(colours, captions, batch_size=size), "val", ALONE) for size in (7, 2)
    )
    torch.testing.assert_close(asdict(by_two), asdict(by_seven))


def test_the_views_of_a_video_are_one_video_with_its_captions_once() -> None:
    views = split([0, 1, 0, 2], [2, 1, 2, 3], batch_size=3)
    named = replace(views, about=lambda number: {"video_id": "abac"[number]})
    apart, together = (encode_pairs(encoder(), each, "val", ALONE) for each in (views, named))
    assert together.index.tolist() == [0, 1, 3]
    torch.testing.assert_close(together.video[0], (apart.video[0] + apart.video[2]) / 2)
    torch.testing.assert_close(together.video[1:], apart.video[[1, 3]])
    assert together.owner.tolist() == [0, 0, 1, 2, 2, 2]
    torch.testing.assert_close(together.text, apart.text[[0, 1, 2, 5, 6, 7]])


def test_a_field_with_one_caption_a_sample_is_taken_too() -> None:
    rows = split([0, 1, 2], batch_size=3)
    (batch,) = rows.batches
    single = {name: value for name, value in batch.items() if name != f"{CAPTIONS}_length"}
    found = encode_pairs(encoder(), Split(batches=[{**single, CAPTIONS: batch[CAPTIONS][:, 0]}]), "val", ALONE)
    torch.testing.assert_close(asdict(found), asdict(encode_pairs(encoder(), rows, "val", ALONE)))


def test_one_video_to_find_is_always_found_and_one_to_train_on_is_refused() -> None:
    found = retrieval(encoder(), {"train": split(EACH), "val": split([3])}, FAST, ALONE)
    assert (found.metrics["t2v_r1"], found.metrics["v2t_r1"], found.metrics["chance"]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="1 training videos have captions; contrastive training needs at least two"):
        retrieval(encoder(), {"train": split([0, 1], [0, 2]), "val": split(EACH)}, FAST, ALONE)


def test_data_without_captions_or_of_another_text_encoder_is_refused() -> None:
    train = split(EACH)
    with pytest.raises(ValueError, match="no video of the data val has a caption"):
        retrieval(encoder(), {"train": train, "val": split([0, 1], [0, 0])}, FAST, ALONE)
    bare = [{name: value for name, value in batch.items() if name != CAPTIONS} for batch in train.batches]
    with pytest.raises(ValueError, match="the data val has no field 'captions'; add it with `reelshard add-field`"):
        retrieval(encoder(), {"train": train, "val": Split(batches=bare)}, FAST, ALONE)
    with pytest.raises(ValueError, match="embed them all with one text encoder"):
        retrieval(encoder(), {"train": train, "val": split(EACH, width=WIDTH + 1)}, FAST, ALONE)
    with pytest.raises(ValueError, match="needs the data train and val, got train"):
        retrieval(encoder(), {"train": train}, FAST, ALONE)
    with pytest.raises(ValueError, match="measures an Encoder, got Conv3d"):
        retrieval(nn.Conv3d(3, 3, 1), {"train": train, "val": train}, FAST, ALONE)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 1}, {"lr": 0.0}, {"temperature": 0.0}, {"num_draws": 0}, {"hidden": 0}]
)
def test_settings_that_train_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"have to be at least 1|lr has to be positive"):
        RetrievalConfig(**wrong)  # type: ignore[arg-type]


def pairs(count: int, seed: int) -> Pairs:
    random = torch.Generator().manual_seed(seed)
    video, text = torch.randn(count, 5, generator=random), torch.randn(2 * count, 4, generator=random)
    return Pairs(video, text, torch.arange(count).repeat_interleave(2), torch.arange(count))


def test_similarities_are_the_cosines_of_projected_videos_and_centred_captions() -> None:
    train, test = pairs(20, 0), pairs(6, 1)
    head = train_head(train, FAST, CPU)
    standard = (test.video - train.video.mean(0)) / train.video.std(0, correction=0)
    with torch.no_grad():
        video = head.outer(nn.functional.gelu(head.inner(standard)))
    text = test.text - train.text.mean(0)
    expected = nn.functional.cosine_similarity(text[:, None], video[None], dim=-1)
    torch.testing.assert_close(similarity(head, test, CPU).float(), expected, atol=2e-6, rtol=0)
    assert head.inner.weight.dtype == torch.float32


def test_equal_videos_score_exactly_the_same_wherever_they_stand() -> None:
    train, test = pairs(20, 0), pairs(33, 1)
    test = replace(test, video=test.video[:1].expand(33, -1).contiguous())
    found = similarity(train_head(train, FAST, CPU), test, CPU)
    assert (found == found[:, :1]).all()


def test_the_scale_of_a_feature_does_not_matter() -> None:
    train, test = pairs(40, 0), pairs(6, 1)
    scale = torch.tensor([1e-3, 1.0, 10.0, 1e3, 5.0])
    scaled, scaled_test = (replace(each, video=each.video * scale + 3) for each in (train, test))
    plain, other = (
        similarity(train_head(train, FAST, CPU), test, CPU),
        similarity(train_head(scaled, FAST, CPU), scaled_test, CPU),
    )
    torch.testing.assert_close(other, plain, atol=0.02, rtol=0)

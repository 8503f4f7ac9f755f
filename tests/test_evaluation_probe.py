"""Frozen features and the linear probe on them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.features import Features, extract_features
from evaluation.probe import ProbeConfig, chance, wilson_interval
from model.st_jepa import STJEPAEncoder
from pipeline.config import LoaderConfig
from pipeline.device import DeviceLoader
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
from shards.format.pixels import IMAGENET
from tests.datasets import make_dataset
from tests.linear_probes import linear_probe
from tests.runs import MODEL

FAST = ProbeConfig(epochs=30, batch_size=32, seeds=(0, 1))


def encode(dataset: ShardDataset, encoder: STJEPAEncoder, batch_size: int) -> Features:
    config = LoaderConfig(global_batch_size=batch_size, shuffle=False, drop_last=False, fields=("clip", "label"))
    return extract_features(encoder, DeviceLoader(ShardLoader(dataset, config), "cpu", normalize={"clip": IMAGENET}))


def blobs(num_samples: int, separation: float, seed: int) -> Features:
    """Features of three classes around three corners."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_samples) % 3
    corners = torch.eye(3, 8) * separation
    return Features(corners[labels] + torch.randn(num_samples, 8, generator=generator), labels)


def test_every_labelled_sample_gives_one_feature_whatever_the_batch_size(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=20)
    torch.manual_seed(0)
    encoder = STJEPAEncoder(MODEL)
    by_eight, by_three = encode(dataset, encoder, 8), encode(dataset, encoder, 3)
    assert by_eight.values.shape == (20, 32)
    assert by_eight.labels.tolist() == [number % 3 for number in range(20)]
    torch.testing.assert_close(by_three.values, by_eight.values)
    assert by_eight.num_unlabelled == 0


def test_features_are_the_mean_of_the_tokens_of_the_whole_clip(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_samples=3)
    encoder = STJEPAEncoder(MODEL)
    clip = torch.from_numpy(np.array(dataset[1]["clip"], np.float32))[None] / 255
    normalised = (clip - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1])
    expected = encoder(normalised).mean(dim=(0, 1, 2))
    torch.testing.assert_close(encode(dataset, encoder, 2).values[1], expected.detach(), rtol=1e-4, atol=1e-5)


def test_samples_without_a_label_are_left_out_and_counted() -> None:
    video = torch.zeros(3, MODEL.num_frames, MODEL.image_size, MODEL.image_size, 3)  # frames, as they lie on disk
    labels, valid = torch.tensor([2, -1, 0]), torch.tensor([True, True, False])
    batch = {"clip": video, "label": labels, "valid": valid, "index": torch.arange(3)}
    found = extract_features(STJEPAEncoder(MODEL), [batch])
    assert found.labels.tolist() == [2]
    assert found.num_unlabelled == 1
    with pytest.raises(ValueError, match="no sample has a label"):
        extract_features(STJEPAEncoder(MODEL), [{**batch, "label": torch.full((3,), -1)}])
    with pytest.raises(ValueError, match="there is no batch"):
        extract_features(STJEPAEncoder(MODEL), [])


def test_the_probe_reads_labels_that_are_linear_in_the_features() -> None:
    result = linear_probe(blobs(300, 8.0, seed=0), blobs(90, 8.0, seed=1), 3, FAST)
    assert result.top1 > 0.98
    assert (result.num_train, result.num_val) == (300, 90)
    assert len(result.top1_per_seed) == 2
    assert result.top1 == pytest.approx(sum(result.top1_per_seed) / 2)


def test_the_probe_finds_nothing_where_there_is_nothing() -> None:
    result = linear_probe(blobs(300, 0.0, seed=0), blobs(900, 0.0, seed=1), 3, FAST)
    assert abs(result.top1 - 1 / 3) < 0.07


def test_the_probe_gives_the_same_numbers_twice_whatever_the_global_generator() -> None:
    train, val = blobs(100, 1.0, seed=0), blobs(100, 1.0, seed=1)
    torch.manual_seed(1)
    first = linear_probe(train, val, 3, FAST)
    torch.manual_seed(2)
    assert linear_probe(train, val, 3, FAST) == first


def test_the_scale_of_a_feature_does_not_matter() -> None:
    train, val = blobs(300, 3.0, seed=0), blobs(300, 3.0, seed=1)
    scale = torch.logspace(-3, 3, 8)
    scaled_train, scaled_val = (dataclasses.replace(part, values=part.values * scale + 5) for part in (train, val))
    scaled = linear_probe(scaled_train, scaled_val, 3, FAST)
    assert abs(scaled.top1 - linear_probe(train, val, 3, FAST).top1) < 0.03


def test_chance_is_the_most_frequent_label_of_the_training_set() -> None:
    train = Features(torch.zeros(4, 2), torch.tensor([0, 1, 1, 2]))
    val = Features(torch.zeros(5, 2), torch.tensor([0, 1, 2, 1, 0]))
    assert chance(train, val) == pytest.approx(0.4)


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="label 2 does not exist: there are 2 classes"):
        linear_probe(blobs(9, 1.0, seed=0), blobs(9, 1.0, seed=1), 2, FAST)


def test_a_probe_without_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="there has to be a seed"):
        ProbeConfig(seeds=())


@given(count=st.integers(1, 2000), data=st.data())
def test_the_interval_of_a_share_holds_it_within_zero_and_one_and_narrows_with_the_count(
    count: int, data: st.DataObject
) -> None:
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    closer_low, closer_high = wilson_interval(share, 4 * count)
    assert closer_high - closer_low < high - low


@pytest.mark.parametrize(
    ("correct", "count", "expected"),
    [(0, 10, (0.0, 0.2775)), (5, 10, (0.2366, 0.7634)), (81, 263, (0.2553, 0.3662)), (10, 10, (0.7225, 1.0))],
)
def test_the_interval_is_wilsons(correct: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(correct / count, count) == pytest.approx(expected, abs=1e-4)


def test_the_interval_covers_the_true_share_in_95_of_100_draws() -> None:
    counts = np.random.default_rng(0).binomial(240, 0.8, 4000)
    covered = [low <= 0.8 <= high for low, high in (wilson_interval(count / 240, 240) for count in counts)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_a_probes_interval_is_for_its_held_out_samples() -> None:
    result = linear_probe(blobs(100, 1.0, seed=0), blobs(90, 1.0, seed=1), 3, FAST)
    assert result.top1_interval == wilson_interval(result.top1, 90)
    assert result.top1_interval[0] < result.top1 < result.top1_interval[1]

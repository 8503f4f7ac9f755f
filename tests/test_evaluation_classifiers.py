"""Probes, neighbours and the arrow of time on frozen features: against scikit-learn, and what they must find."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from evaluation.arrow import arrow_of_time
from evaluation.attentive import Attended, AttentiveConfig, attentive_probe
from evaluation.features import Features
from evaluation.heads import AttentiveHead
from evaluation.knn import KNNConfig, nearest_neighbours
from evaluation.linear import ProbeConfig
from evaluation.probe import FeatureSet, Probed, probe_features
from evaluation.result import Split
from pipeline.world import World

CLASSES = ("a", "b", "c")
CPU = torch.device("cpu")


def feature_set(count: int, seed: int, *, separation: float = 1.5, views: int = 1, labels: int = 3) -> FeatureSet:
    """Features of classes around corners; the views of a video lie around it."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.arange(count) % labels).repeat_interleave(views)
    values = torch.eye(3, 8)[label] * separation + torch.randn(len(label), 8, generator=generator)
    features = Features(values, label, index=torch.arange(len(label)))
    split = Split(batches=(), label_names=CLASSES, about=lambda number: {"video_id": f"v{number // views}"})
    nothing = dataclasses.replace(features, values=torch.zeros(len(label), 8))
    return FeatureSet.of_features({3: features, 7: nothing}, split)


def third_layer(each: FeatureSet) -> FeatureSet:
    return dataclasses.replace(each, layers={3: each.layers[3]})


def run_probe(train: FeatureSet, val: FeatureSet, share: float = 1.0, **config: object) -> Probed:
    settings = ProbeConfig(**{"epochs": 40, "seeds": (0,), **config})  # type: ignore[arg-type]
    return probe_features(train, val, settings, CPU, about={}, digest="m", share=share)


def test_the_linear_probe_finds_what_logistic_regression_finds() -> None:
    train, val = feature_set(600, 0), feature_set(600, 1)
    scaler = StandardScaler().fit(train.layers[3].values)
    model = LogisticRegression().fit(scaler.transform(train.layers[3].values), train.labels)
    expected = model.score(scaler.transform(val.layers[3].values), val.labels)
    train, val = map(third_layer, (train, val))
    assert run_probe(train, val).result.metrics["top1"] == pytest.approx(expected, abs=0.02)


def test_layer_and_settings_are_chosen_on_training_videos_alone() -> None:
    train, val = feature_set(120, 0, separation=4.0), feature_set(60, 1, separation=4.0)
    found = run_probe(train, val, lrs=(1e-6, 1e-2), weight_decays=(0.0, 0.01))
    assert found.layer == 3  # the other one says nothing
    protocol, tried = found.result.protocol, found.result.tables["tried"]
    assert protocol["chosen_lr"] == 1e-2
    assert protocol["chosen_on"] == "10% of the training videos (12), seed 0; then trained on all"
    assert protocol["num_train"] == 120
    assert len(tried) == 2 * 2 * 2
    assert max(row["top1"] for row in tried) == next(
        row["top1"] for row in tried if row["layer"] == 3 and row["lr"] == 0.01
    )
    spoiled = dataclasses.replace(
        val, layers={n: dataclasses.replace(f, values=-f.values) for n, f in val.layers.items()}
    )
    assert run_probe(train, spoiled, lrs=(1e-6, 1e-2), weight_decays=(0.0, 0.01)).result.tables["tried"] == tried


def test_clips_of_one_longer_video_are_held_out_together() -> None:
    train, val = feature_set(120, 0), feature_set(60, 1)
    about = train.split.about
    split = dataclasses.replace(
        train.split, about=lambda number: {**about(number), "extra": {"group": f"g{number // 20}"}}
    )
    grouped = FeatureSet.of_features(train.layers, split)
    chosen_on = run_probe(grouped, val, lrs=(1e-3, 1e-2)).result.protocol["chosen_on"]
    assert chosen_on == "10% of the training videos (20), seed 0; then trained on all"  # one of the six longer ones
    assert attend(clips=40, epochs=1, lrs=(1e-3, 1e-2)).result.protocol["num_train"] == 200


def test_a_probe_with_nothing_to_choose_holds_nothing_out() -> None:
    train, val = (
        dataclasses.replace(each, layers={3: each.layers[3]}) for each in (feature_set(9, 0), feature_set(9, 1))
    )
    result = run_probe(train, val).result
    assert "tried" not in result.tables
    assert result.protocol["chosen_on"] == "nothing was chosen"


def test_a_share_of_the_labels_is_a_share_of_each_class() -> None:
    train, val = feature_set(300, 0), feature_set(60, 1)
    for share, count in ((0.1, 30), (0.01, 3)):
        result = run_probe(train, val, share, lrs=(1e-2,)).result
        assert result.protocol["num_train"] == count
        assert result.protocol["label_share"] == share


def test_the_views_of_a_video_give_better_scores_together_than_apart() -> None:
    train = feature_set(300, 0)
    alone, together = feature_set(300, 1), feature_set(300, 1, views=4)
    train, alone, together = (
        dataclasses.replace(each, layers={3: each.layers[3]}) for each in (train, alone, together)
    )
    one, four = (run_probe(train, val).result for val in (alone, together))
    assert four.protocol["num_val"] == one.protocol["num_val"] == 300
    assert four.protocol["most_views"] == 4
    assert four.metrics["top1"] > one.metrics["top1"] + 0.05


def test_what_a_probe_cannot_be_trained_on_is_refused() -> None:
    train, val = feature_set(9, 0), feature_set(9, 1)
    with pytest.raises(ValueError, match="there is one video to train on"):
        run_probe(train.part(torch.arange(9) == 0), val, lrs=(1e-3, 1e-2))
    other = dataclasses.replace(val, split=dataclasses.replace(val.split, label_names=("x",)))
    with pytest.raises(ValueError, match="the label names of train and val differ"):
        run_probe(train, other)
    beyond = dataclasses.replace(
        val, layers={n: dataclasses.replace(f, labels=f.labels + 5) for n, f in val.layers.items()}
    )
    with pytest.raises(ValueError, match="label 7 does not exist: there are 3 classes"):
        run_probe(train, beyond)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [None, 0.07])
def test_neighbours_vote_as_in_scikit_learn(k: int, temperature: float | None) -> None:
    train, val = feature_set(200, 0), feature_set(100, 1)
    scaler = StandardScaler().fit(train.layers[3].values)
    weights = "uniform" if temperature is None else lambda distance: np.exp((1 - distance) / temperature)
    model = KNeighborsClassifier(k, metric="cosine", weights=weights, algorithm="brute")
    model.fit(scaler.transform(train.layers[3].values), train.labels)
    expected = model.predict(scaler.transform(val.layers[3].values))
    found = nearest_neighbours(train, val, KNNConfig(ks=(k,), temperature=temperature), about={}, digest="m")
    guesses = np.array([row["predicted"][0] for row in found.rows])
    assert np.mean(guesses == expected) >= 0.99  # sums of equal votes may differ in their last bit
    assert found.metrics["top1"] == found.metrics[f"top1_k{k}"]


def test_neighbours_worked_by_hand() -> None:
    """The nearest is of class 1, two of the three nearest of class 0."""
    values = torch.tensor([[1.0, 0.05], [1.0, -0.3], [1.0, 0.4], [-1.0, 0.0]])
    split = Split(batches=(), label_names=("x", "y"))
    train = FeatureSet.of_features({1: Features(values, torch.tensor([1, 0, 0, 1]), index=torch.arange(4))}, split)
    query = values.mean(dim=0) + values.std(dim=0, correction=0) * torch.tensor([1.0, 0.0])
    val = FeatureSet.of_features({1: Features(query[None], torch.tensor([0]), index=torch.arange(1))}, split)
    found = nearest_neighbours(train, val, KNNConfig(ks=(1, 3), temperature=None), about={}, digest="m")
    assert found.metrics["top1_k1"] == 0.0
    assert found.metrics["top1_k3"] == 1.0
    with pytest.raises(ValueError, match="5 neighbours cannot vote: there are 4 training samples"):
        nearest_neighbours(train, val, KNNConfig(ks=(5,)), about={}, digest="m")


def directions(count: int, seed: int, strength: float) -> list[Features]:
    """Features of clips both ways; the reversed ones are shifted against the forward ones."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(count, 6, generator=generator)
    shift = torch.zeros(6)
    shift[0] = strength
    unlabelled = torch.full((count,), -1)
    return [Features(clip + sign * shift, unlabelled, index=torch.arange(count)) for sign in (1, -1)]


@pytest.mark.parametrize(("strength", "low", "high"), [(3.0, 0.95, 1.0), (0.0, 0.35, 0.65)])
def test_the_arrow_of_time_is_found_where_it_is(strength: float, low: float, high: float) -> None:
    found = {"train": directions(200, 0, strength), "val": directions(100, 1, strength)}
    data = {role: Split(batches=(), digest=role) for role in found}
    result = arrow_of_time(found, data, ProbeConfig(epochs=20, seeds=(0,)), CPU, about={}, digest="m")
    assert low <= result.metrics["top1"] <= high
    if strength:
        assert result.metrics["paired_top1"] == 1.0
        assert result.intervals["paired_top1"][0] > 0.9
    else:
        assert result.metrics["paired_top1"] == 0.5  # both ways are the same: every pair is a tie
    assert (result.protocol["num_val"], len(result.rows)) == (100, 200)


class Rows:
    """Batches of tokens in an order of their own each time, as a shuffling loader gives them."""

    def __init__(self, tokens: Tensor, labels: Tensor, size: int, seed: int | None) -> None:
        self.tokens, self.labels, self.size = tokens, labels, size
        self.random = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.size)

    def __iter__(self):  # type: ignore[no-untyped-def]
        count = len(self.labels)
        order = np.arange(count) if self.random is None else self.random.permutation(count)
        for start in range(0, count, self.size):
            index = torch.from_numpy(order[start : start + self.size])
            valid = torch.ones(len(index), dtype=torch.bool)
            yield {"tokens": self.tokens[index], "label": self.labels[index], "index": index, "valid": valid}


def marked(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens of which one, anywhere, says the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    tokens = 0.3 * torch.randn(count, 12, 16, generator=generator)
    place = torch.randint(12, (count,), generator=generator)
    tokens[torch.arange(count), place] += 6 * torch.eye(3, 16)[labels]
    return tokens, labels


def label_of(given: Sequence[int], clips: int, number: int) -> dict[str, object]:
    """A sample's metadata: so many clips in a row are of one longer video, as the sources of UCF101 and MSVD say it."""
    return {"label": given[number], "extra": {"group": f"g{number // clips}"} if clips > 1 else {}}


def attend(seed: int = 0, *, clips: int = 1, **config: object) -> Attended:
    data = {}
    for role, count in (("train", 240), ("val", 90)):
        tokens, labels = marked(count, seed=len(role))
        given: list[int] = labels.tolist()
        data[role] = Split(
            batches=Rows(tokens, labels, 32, seed if role == "train" else None),
            label_names=CLASSES,
            digest=role,
            about=partial(label_of, given, clips),
            num_samples=count,
        )

    def tokens_of(batch: Mapping[str, Tensor], rows: Tensor) -> dict[int, Tensor]:
        return {1: batch["tokens"][rows], 2: torch.zeros_like(batch["tokens"][rows])}

    settings = AttentiveConfig(**{"heads": 2, "epochs": 6, "lrs": (3e-3,), "seed": seed, **config})  # type: ignore[arg-type]
    return attentive_probe(tokens_of, (1, 2), data, settings, World(), width=16, device=CPU, about={}, digest="m")


def test_the_attentive_probe_finds_a_token_and_chooses_layer_and_settings_on_training_videos() -> None:
    found = attend(lrs=(1e-7, 1e-2), epochs=10)
    assert found.result.metrics["top1"] > 0.9
    assert (found.layer, found.result.protocol["chosen_lr"]) == (1, 1e-2)
    assert found.result.protocol["num_train"] == 216
    assert found.result.protocol["chosen_on"] == "10% of the training videos"
    assert len(found.result.tables["tried"]) == 4
    assert found.result.seed == 0


def test_the_attentive_probe_gives_the_same_numbers_by_seed_whatever_the_global_generator() -> None:
    torch.manual_seed(3)
    first = attend(epochs=1)
    torch.manual_seed(4)
    again, other = attend(epochs=1), attend(seed=1, epochs=1)
    assert again.result == first.result
    assert torch.equal(again.head.linear.weight, first.head.linear.weight)
    assert not torch.equal(other.head.linear.weight, first.head.linear.weight)


def test_four_blocks_are_three_of_self_attention_before_the_query() -> None:
    head = AttentiveHead(16, 3, blocks=4, heads=2)
    assert len(head.blocks) == 3
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(head(tokens), head(tokens[:, torch.randperm(5)]), rtol=1e-4, atol=1e-5)  # no order
    one = AttentiveHead(16, 3, blocks=1, heads=2)
    assert sum(p.numel() for p in one.cross.parameters()) == 4 * (16 * 16 + 16) + 2 * 32 + (16 * 64 + 64) + (
        64 * 16 + 16
    )
    with pytest.raises(ValueError, match="heads that divide"):
        AttentiveHead(16, 3, blocks=1, heads=3)


def test_an_attentive_probe_on_a_share_of_the_labels_trains_on_no_other() -> None:
    assert attend(label_share=0.1, epochs=1).result.protocol["num_train"] == 24 - 2  # two are held out to choose on

"""A linear probe of features that are at hand, without the encoder that made them."""

from __future__ import annotations

from dataclasses import replace

import torch

from evaluation.features import Features
from evaluation.probe import FeatureSet, ProbeConfig, ProbeResult, as_probe_result, probe_features
from evaluation.result import Split


def linear_probe(train: Features, val: Features, num_classes: int, config: ProbeConfig) -> ProbeResult:
    """Train a linear classifier on standardised features, once per seed, and score it on held-out ones."""
    splits = [Split(batches=(), label_names=[str(number) for number in range(num_classes)]) for _ in range(2)]
    parts = [replace(part, index=torch.arange(len(part.labels))) for part in (train, val)]
    own, held = (FeatureSet.of_features({1: part}, split) for part, split in zip(parts, splits, strict=True))
    return as_probe_result(probe_features(own, held, config, torch.device("cpu"), about={}, digest="").result)

"""Retrieval and the probe find what an encoder knows: well above chance on videos that nothing was trained on.

The encoder is a tiny VideoMAE that has learned to tell colour and motion on scenes of its own, saved by transformers as
a published one would be. Heads and probes learn on the training videos of the downloads.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import VideoMAEConfig, VideoMAEModel

from shards.builder import ViewSpec
from shards.format.pixels import IMAGENET
from tests.captioned import caption_words
from tests.clip_text import save_text_encoder
from tests.official import COLOURS, MOTIONS, Scene, write_msrvtt, write_ucf101
from tools.cli import main

VIEW = ViewSpec(num_frames=8, size=32)
WIDTH, STEPS, BATCH_SIZE = 48, 300, 32
NUM_TRAIN, NUM_TEST = 72, 24


def clips(scenes: list[Scene]) -> torch.Tensor:
    """What the encoder sees of scenes, normalised: f32 `[n, T, 3, H, W]`."""
    taken = [scene.frames(16)[VIEW.frame_indices(16)] for scene in scenes]
    pixels = np.stack([[VIEW.resize(frame) for frame in frames] for frames in taken])
    mean, std = (torch.tensor(values) for values in IMAGENET)
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VideoMAE that the means of whose tokens tell colour and motion."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = VideoMAEModel(
        VideoMAEConfig(
            image_size=VIEW.size,
            patch_size=16,
            num_frames=VIEW.num_frames,
            tubelet_size=2,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * WIDTH,
        )
    )
    heads = nn.ModuleList([nn.Linear(WIDTH, len(COLOURS)), nn.Linear(WIDTH, len(MOTIONS))])
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=2e-3)
    for step in range(STEPS):
        drawn = random.integers((len(COLOURS), len(MOTIONS)), size=(BATCH_SIZE, 2))
        scenes = [
            Scene(list(COLOURS)[colour], list(MOTIONS)[motion], seed=10**6 + BATCH_SIZE * step + number)
            for number, (colour, motion) in enumerate(drawn.tolist())
        ]
        pooled = model(pixel_values=clips(scenes)).last_hidden_state.mean(dim=1)
        targets = torch.from_numpy(drawn)
        losses = [F.cross_entropy(head(pooled), targets[:, number]) for number, head in enumerate(heads)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    folder = tmp_path_factory.mktemp("model") / "videomae"
    model.save_pretrained(folder)
    return folder


def results(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text())["results"]
    return record


def above(chance: float, count: int) -> float:
    """Three standard errors above chance, of a share of `count`."""
    return chance + 3 * math.sqrt(chance * (1 - chance) / count)


@pytest.mark.slow
def test_captions_of_colour_and_motion_find_their_videos_among_96(encoder: Path, tmp_path: Path) -> None:
    write_msrvtt(tmp_path / "msrvtt", num_train=NUM_TRAIN, num_test=NUM_TEST)
    text = save_text_encoder(tmp_path / "clip", words=caption_words())
    given = ["--msrvtt", tmp_path / "msrvtt", "--text", text, "--checkpoint", encoder, "--steps", 400]
    places = ["--work", tmp_path / "sets", "--out", tmp_path, "--device", "cpu"]
    assert main(["evaluate", "retrieval", *map(str, [*given, *places])]) == 0
    found = results(tmp_path / "retrieval_msrvtt.json")
    trained, untrained = found["trained"]["metrics"], found["untrained"]["metrics"]
    assert trained["chance"] == 1 / NUM_TEST
    for name in ("t2v_r1", "v2t_r1"):
        assert trained[name] > above(trained["chance"], NUM_TEST)
    assert trained["t2v_mean_rank"] < untrained["t2v_mean_rank"]


@pytest.mark.slow
def test_a_probe_tells_the_motions_of_a_ucf101_on_its_test_list(encoder: Path, tmp_path: Path) -> None:
    write_ucf101(tmp_path / "ucf101", motions=tuple(MOTIONS), num_groups=3, num_clips=8)
    given = ["--root", tmp_path / "ucf101", "--checkpoint", encoder, "--lr", 0.01, "--weight-decay", 0.01]
    places = ["--work", tmp_path / "sets", "--out", tmp_path, "--device", "cpu"]
    assert main(["evaluate", "ucf101", *map(str, [*given, *places])]) == 0
    found = results(tmp_path / "ucf101.json")
    trained, untrained = found["trained"]["metrics"], found["untrained"]["metrics"]
    assert (trained["chance"], found["trained"]["protocol"]["num_val"]) == (0.25, 32)
    assert trained["top1"] > above(0.25, 32)
    assert trained["top1"] > untrained["top1"]

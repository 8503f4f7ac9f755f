"""Students that see clips and targets through codecs learn what those learn that see them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.dataset import ShardDataset
from shards.exchange.reshard import Cut, encode_fields, plan_reshard, unchanged
from shards.exchange.selection import Selection
from shards.format.layout import clip_to_tubes, target_to_tubes
from shards.format.manifest import Manifest, shard_name
from shards.format.publish import canonical_json
from shards.format.schema import Schema
from shards.writer import ShardWriter
from tests.datasets import DIM, FRAMES, PATCH, SIZE, TUBELET, tubes_schema
from tools.cli import main

SEEDS = (0, 1)
STEPS = 100
GEOMETRY = {
    "model.num_frames": FRAMES,
    "model.image_size": SIZE,
    "model.patch": PATCH,
    "model.dim": 32,
    "model.depth": 2,
    "model.heads": 2,
    "model.target_dim": DIM,
    "model.predictor_dim": 32,
}


MORE: dict[str, dict[str, int]] = {"demo": {}, "demo_salt": {"model.predictor_heads": 2}}


def make_moving(directory: Path, num_samples: int, seed: int) -> ShardDataset:
    """Soft spots that move; the class is their colour, and a target is what a fixed map makes of a tubelet."""
    directory.mkdir()
    random = np.random.default_rng(seed)
    schema: Schema = tubes_schema()
    mapping = np.random.default_rng(7).standard_normal((TUBELET * PATCH * PATCH * 3, DIM)) / 40
    rows, columns = np.mgrid[:SIZE, :SIZE]
    with ShardWriter(directory / shard_name("train", 0, 1), schema) as writer:
        for number in range(num_samples):
            label = number % 2
            place, speed = random.uniform(8, 24, 2), random.uniform(-4, 4)
            colour = np.array([190, 120, 80] if label else [80, 120, 190]) + random.normal(0, 25, 3)
            times = np.arange(FRAMES)[:, None, None]
            far = (rows - place[0]) ** 2 + (columns - place[1] - (times - 1.5) * speed) ** 2
            clip = 128 + (colour - 128) * np.exp(-far / 40)[..., None] + random.normal(0, 4, (FRAMES, SIZE, SIZE, 3))
            tubes = clip_to_tubes(clip.clip(0, 255).astype(np.uint8), TUBELET, PATCH)
            tokens = (tubes.reshape(*tubes.shape[:2], -1) / 64 - 2) @ mapping
            target = target_to_tubes(tokens.transpose(1, 0, 2).reshape(-1, DIM).astype(np.float16), tubes.shape[1])
            record = {"video_id": f"v{number:04d}", "label": label, "label_name": f"class {label}"}
            writer.write(f"{number:06d}", {"clip": tubes, "target": target, "json": canonical_json(record)})
    names = ("class 0", "class 1")
    Manifest(split="train", schema=schema, shards=(writer.info,), label_names=names).write(directory)
    return ShardDataset.open(directory)


def learn(recipe: str, data: Path, folder: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """Train; then the loss on held-out clips as they are, and what a probe on those tells."""
    raw, held_out, run = str(folder / "raw"), str(folder / "held_out"), folder / f"{recipe}-{data.name}-{seed}"
    values = {
        **GEOMETRY,
        **MORE[recipe],
        "train.steps": STEPS,
        "train.checkpoint_every": STEPS,
        "train.seed": seed,
        "data.seed": seed,
    }
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    train = ["train", "--recipe", recipe, "--data", str(data), "--val", held_out, "--out", str(run), *flags]
    assert main(train) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    capsys.readouterr()
    few = ["--epochs", "20", "--lr", "0.03", "--weight-decay", "0", "--json"]
    assert main(["evaluate", "probe", "--run", str(run), "--train", raw, "--val", held_out, *few]) == 0
    results: dict[str, Any] = json.loads(capsys.readouterr().out)["results"]
    loss = next(row["validation_loss"] for row in reversed(rows) if "validation_loss" in row)
    return {"loss": loss, "top1": results["trained"]["metrics"]["top1"]}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["demo", "demo_salt"])
def test_a_student_of_coded_clips_and_targets_learns_as_one_of_raw_ones_does(
    tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_moving(tmp_path / "raw", 64, 0)
    make_moving(tmp_path / "held_out", 64, 1)
    changes = encode_fields(unchanged(raw), {"clip": "yuv420", "target": "int8"})
    plan_reshard(raw, Selection(), Cut(), changes).run(tmp_path / "coded")
    found = {
        data: [learn(recipe, tmp_path / data, tmp_path, seed, capsys) for seed in SEEDS] for data in ("raw", "coded")
    }
    raw_loss, coded_loss = ([one["loss"] for one in found[data]] for data in ("raw", "coded"))
    raw_top1, coded_top1 = ([one["top1"] for one in found[data]] for data in ("raw", "coded"))
    said = f"{recipe}: loss {raw_loss} raw, {coded_loss} coded; top-1 {raw_top1} raw, {coded_top1} coded"
    with capsys.disabled():
        print(said)
    noise = max(np.ptp(raw_loss), 0.02 * np.mean(raw_loss))
    assert abs(np.mean(coded_loss) - np.mean(raw_loss)) <= noise, said
    assert abs(np.mean(coded_top1) - np.mean(raw_top1)) <= 0.15, said  # of 64 held-out clips, an interval of 95 %

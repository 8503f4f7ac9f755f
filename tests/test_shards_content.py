"""`reelshard verify --content`: what is stored is what it says. `reelshard show --lengths`: how long samples are."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards import ShardDataset, verify_dataset
from shards.content import check_content
from shards.writer import ShardWriter
from tests.chats import make_chat_sets
from tests.datasets import make_dataset
from tools.cli import main


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardDataset]:
    return make_chat_sets(tmp_path_factory.mktemp("chats"), num_videos=6, num_texts=5)


def rewritten(dataset: ShardDataset, out: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Path:
    """The first shard with another first sample, whose bytes are as written."""
    out.mkdir()
    info = dataset.manifest.shards[0]
    with ShardWriter(out / info.name, dataset.schema) as writer:
        for number in range(info.num_samples):
            sample: dict[str, Any] = dict(dataset[number])
            writer.write(dataset.key(number), {**sample, **(change(sample) if number == 0 else {})})
    replace(dataset.manifest, shards=(writer.info,)).write(out)
    assert not [problem for problem in verify_dataset(out).problems if "plan" not in problem]
    return out


def said(sample: Mapping[str, Any], **changes: Any) -> dict[str, bytes]:
    return {"json": json.dumps(json.loads(sample["json"]) | changes).encode()}


def picture(size: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size)).save(file, form)
    return file.getvalue()


def test_sound_sets_are_what_they_say(sets: dict[str, ShardDataset], capsys: pytest.CaptureFixture[str]) -> None:
    for name, dataset in sets.items():
        report = check_content(dataset)
        assert report.problems == ()
        assert report.num_samples == len(dataset)
        assert report.num_tokens == dataset.lengths("tokens").sum()
        assert report.num_frames == (dataset.lengths("frames").sum() if name == "video" else 0)
    assert main(["verify", str(sets["video"].directory), "--content"]) == 0
    assert "tokens: all are what they say" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: {"frames": [s["frames"][0][:200], *s["frames"][1:]]}, "frame 0 is no readable JPEG"),
        (lambda s: {"frames": [picture(28, "PNG"), *s["frames"][1:]]}, "frame 0 is no readable JPEG"),
        (lambda s: {"frames": [picture(30), *s["frames"][1:]]}, "frame 0 is 30 x 30 px, the view gives 28 x 28"),
        (lambda s: {"frames": s["frames"] * 2}, "frames and . times, and its JSON says"),
        (lambda s: said(s, num_frames=99), "its JSON says 99"),
        (lambda s: {"times": s["times"] * np.float32("nan")}, "its times are not in order: nan"),
        (lambda s: {"tokens": s["tokens"][:-1]}, r"its JSON says \d+ \(all\)"),
        (lambda s: said(s, num_tokens=3, truncated=True), r"its JSON says 3 \(more, cut\)"),
        (lambda s: {"tokens": np.where(s["answer"], 300, s["tokens"]).astype("<i4")}, "not in the vocabulary of 259"),
        (lambda s: {"tokens": -s["tokens"]}, "of its tokens are not in the vocabulary"),
        (lambda s: {"answer": s["answer"] * 0}, r"its marks of answers are \[0\]"),
        (lambda s: {"answer": s["answer"] + np.uint8(1)}, r"its marks of answers are \[1, 2\]"),
        (lambda s: said(s, tokenizer_sha256="of another"), "its tokens are of the tokenizer of another"),
    ],
)
def test_a_sample_that_is_not_what_it_says_is_named(
    sets: dict[str, ShardDataset],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Mapping[str, Any]],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = rewritten(sets["video"], tmp_path / "set", change)
    assert main(["verify", str(out), "--content", "--json"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    found = json.loads(line)["content"]["problems"]
    assert len(found) >= 1
    assert found[0].startswith(f"shard {sets['video'].manifest.shards[0].name}, key {sets['video'].key(0)}: ")
    assert re.search(problem, found[0])


def test_clips_have_no_content_to_look_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset(tmp_path / "clips", num_samples=3)
    assert main(["verify", str(tmp_path / "clips"), "--content"]) == 1
    assert "holds samples of the kind 'clip'; --content looks into chat, frames, sav" in capsys.readouterr().err


def test_lengths_are_printed_and_drawn(
    sets: dict[str, ShardDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, png = sets["video"], tmp_path / "lengths.png"
    assert main(["show", str(dataset.directory), "--lengths", "--png", str(png)]) == 0
    out = capsys.readouterr().out
    assert f"frames, times: {dataset.lengths('frames').sum()} in 6 samples, 1 to " in out
    assert "tokens, answer: " in out
    assert "█" in out
    with Image.open(png) as image:
        assert image.size[0] > 400
    assert main(["show", str(dataset.directory), "--lengths", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lengths, about = dataset.lengths("tokens"), found["tokens, answer"]
    assert (about["min"], about["max"], about["total"]) == (lengths.min(), lengths.max(), lengths.sum())
    assert sum(about["counts"]) == 6
    for low, high, count in zip(about["borders"], about["borders"][1:], about["counts"], strict=False):
        assert count == ((lengths >= low) & (lengths < high)).sum()


def test_lengths_of_clips_and_of_one_sample_are_refused(
    sets: dict[str, ShardDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "clips", num_samples=3)
    assert main(["show", str(tmp_path / "clips"), "--lengths"]) == 1
    assert "all samples are of one length" in capsys.readouterr().err
    assert main(["show", str(sets["text"].directory), "#0", "--lengths"]) == 1
    assert "leave KEY out" in capsys.readouterr().err

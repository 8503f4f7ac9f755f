"""Mixed batches of chats: videos of like length within budgets, text in its share, the same on every rank."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import Batch, LoaderConfig, MixedLoader, Reads, ShardLoader, World
from pipeline.contents import Contents
from pipeline.order.schedule import LengthBudget
from pipeline.read.decoders import JpegFrames
from shards import ShardDataset, ShardError
from tests.chats import SIDE, build_chats, chat_config, make_chat_sets, write_chats, write_tokenizer
from tests.two_kinds import write_set

BUDGET = {"frames": 24, "tokens": 1000}
MIX = {"video": 0.86, "text": 0.14}
ALIKE = {"answer": "tokens"}
READS = {
    "video": Reads(
        fields=("frames", "tokens", "answer"),
        decoders={"frames": JpegFrames(SIDE, SIDE, channels_first=True)},
        alike=ALIKE,
    ),
    "text": Reads(fields=("tokens", "answer"), alike=ALIKE),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardDataset]:
    return make_chat_sets(tmp_path_factory.mktemp("chats"), num_videos=60)


def mixed(sets: Mapping[str, ShardDataset], rank: int = 0, size: int = 1) -> MixedLoader:
    world = World(rank=rank, size=size)
    budgets = {"video": BUDGET, "text": {"tokens": BUDGET["tokens"]}}
    sources = {
        name: ShardLoader(dataset, LoaderConfig(length_budget=budgets[name], threads=2), world=world, reads=READS[name])
        for name, dataset in sets.items()
    }
    return MixedLoader(sources, MIX)


def test_a_batch_holds_decoded_frames_and_tokens_with_zeros_behind(sets: dict[str, ShardDataset]) -> None:
    dataset = sets["video"]
    for batch in mixed({"video": dataset, "text": sets["text"]}):
        assert "answer_length" not in batch
        assert batch["answer"].shape == batch["tokens"].shape
        if batch.source == "text":
            assert "frames" not in batch
            continue
        for row, number in enumerate(batch["index"].tolist()):
            sample: Any = dataset[number]
            count, length = int(batch["frames_length"][row]), int(batch["tokens_length"][row])
            pictures = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in sample["frames"]])
            assert np.array_equal(batch["frames"][row, :count], pictures.transpose(0, 3, 1, 2))
            assert not batch["frames"][row, count:].any()
            for name in ("tokens", "answer"):
                assert batch[name][row, :length].tolist() == sample[name].tolist()
                assert not batch[name][row, length:].any()


def test_every_batch_stays_within_all_budgets_padding_included(sets: dict[str, ShardDataset]) -> None:
    seen: list[int] = []
    for batch in mixed(sets):
        for name, most in BUDGET.items():
            if name in batch:
                assert batch[name].shape[0] * batch[name].shape[1] <= most
        seen += batch["index"].tolist() if batch.source == "video" else []
    assert sorted(seen) == list(range(60))


def test_the_share_of_text_is_exact_and_the_same_on_every_rank(sets: dict[str, ShardDataset]) -> None:
    ranks = [mixed(sets, rank, 3) for rank in range(3)]
    for _ in range(3):
        sources = [[batch.source for batch in loader] for loader in ranks]
        assert sources[0] == sources[1] == sources[2]
        video = sources[0].count("video")
        assert sources[0].count("text") == round(video * MIX["text"] / MIX["video"])


def test_two_ranks_stopped_inside_a_mixed_epoch_go_on_as_one(sets: dict[str, ShardDataset]) -> None:
    whole = mixed(sets)
    expected = [held(batch) for _ in range(2) for batch in whole]
    for step in (1, len(whole) // 2, len(whole) + 1):
        ranks = [mixed(sets, rank, 2) for rank in range(2)]
        states = [after(loader, step) for loader in ranks]
        assert states[0] == states[1]
        one = mixed(sets)
        one.load_state_dict(states[0])
        rest: list[Any] = []
        while len(rest) < len(expected) - step:
            rest += [held(batch) for batch in one]
        assert rest == expected[step:]


def held(batch: Batch) -> tuple[str, list[int]]:
    return batch.source, sorted(batch["index"].tolist())


def after(loader: MixedLoader, step: int) -> dict[str, Any]:
    """The state after so many batches; what was read ahead does not count."""
    done = 0
    while True:
        for _ in loader:
            done += 1
            if done == step:
                return loader.state_dict()


def test_videos_of_0_1_64_and_65_seconds_come_with_as_many_frames_up_to_the_cap(tmp_path: Path) -> None:
    build_chats(
        write_chats(tmp_path / "raw", [0, 1, 64, 65, 0]),
        tmp_path / "set",
        chat_config(write_tokenizer(tmp_path / "tokenizer")),
    )
    dataset = ShardDataset.open(tmp_path / "set")
    config = LoaderConfig(length_budget={"frames": 64, "tokens": 1000}, threads=2)
    with ShardLoader(dataset, config, reads=READS["video"]) as loader:
        found: dict[int, int] = {}
        for batch in loader:
            assert batch["frames"].shape[0] * max(batch["frames"].shape[1], 1) <= 64
            found |= dict(zip(batch["index"].tolist(), batch["frames_length"].tolist(), strict=True))
    lengths = {int(dataset.metadata(number)["id"][-4:]): length for number, length in found.items()}
    assert lengths == {0: 0, 1: 1, 2: 64, 3: 64, 4: 0}


def test_shares_and_padding_are_those_of_the_batches(sets: dict[str, ShardDataset]) -> None:
    contents, batches = Contents(), list(mixed(sets))
    for batch in batches:
        contents.add(batch)
    row = contents.row()
    of_text = [batch for batch in batches if batch.source == "text"]
    of_video = [batch for batch in batches if batch.source == "video"]
    assert row["share_batches_text"] == len(of_text) / len(batches)
    assert row["share_samples_video"] == sum(len(b["index"]) for b in of_video) / sum(len(b["index"]) for b in batches)
    tokens = [int(sum(b["tokens_length"].sum() for b in some)) for some in (of_text, batches)]
    assert row["share_tokens_text"] == pytest.approx(tokens[0] / tokens[1])
    frames = int(sum(b["frames_length"].sum() for b in of_video))
    assert row["padding_frames"] == pytest.approx(1 - frames / sum(b["frames"].shape[:2].numel() for b in of_video))
    assert row["padding_tokens"] == pytest.approx(1 - tokens[1] / sum(b["tokens"].numel() for b in batches))
    assert "share_frames_video" not in row  # only one source has any
    assert contents.row(lambda sums: 2 * sums) == pytest.approx(row)  # of two ranks alike


def test_frames_are_decoded_in_the_reader_threads_and_counted(sets: dict[str, ShardDataset]) -> None:
    dataset = sets["video"]
    with ShardLoader(dataset, LoaderConfig(drop_last=False, threads=2), reads=READS["video"]) as loader:
        reads = list(loader)
        stats = loader.stats()
    assert len(reads) == 2
    assert stats.num_decoded >= int(dataset.lengths("frames").sum())
    assert stats.decode_seconds > 0


@given(
    seed=st.integers(0, 100),
    longest=st.integers(1, 64),
    mean_tokens=st.integers(60, 300),
    spread=st.floats(0.05, 0.4),
)
@settings(max_examples=25, deadline=None)
def test_padding_is_below_15_per_cent_of_frames_and_of_tokens(
    seed: int, longest: int, mean_tokens: int, spread: float
) -> None:
    random = np.random.default_rng(seed)
    lengths = {
        "frames": random.integers(1, longest + 1, 6000),
        "tokens": random.normal(mean_tokens, spread * mean_tokens, 6000).clip(10, 1024).astype(np.int64),
    }
    schedule = LengthBudget(lengths, {"frames": 512, "tokens": 8192}, World(), seed=seed, shuffle=True)
    assert max(padding(schedule, lengths)) < 0.15


@pytest.mark.parametrize(("longest", "frames", "tokens"), [(8, 64, 1024), (12, 48, 800), (4, 32, 600)])
def test_padding_is_below_15_per_cent_in_small_sets_too(longest: int, frames: int, tokens: int) -> None:
    """As many samples as a demo has, of tokens that are bytes."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        lengths = {"frames": random.integers(1, longest + 1, 300), "tokens": random.integers(30, 70, 300)}
        schedule = LengthBudget(lengths, {"frames": frames, "tokens": tokens}, World(), seed=seed, shuffle=True)
        assert max(padding(schedule, lengths)) < 0.15


def padding(schedule: LengthBudget, lengths: Mapping[str, Any]) -> list[float]:
    """The share of each length's places in an epoch that hold nothing."""
    batches = [schedule.rows(0, number) for number in range(schedule.num_batches(0))]
    places = {name: sum(len(batch) * int(of[batch].max()) for batch in batches) for name, of in lengths.items()}
    return [float(1 - of.sum() / places[name]) for name, of in lengths.items()]


def test_fields_that_are_not_alike_are_refused(sets: dict[str, ShardDataset], tmp_path: Path) -> None:
    unlike = write_set(tmp_path / "set", 9, video=True)
    reads = Reads(fields=("frames", "tokens"), alike={"frames": "tokens"})
    with pytest.raises(ShardError, match="frames and tokens should be of one length, are"):
        ShardLoader(unlike, LoaderConfig(global_batch_size=1), reads=reads)
    with pytest.raises(ValueError, match="alike: answer and times must both be rows"):
        ShardLoader(sets["video"], reads=Reads(fields=("tokens", "answer"), alike={"answer": "times"}))


def test_a_state_from_before_the_tiling_is_refused(sets: dict[str, ShardDataset]) -> None:
    loader = ShardLoader(sets["text"], LoaderConfig(length_budget={"tokens": 900}), reads=READS["text"])
    state = {name: value for name, value in loader.state_dict().items() if name != "tiling"}
    with pytest.raises(ValueError, match="tiling"):
        loader.load_state_dict(state)


def test_a_batch_without_frames_has_no_places_for_any() -> None:
    contents = Contents()
    assert contents.row() == {}
    lengths = torch.zeros(2, dtype=torch.int64)
    batch = Batch({"valid": lengths.bool(), "frames": torch.zeros(2, 0, 3), "frames_length": lengths})
    contents.add(batch)
    assert contents.row() == {}

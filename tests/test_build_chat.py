"""The kind `chat`: videos or images with what is said of them, as frames and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from shards import ShardDataset, verify_dataset
from tests.chats import CONFIG, VIEW, build_chats, chat_config, make_chat_sets, write_chats, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


def text_of(tokenizer: Path, ids: Any) -> str:
    return str(AutoTokenizer.from_pretrained(tokenizer).decode(ids, skip_special_tokens=False))


def test_a_chat_has_a_frame_for_each_second_and_the_tokens_of_its_template(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [0, 1, 2, 64, 65])
    summary = build_chats(chats, tmp_path / "set", chat_config(tokenizer))
    assert (summary.num_samples, summary.failures) == (5, {})
    dataset = ShardDataset.open(tmp_path / "set")
    assert not verify_dataset(tmp_path / "set").problems
    records = {record["id"]: record for record in map(json.loads, chats.read_text().splitlines())}
    reference = AutoTokenizer.from_pretrained(tokenizer)
    for number in range(5):
        about, sample = dataset.metadata(number), dataset[number]
        seconds = [0, 1, 2, 64, 65][int(about["id"][-4:])]
        assert len(sample["frames"]) == len(sample["times"]) == about["num_frames"] == min(seconds, 64)
        record, messages = records[about["id"]], about["messages"]
        assert messages[-1]["content"] == record.get("caption", messages[-1]["content"])
        assert text_of(tokenizer, sample["tokens"]) == reference.apply_chat_template(messages, tokenize=False)
        said = np.asarray(sample["tokens"])[np.asarray(sample["answer"]) == 1]
        assert text_of(tokenizer, said) == messages[-1]["content"] + "<|im_end|>"
        assert about["source"] == "scenes"
        assert about["truncated"] is False


def test_sets_of_text_have_no_frames(tmp_path: Path) -> None:
    sets = make_chat_sets(tmp_path, num_videos=3, num_texts=3)
    assert sets["video"].schema.names == ("frames", "times", "tokens", "answer", "json")
    assert sets["text"].schema.names == ("tokens", "answer", "json")
    assert CONFIG.samples_per_shard >= 3
    assert sets["video"].manifest.provenance["view"]["hash"] == VIEW.hash

"""Embeddings of all captions of a video, one a row, made once from what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.builder import InProcess, open_source
from shards.builder.add_group import add_teacher_group
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.verify import verify_dataset
from tests.builds import CONFIG, VIEW, build, contents
from tests.datasets import make_dataset
from tests.kinds import LetterTeacher
from tests.official import write_msvd


@pytest.fixture(scope="module")
def msvd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msvd(tmp_path_factory.mktemp("msvd"), num_train=4, num_frames=8)


def add(out: Path, teacher: LetterTeacher | None = None, missing: float | None = None) -> ShardDataset:
    engine = InProcess(teacher or LetterTeacher())
    add_teacher_group(ShardDataset.open(out), "letters", engine, replace(CONFIG, teacher_batch=4), missing=missing)
    assert verify_dataset(out).problems == ()
    return ShardDataset.open(out)


def test_every_caption_is_a_row_in_its_order(msvd: Path, tmp_path: Path) -> None:
    build(open_source(msvd, None, "train"), tmp_path)
    teacher = LetterTeacher()
    dataset = add(tmp_path, teacher)
    assert dataset.schema["letters"].shape == (None, 2)
    captions = [dataset.metadata(number)["captions"] for number in range(len(dataset))]
    assert sorted(map(len, captions)) == [5, 5, 6, 7]
    for number, texts in enumerate(captions):
        rows = np.asarray(dataset.read(number, "letters"))
        assert rows.tolist() == [[len(text), ord(text[0])] for text in texts]
    assert [len(call) for call in teacher.calls] == [4, 4, 4, 4, 2, 4, 1]  # a call crosses samples, never a shard


def test_a_batch_of_the_loader_holds_all_rows_with_their_numbers(msvd: Path, tmp_path: Path) -> None:
    build(open_source(msvd, None, "train"), tmp_path)
    dataset = add(tmp_path)
    config = LoaderConfig(global_batch_size=4, fields=("letters",), shuffle=False)
    with ShardLoader(dataset, config) as loader:
        (batch,) = list(loader)
        lengths = batch["letters_length"].tolist()
    assert lengths == [len(dataset.metadata(number)["captions"]) for number in range(4)]


def test_the_views_of_a_video_have_the_same_rows(msvd: Path, tmp_path: Path) -> None:
    build(open_source(msvd, None, "train"), tmp_path, view=replace(VIEW, clips=2), limit=1)
    dataset = add(tmp_path)
    first, second = (np.asarray(dataset.read(number, "letters")) for number in range(2))
    assert np.array_equal(first, second)


def test_a_stopped_group_of_rows_goes_on_with_the_same_bytes(msvd: Path, tmp_path: Path) -> None:
    class Stops(LetterTeacher):
        def __call__(self, rows: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
            if len(self.calls) == 5:
                raise KeyboardInterrupt
            return super().__call__(rows)

    for name in ("whole", "stopped"):
        build(open_source(msvd, None, "train"), tmp_path / name)
    add(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        add(tmp_path / "stopped", Stops())
    assert "letters" not in ShardDataset.open(tmp_path / "stopped").schema
    assert len(ShardDataset.open(tmp_path / "stopped")) == 4
    add(tmp_path / "stopped")
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def captioned(folder: Path, *records: object) -> Path:
    texts = {number: json.dumps(record).encode() for number, record in enumerate(records)}
    make_dataset(folder, num_samples=len(records), samples_per_shard=2, records=texts)
    return folder


def test_a_sample_without_captions_stops_by_name_or_is_one_row_of_what_stands_for_it(tmp_path: Path) -> None:
    for number, record in enumerate(({"captions": []}, {"captions": ["a", " "]}, {"captions": "a"}, {"label": 1})):
        folder = captioned(tmp_path / str(number), {"captions": ["ab", "c"]}, record, {"text": "only text"})
        with pytest.raises(ShardError, match="cannot be made: bad_annotation: it has no caption"):
            add(folder)
        dataset = add(folder, missing=-1.0)
        rows = [np.asarray(dataset.read(place, "letters")).tolist() for place in range(3)]
        assert rows == [[[2, 97], [1, 99]], [[-1, -1]], [[9, 111]]]


def test_a_set_with_one_text_a_sample_keeps_one_embedding_a_sample(tmp_path: Path) -> None:
    dataset = add(captioned(tmp_path / "set", {"text": "ab"}, {"text": "c"}))
    assert dataset.schema["letters"].shape == (2,)
    assert np.asarray(dataset.read(1, "letters")).tolist() == [1, 99]

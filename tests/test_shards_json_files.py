"""JSON that others wrote: read where it is what it should be, else one error that names the file and what to do."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.sam3_files import PREPROCESSOR, pixel_statistics
from shards.builder.sources.msrvtt import load_msrvtt
from shards.builder.sources.ssv2 import load_ssv2
from shards.format.errors import MissingDataError, ShardError
from shards.format.json_files import json_of, read_json
from tests.annotations import touch
from tools.evaluate.answered_vqa import load_questions
from tools.evaluate.captions import load_references, load_results
from tools.evaluate.choice_files import load_choices
from tools.evaluate.vqa import load_annotations, load_answers

HOSTILE = {
    b"": "is not JSON",
    b"[{": "is not JSON",
    b"\xff\xfe[\x00]\x00": "is not text in UTF-8",
    b'["\xed\xa0\x80"]': "is not text in UTF-8",
    b"[" * 100_000: "is nested too deeply",
    b"[" * 70 + b"]" * 70: "nested more than 64 levels deep",
    b'[{"a": 1, "b": 2, "a": 1}]': "'a' stands twice in an object",
    b'[{"a": NaN}]': "NaN is no JSON",
    b'{"a": -Infinity}': "-Infinity is no JSON",
    b"[1e999]": "a number that is not finite",
}


def readers(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """What reads JSON of others: the file that it reads, and how."""
    ssv2, labels, vtt, student = (folder / name for name in ("ssv2", "labels", "vtt", "student"))
    touch(ssv2, "1.webm")
    touch(labels, "1.webm", "train.json")
    (labels / "train.json").write_text('[{"id": "1", "label": "a", "template": "a"}]')
    touch(vtt, "video1.mp4")
    student.mkdir()
    asked = folder / "asked.json"
    return {
        "annotations of SSv2": (ssv2 / "train.json", lambda file: load_ssv2(file.parent, file.parent, "train")),
        "labels of SSv2": (labels / "labels.json", lambda file: load_ssv2(file.parent, file.parent, "train")),
        "annotations of MSR-VTT": (vtt / "msrvtt_train_9k.json", lambda file: load_msrvtt(file.parent, "train")),
        "references": (asked, load_references),
        "captions": (asked, lambda file: load_results(file, {})),
        "questions": (asked, load_questions),
        "annotations of VQA": (asked, load_annotations),
        "answers": (asked, lambda file: load_answers(file, {})),
        "choices": (asked, load_choices),
        "choices in lines": (folder / "asked.jsonl", load_choices),
    }


@pytest.mark.parametrize("what", ["annotations of SSv2", "labels of SSv2", "annotations of MSR-VTT", "references",
                                  "captions", "questions", "annotations of VQA", "answers", "choices"])  # fmt: skip
def test_what_others_wrote_is_refused_alike_whoever_reads_it(tmp_path: Path, what: str) -> None:
    file, read = readers(tmp_path)[what]
    for data, said in HOSTILE.items():
        file.write_bytes(data)
        in_zips = what == "annotations of MSR-VTT" and "UTF-8" in said  # text is read before it is JSON
        with pytest.raises(ShardError, match="cannot be read as text" if in_zips else said) as caught:
            read(file)
        assert str(file) in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert len(str(caught.value).splitlines()) == 1


def test_a_line_that_is_wrong_is_told_by_its_number(tmp_path: Path) -> None:
    file, read = readers(tmp_path)["choices in lines"]
    for data, said in HOSTILE.items():
        if data:
            file.write_bytes(b'{"question": "?"}\n\n' + data)
            with pytest.raises(ShardError, match=rf"asked\.jsonl, line 3: it .*{said.removeprefix('is ')}"):
                read(file)


@pytest.mark.parametrize("data", [data for data in HOSTILE if data])
def test_pixels_of_a_student_are_not_told_by_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PREPROCESSOR).write_bytes(data)
    with pytest.raises(ShardError, match=HOSTILE[data]):
        pixel_statistics(str(tmp_path))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_what_is_json_is_read_as_it_is(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    for data in (text, text.encode(), codecs.BOM_UTF8 + text.encode()):
        assert json_of(data, "it") == value


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = json.loads(data.decode())
        json.dumps(value, allow_nan=False)
    except ValueError:
        with pytest.raises(ShardError, match=r"^it is not (?s:.*); take another$"):
            json_of(data, "it", "take another")
    else:
        assert json_of(data, "it") == value


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"there is no file .*nowhere"):
        read_json(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ShardError, match="is not a file, but a folder, a pipe or a device"):
            read_json(tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ShardError, match="loop cannot be read: Too many levels of symbolic links"):
        read_json(tmp_path / "loop")

"""The likeliest option is the answer, and the files of Video-MME and MLVU are read as their owners publish them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.multiple_choice import Choice, measure_choices
from evaluation.speaker import Likelihood
from tests.choice_files import write_mlvu, write_video_mme
from tools.evaluate.choice_files import load_choices
from tools.evaluate.subtitles import read_subtitles, shown_at


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("choice")
    write_video_mme(root / "video_mme")
    write_mlvu(root / "mlvu")
    return root


def choice(logs: Sequence[float], answer: int | None, video: str = "v", task: str = "t", **changes: Any) -> Choice:
    likelihoods = [Likelihood(log, 1) for log in logs]
    texts = changes.pop("texts", ["a"] * len(logs))
    kinds = {"task": task, **changes}
    return Choice(name=video, video=video, kinds=kinds, answer=answer, likelihoods=likelihoods, texts=texts)


def test_the_likeliest_letter_is_the_answer_and_texts_count_by_their_bytes() -> None:
    assert choice([-3, -1, -2], 1).guess("letter") == 1
    assert choice([-2, -2, -3], 0).guess("letter") == 0
    long = choice([-4, -5], 0, texts=["red", "réd and blue"])
    assert (long.guess("letter"), long.guess("text")) == (0, 1)  # 4 nats in 3 bytes, 5 in 13


def test_m_avg_is_the_mean_of_tasks_and_accuracy_that_of_questions() -> None:
    right, wrong, nobody = ([0.0, -1.0], 0), ([0.0, -1.0], 1), ([0.0, -1.0], None)
    choices = [choice(*right, "a"), choice(*right, "b"), choice(*wrong, "c"), choice(*nobody, "d", "needle")]
    choices.append(choice([0.0, -1.0, -2.0], 0, "e", "order"))
    found = measure_choices(choices, "letter", mean_over="task")
    assert found.metrics["accuracy"] == pytest.approx(3 / 5)
    assert found.metrics["m_avg"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found.metrics["chance"] == pytest.approx((4 / 2 + 1 / 3) / 5)
    assert found.tables["task"] == [
        {"name": "needle", "count": 1, "accuracy": 0.0},
        {"name": "order", "count": 1, "accuracy": 1.0},
        {"name": "t", "count": 3, "accuracy": pytest.approx(2 / 3)},
    ]
    assert [row["guess"] for row in found.rows] == ["A"] * 5
    assert found.rows[3]["answer"] is None
    with pytest.raises(ValueError, match="no answer to score"):
        measure_choices([], "letter")


@settings(max_examples=25, deadline=None)
@given(answers=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_interval_holds_the_accuracy_and_goes_by_videos(answers: list[tuple[int, int, int]]) -> None:
    def made(guess: int) -> list[float]:
        return [0.0 if place == guess else -1.0 for place in range(4)]

    choices = [choice(made(guess), answer, f"video{video}") for guess, answer, video in answers]
    found = measure_choices(choices, "letter")
    low, high = found.intervals["accuracy"]
    assert 0 <= low <= high <= 1
    assert found.metrics["accuracy"] == pytest.approx(
        sum(guess == answer for guess, answer, _ in answers) / len(answers)
    )
    if len({video for *_, video in answers}) == 1:
        assert low == high  # one video says nothing of others


def test_the_layouts_of_video_mme_hold_the_same_questions(folder: Path, tmp_path: Path) -> None:
    lines = folder / "video_mme/test.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    expected = load_choices(lines)
    assert expected.layout == "Video-MME"
    assert len(expected.questions) == 6
    first = expected.questions[0]
    assert (first.name, first.question, first.answer) == ("001-1", "Which {crate} of 1?", 1)
    assert first.options == ("Two.", "Three.", "Four.", "Six.")
    assert first.videos == ("aaaaaaaaaaa", "aaaaaaaaaaa", "001")
    assert first.kinds == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Odds & Ends",
        "task_type": "Counting Problem",
    }
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    # The owners' template: questions below their videos, other names, a comma too many, no id of YouTube's.
    videos: dict[str, dict[str, Any]] = {}
    for row in rows:
        about = {"video_id": row["video_id"], "duration_category": row["duration"], "video_category": row["domain"]}
        about |= {"video_sub_category": row["sub_category"], "url": row["url"]}
        said = {"question_id": row["question_id"], "task_type": row["task_type"], "question": row["question"]}
        said |= {"choices": row["options"], "answer": row["answer"]}
        videos.setdefault(row["video_id"], {**about, "questions": []})["questions"].append(said)
    nested = json.dumps(list(videos.values())).replace("}]}", "},]},")
    (tmp_path / "template.json").write_text(f"{nested[:-1]},]".replace(",,", ","))
    with pytest.raises(ValueError, match="Expecting"):
        json.loads((tmp_path / "template.json").read_text())
    for name in ("test-00000-of-00001.parquet", "rows.json", "template.json"):
        found = load_choices(tmp_path / name)
        for one, other in zip(found.questions, expected.questions, strict=True):
            assert (one.name, one.question, one.options, one.answer, one.kinds) == (
                (other.name, other.question, other.options, other.answer, other.kinds)
            )
            assert one.videos[0] == other.videos[0]


def test_mlvu_is_a_folder_of_tasks_of_which_those_of_words_are_left_out(folder: Path) -> None:
    found = load_choices(folder / "mlvu/json")
    assert found.layout == "MLVU"
    assert [question.kinds["task"] for question in found.questions] == ["plotQA", "plotQA", "needle", "count"]
    assert [question.answer for question in found.questions] == [2, 0, None, 2]
    assert found.notes == [
        "summary: no multiple choice, and left out (a judge model scores it)",
        "1 questions have an answer that is none of their options, and count as wrong",
    ]
    one = load_choices(folder / "mlvu/json/4_count.json")
    assert [question.options for question in one.questions] == [("1", "2", "12")]


def test_subtitles_are_those_that_are_shown_with_the_frames(folder: Path, tmp_path: Path) -> None:
    found = read_subtitles(folder / "video_mme/subtitle/aaaaaaaaaaa.srt")
    assert [each.text for each in found] == ["hello there", "nobody sees", "two lines"]
    assert shown_at(found, [0.0, 1.0]) == "hello there\ntwo lines"
    assert shown_at(found, [0.5, 0.6]) == "hello there"
    assert shown_at(found, []) == ""
    (tmp_path / "no.srt").write_text("words alone")
    with pytest.raises(ValueError, match="holds no subtitles"):
        read_subtitles(tmp_path / "no.srt")

"""True records of public sets are read, and the worked cases of their owners' tools agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evaluation.vqa import normalise, vqa_accuracy
from tools.evaluate.answered_vqa import load_questions
from tools.evaluate.captions import load_references, load_results, measure_captions
from tools.evaluate.choice_files import load_choices
from tools.evaluate.coco_tools import missing_for_meteor
from tools.evaluate.subtitles import read_subtitles
from tools.evaluate.vqa import load_annotations


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


@pytest.mark.slow
def test_captions_score_what_the_official_tools_score(layouts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    references = load_references(layouts / "captions/references.json")
    captions = load_results(layouts / "captions/results.json", references.captions)
    expected = read(layouts / "captions/scores.json")["ptb_tokenizer"]
    for java in (True, False):
        if not java:
            monkeypatch.setenv("PATH", "")
        found = measure_captions(captions, references.captions)
        for name, official in {"bleu4": "BLEU-4", "cider": "CIDEr", "meteor": "METEOR"}.items():
            if name == "meteor" and missing_for_meteor():
                continue
            assert found.metrics[name] == pytest.approx(expected[official]["corpus"], abs=1e-6)
            assert [row[name] for row in found.rows] == pytest.approx(expected[official]["per_item"], abs=1e-6)


def test_answers_are_normalised_and_counted_as_the_official_tool_does(layouts: Path) -> None:
    cases = read(layouts / "vqa/normaliser_cases.json")
    assert len(cases) > 40
    assert {case["in"]: normalise(case["in"]) for case in cases} == {case["in"]: case["out"] for case in cases}
    for case in read(layouts / "vqa/accuracy_cases.json"):
        groups = re.findall(r"(\d+) x '((?:[^'\\]|\\.)*)'", case["gt"])
        people = [answer for count, answer in groups for _ in range(int(count))]
        assert 100 * vqa_accuracy(case["pred"], people) == pytest.approx(case["acc"]), case


def test_questions_and_annotations_of_vqa_are_read(layouts: Path) -> None:
    asked = load_annotations(layouts / "vqa/v2_mscoco_val2014_annotations.one_record.json")
    assert asked["262148000"].kinds == {"question_type": "none of the above", "answer_type": "other"}
    questions = load_questions(layouts / "vqa/v2_OpenEnded_mscoco_val2014_questions.one_record.json")
    assert questions["262148000"].question == "Where is he looking?"
    assert questions["262148000"].pictures[0] == "COCO_val2014_000000262148"
    more = load_questions(layouts / "vqa/okvqa_OpenEnded_mscoco_train2014_questions.excerpt.json")
    assert next(each.pictures[0] for each in more.values()) == "COCO_train2014_000000051606"


def test_questions_of_video_mme_and_mlvu_are_read(layouts: Path) -> None:
    row = load_choices(layouts / "video_mme/hf_row.shape.jsonl")
    template = load_choices(layouts / "video_mme/output_test_template.shape.json.txt")
    assert (row.layout, len(row.questions), len(template.questions)) == ("Video-MME", 1, 3)
    one, other = row.questions[0], template.questions[0]
    assert (one.name, one.options, one.answer, one.kinds) == (other.name, other.options, other.answer, other.kinds)
    assert (one.options, one.answer, one.videos[0]) == (("Two.", "Three.", "Four.", "Five."), 1, "AAAAAAAAAAA")
    subtitles = read_subtitles(layouts / "video_mme/subtitle.shape.srt.txt")
    assert [(each.start, each.text) for each in subtitles] == [
        (0.0, "placeholder line one"),
        (2.5, "placeholder line two"),
    ]
    mlvu = load_choices(layouts / "mlvu")
    assert mlvu.layout == "MLVU"
    tasks = [question.kinds["task"] for question in mlvu.questions]
    assert list(dict.fromkeys(tasks)) == [
        "plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning",
    ]  # fmt: skip
    assert [question.videos[0] for question in mlvu.questions if question.answer is None] == [
        "needle_4.mp4",
        "needle_5.mp4",
    ]
    assert mlvu.notes[0].startswith("sub_scene, summary: no multiple choice")

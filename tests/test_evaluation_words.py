"""Captions and answers are scored as the official tools score them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from evaluation.caption_words import caption_words
from evaluation.captions import score_captions
from evaluation.vqa import normalise, vqa_accuracy
from tools.cli import main
from tools.evaluate.coco_tools import missing_for_meteor

WORDS = ["a", "the", "red", "blue", "square", "circle", "moves", "jumps", "left", "right", "up", "and", "slowly"]

# What Stanford's PTBTokenizer, as pycocoevalcap runs it, makes of them.
SPLIT = {
    "A boy's kite doesn't fly!": "a boy 's kite does n't fly",
    "He can't, won't & cannot go.": "he ca n't wo n't & can not go",
    "T-shirt (red) - 3.5 m/s at 10:30 a.m.": "t-shirt -lrb- red -rrb- 3.5 m/s at 10:30 a.m.",
    "the 2nd runner-up's 1,000 laps...": "the 2nd runner-up 's 1,000 laps",
    "mr. smith vs. dr. who, gonna wanna": "mr. smith vs. dr. who gon na wan na",
    "R&B -- 'quoted' \"text\"; what?! no": "r&b quoted text what ?! no",
    "they'd we've you're I'll o'clock": "they 'd we 've you 're i 'll o'clock",
    "...": "",
}


@pytest.mark.parametrize("caption", SPLIT)
def test_words_are_those_of_the_official_tokenizer(caption: str) -> None:
    assert " ".join(caption_words(caption)) == SPLIT[caption]


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")
def test_the_official_tokenizer_still_says_so() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found = PTBTokenizer().tokenize({caption: [{"caption": caption}] for caption in SPLIT})
    assert {caption: words[0] for caption, words in found.items()} == SPLIT


def _sentences(seed: int, count: int, longest: int, shortest: int = 0) -> list[list[str]]:
    drawn = random.Random(seed)
    return [drawn.choices(WORDS, k=drawn.randint(shortest, longest)) for _ in range(count)]


@given(seed=st.integers(0, 2**32), num=st.integers(1, 8), longest=st.integers(1, 9))
def test_bleu_and_cider_equal_the_official_ones(seed: int, num: int, longest: int) -> None:
    captions = {str(name): words for name, words in enumerate(_sentences(seed, num, longest))}
    references = {name: _sentences(seed + 1 + int(name), 1 + int(name) % 3, longest, 1) for name in captions}
    joined = {name: [" ".join(words)] for name, words in captions.items()}
    given_joined = {name: [" ".join(words) for words in some] for name, some in references.items()}

    scores = score_captions(captions, references)

    bleu, bleu_each = Bleu(4).compute_score(given_joined, joined, verbose=0)
    cider, cider_each = Cider().compute_score(given_joined, joined)
    assert scores.bleu4 == pytest.approx(bleu[3])
    assert scores.bleu4_each == pytest.approx(bleu_each[3])
    assert scores.cider == pytest.approx(cider, abs=1e-9)
    assert scores.cider_each == pytest.approx(list(cider_each), abs=1e-9)


def test_a_perfect_set_has_ten_and_a_set_of_one_nothing() -> None:
    captions = {"1": ["a", "red", "square", "jumps", "left"], "2": ["the", "blue", "circle", "moves", "right"]}
    perfect = score_captions(captions, {name: [words] for name, words in captions.items()})
    assert perfect.cider == pytest.approx(10)
    assert perfect.bleu4 == pytest.approx(1)
    assert score_captions({"1": captions["1"]}, {"1": [captions["1"]]}).cider == 0
    with pytest.raises(ValueError, match="no caption"):
        score_captions({}, {})
    with pytest.raises(ValueError, match="2 has no reference"):
        score_captions(captions, {"1": [captions["1"]]})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The red kites!", "red kites"),
        ("Three", "3"),
        ("none of them", "0 of them"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("X-ray", "x ray"),
        ("x - ray", "x ray"),
        ("2,000 kites", "2000 kites"),
        ("7.5", "7.5"),
        ("7.", "7"),
        ("9:15 p.m.", "9:15 pm"),
        ("$3", "$3"),
    ],
)
def test_answers_are_normalised_as_the_official_tool_does(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


@pytest.mark.parametrize(("same", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_an_answer_counts_by_the_people_who_gave_it(same: int, score: float) -> None:
    people = ["kite"] * same + ["ball"] * (10 - same)
    assert vqa_accuracy("Kite.", people) == pytest.approx(score)


def test_where_all_agree_the_answer_has_to_be_theirs_to_the_letter() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0
    assert vqa_accuracy(" yes\n", ["yes"] * 10) == 1
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1
    with pytest.raises(ValueError, match="1 answers were given"):
        vqa_accuracy("yes", ["yes"])


def _write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def _coco(captions: Sequence[tuple[int, str]]) -> dict[str, object]:
    notes = [{"image_id": name, "id": number, "caption": text} for number, (name, text) in enumerate(captions)]
    return {"info": {}, "images": [{"id": name} for name, _ in captions], "annotations": notes, "type": "captions"}


@pytest.mark.parametrize("java", [True, False])
def test_caption_files_in_cocos_form_are_scored_by_one_command(
    tmp_path: Path, java: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if java and (missing := missing_for_meteor()):
        pytest.skip(missing)
    if not java:
        monkeypatch.setenv("PATH", str(tmp_path))
    references = _write(
        tmp_path / "references.json",
        _coco([(1, "A red kite flies."), (1, "a kite is in the sky"), (2, "two dogs swim"), (3, "not asked for")]),
    )
    results = _write(
        tmp_path / "results.json",
        [{"image_id": 1, "caption": "A red kite flies!"}, {"image_id": 2, "caption": "two cats swim"}],
    )
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", "captions", "--references", str(references), "--results", str(results), *out]) == 0
    printed, beside = capfd.readouterr()
    assert beside == "", "programs talk to the user"
    assert "2 captions: bleu4" in printed
    assert ("METEOR was not computed" in printed) != java
    (result,) = json.loads((tmp_path / "out" / "captions.json").read_bytes())["results"].values()
    assert ("meteor" in result["metrics"]) == java
    assert result["rows"][0]["bleu4"] == pytest.approx(1)
    assert result["rows"][1]["references"] == ["two dogs swim"]


@pytest.mark.parametrize(
    ("java", "notes", "tokenizer"),
    [
        (
            "printf 'Error: no VM\\nIt ends.\\n' >&2; exit 1",
            "our own rules: the official tokenizer did not split all captions: Error: no VM It ends.",
            "reelshard's",
        ),
        (
            "head -c 400 /dev/zero | tr '\\0' '\\n'",
            "our own rules: the official tokenizer found no words",
            "reelshard's",
        ),
        (
            'case "$*" in *meteor*) echo No room. >&2; exit 1;; esac; exec REAL "$@"',
            r"METEOR was not computed: METEOR's program failed: .*: No room\.$",
            "PTBTokenizer",
        ),
    ],
)
def test_a_program_of_the_official_tools_that_fails_costs_its_own_numbers_alone(
    tmp_path: Path,
    java: str,
    notes: str,
    tokenizer: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if missing := missing_for_meteor():
        pytest.skip(missing)
    (tmp_path / "java").write_text(f"#!/bin/sh\n{java.replace('REAL', str(shutil.which('java')))}\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    references = _write(tmp_path / "references.json", _coco([(1, "A red kite flies."), (2, "two dogs swim")]))
    captions = [{"image_id": 1, "caption": "A red kite flies!"}, {"image_id": 2, "caption": "two cats swim"}]
    results = _write(tmp_path / "results.json", captions)
    files = ["--references", str(references), "--results", str(results)]
    assert main(["evaluate", "captions", *files, "--out", str(tmp_path / "out")]) == 0
    (result,) = json.loads((tmp_path / "out" / "captions.json").read_bytes())["results"].values()
    assert set(result["metrics"]) == {"bleu4", "cider"}
    assert result["rows"][0]["bleu4"] == pytest.approx(1)
    (note,) = result["protocol"]["notes"]
    assert re.search(notes, note)
    printed, beside = capfd.readouterr()
    assert (note in printed.splitlines(), beside) == (True, "")
    assert result["protocol"]["tokenizer"].startswith(tokenizer)


def test_results_go_into_a_folder_and_name_the_files_they_are_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = [_annotation(7000, ["yes"] * 10, "yes/no")]
    annotations = _write(tmp_path / "annotations.json", {"annotations": notes})
    results = _write(tmp_path / "results.json", [{"question_id": 7000, "answer": "yes"}])
    command = ["evaluate", "vqa", "--annotations", str(annotations), "--results", str(results)]
    assert main([*command, "--json"]) == 0
    digests = json.loads(capsys.readouterr().out)["results"]["vqa"]["digests"]
    assert digests == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in (("annotations", annotations), ("results", results))
    }
    assert main([*command, "--out", str(results)]) == 2
    error = capsys.readouterr().err
    assert "is no folder, and results are several files: give a folder" in error
    assert len(error.splitlines()) == 1


def test_the_hubs_warnings_of_trying_again_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    from huggingface_hub.utils import logging as hub_logging

    from model.pretrained import quiet

    logger = hub_logging.get_logger("huggingface_hub.utils._http")
    with quiet():
        logger.warning("thrown while requesting HEAD")
    assert caplog.text == ""
    logger.warning("thrown while requesting HEAD")
    assert "thrown while requesting HEAD" in caplog.text


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({}, "not in the official form"),
        ([], "has no captions"),
        ([{"image_id": 1}], "entry 0 has no caption"),
        ([{"image_id": [9], "caption": 3}], "entry 0 has no image_id or no caption"),
        ([{"image_id": 9, "caption": "x"}], "which the references do not have"),
        ([{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}], "two captions of 1"),
    ],
)
def test_captions_that_cannot_be_scored_are_one_line(
    tmp_path: Path, results: object, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    references = _write(tmp_path / "references.json", _coco([(1, "a kite")]))
    given = _write(tmp_path / "results.json", results)
    assert main(["evaluate", "captions", "--references", str(references), "--results", str(given)]) == 1
    assert expected in capsys.readouterr().err


def _annotation(name: int, answers: Sequence[str], kind: str) -> dict[str, object]:
    given = [{"answer": each, "answer_confidence": "yes", "answer_id": number} for number, each in enumerate(answers)]
    return {
        "question_id": name,
        "image_id": name // 1000,
        "answers": given,
        "answer_type": kind,
        "question_type": "what",
    }


def test_answer_files_in_the_official_form_are_scored_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = [_annotation(7000, ["yes"] * 10, "yes/no"), _annotation(7001, ["kite"] * 2 + ["ball"] * 8, "other")]
    annotations = _write(tmp_path / "annotations.json", {"annotations": notes})
    answers = [{"question_id": 7001, "answer": "A kite"}, {"question_id": 7000, "answer": "yes"}]
    results = _write(tmp_path / "results.json", answers)
    command = ["evaluate", "vqa", "--annotations", str(annotations), "--results", str(results)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "accuracy 80.00%" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "out" / "vqa.json").read_bytes())["results"].values()
    assert {row["name"]: row["accuracy"] for row in result["tables"]["answer_type"]} == pytest.approx(
        {"other": 0.6, "yes/no": 1.0}
    )
    _write(results, answers[:1])
    assert main(command) == 1
    assert "leaves 1 questions without an answer, such as 7000" in capsys.readouterr().err

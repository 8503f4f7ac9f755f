"""Runs and published models answer Video-MME and MLVU by likelihood, asked as their owners ask."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evaluation.multiple_choice import Rule
from tests.choice_files import write_mlvu, write_video_mme
from tests.fvlm_runs import Workshop
from tests.tiny_image_text import save_llava, save_smolvlm
from tools.cli import main
from tools.evaluate.choice_files import load_choices
from tools.systems.fvlm import SYSTEM
from tools.trained import open_run

VIDEO_MME_ASKED = """Select the best answer to the following multiple-choice question based on the video. Respond with \
only the letter (A, B, C, or D) of the correct option.
Which {crate} of 1?
A. Two.
B. Three.
C. Four.
D. Six.
The best answer is:"""
MLVU_ASKED = """Carefully watch this video and pay attention to every detail. Based on your observations, select the \
best option that accurately addresses the question.
Question: What is in film_1.mp4?
Options:
(A) Red
(B) Green
(C) Blue
Only give the best option."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("choice")
    write_video_mme(root / "video_mme")
    write_mlvu(root / "mlvu")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Workshop.make(tmp_path_factory.mktemp("choice_run"), num_videos=8, num_texts=4, held_out=(1,))
    recipe, out = shop.recipe(2, train={"steps": 2}), shop.folder / "run"
    assert main(["train", "--recipe", str(recipe), *shop.sources(), "--out", str(out)]) == 0
    return out


def evaluate(*words: object) -> int:
    return main(["evaluate", "choice", *map(str, words)])


def result_of(out: Path) -> dict[str, Any]:
    (found,) = json.loads((out / "choice.json").read_bytes())["results"].values()
    return dict(found)


def test_a_run_answers_video_mme_by_the_letters_likelihoods(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / "video_mme"
    assert evaluate("--questions", place / "test.jsonl", "--videos", place, "--run", run, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "6 questions: accuracy" in printed
    assert "  duration long: " in printed
    result = result_of(tmp_path)
    recipe, objective, _ = open_run(run)
    speaker = SYSTEM.speaker(recipe, objective, "it")  # type: ignore[arg-type]
    seen = speaker.read(place / "data/aaaaaaaaaaa.mp4")
    expected = speaker.weigh(seen, [{"role": "user", "content": VIDEO_MME_ASKED}], "", list("ABCD"))
    assert result["rows"][0]["log_likelihoods"] == pytest.approx([each.log for each in expected])
    right = [row["guess"] == row["answer"] for row in result["rows"]]
    assert result["metrics"]["accuracy"] == pytest.approx(sum(right) / 6)
    assert {row["name"]: row["count"] for row in result["tables"]["duration"]} == {"long": 2, "short": 4}
    assert result["protocol"]["rule"].startswith("the option whose letter is likeliest")
    assert result["protocol"]["asked"].startswith("Select the best answer")
    assert result["protocol"]["subtitles"] == "none"
    assert set(result["digests"]) == {"questions test.jsonl", "model"}
    responses = json.loads((tmp_path / "choice_results.json").read_bytes())
    assert [video["video_id"] for video in responses] == ["001", "002", "003"]
    assert [each["response"] for video in responses for each in video["questions"]] == [
        row["guess"] for row in result["rows"]
    ]
    assert load_choices(tmp_path / "choice_results.json").questions[0].answer == 1  # the owners' form
    assert not (tmp_path / "choice.answers.jsonl").exists()


def test_models_are_compared_on_the_same_questions_by_the_same_rule(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / "video_mme"
    words = ("--questions", place / "test.jsonl", "--videos", place)
    published = save_smolvlm(tmp_path / "model")
    for name, more in {
        "ours": ("--run", run),
        "theirs": ("--checkpoint", published),
        "by_text": ("--run", run, "--rule", "text"),
    }.items():
        assert evaluate(*words, *more, "--out", tmp_path / name) == 0
    capsys.readouterr()
    assert main(["evaluate", "compare", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    printed = capsys.readouterr().out
    assert "ours: choice" in printed
    assert "theirs: choice" in printed
    assert main(["evaluate", "compare", str(tmp_path / "ours"), str(tmp_path / "by_text")]) == 1
    assert "what was measured differs" in capsys.readouterr().err


PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
COMMANDS = [
    line for line in PAGE.read_text().splitlines() if re.match(r"reelshard evaluate (captions|vqa|choice) ", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_are_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where none of the files is
    assert main(shlex.split(line)[1:]) == 1
    assert re.search(r"there is no (file|data set)", capsys.readouterr().err)


def test_subtitles_change_what_is_asked_of_the_videos_that_have_them(folder: Path, run: Path, tmp_path: Path) -> None:
    place = folder / "video_mme"
    words = ("--questions", place / "test.jsonl", "--videos", place, "--run", run)
    assert evaluate(*words, "--out", tmp_path / "without") == 0
    assert evaluate(*words, "--subtitles", place / "subtitle", "--out", tmp_path / "with") == 0
    without, with_them = (result_of(tmp_path / name) for name in ("without", "with"))
    logs = [[row["log_likelihoods"] for row in result["rows"]] for result in (without, with_them)]
    same = [one == other for one, other in zip(*logs, strict=True)]
    assert with_them["protocol"]["subtitles"] == "those shown while the frames are, of 1 videos"
    assert same == [False, False, True, True, True, True]
    assert with_them["protocol"]["asked"].startswith("This video's subtitles are listed below:\n{subtitles}\nSelect")


@pytest.mark.parametrize(
    ("family", "rule"), [("run", "letter"), ("run", "text"), ("smolvlm", "letter"), ("llava", "text")]
)
def test_mlvu_is_asked_of_runs_and_published_models(
    folder: Path, run: Path, tmp_path: Path, family: str, rule: Rule
) -> None:
    from tools.speakers import ImageTextSpeaker

    folders: Mapping[str, Any] = {"run": lambda place: run, "smolvlm": save_smolvlm, "llava": save_llava}
    checkpoint = folders[family](tmp_path / "model")
    place = folder / "mlvu"
    words = ("--questions", place / "json", "--videos", place / "video", "--checkpoint", checkpoint, "--rule", rule)
    assert evaluate(*words, "--out", tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    if family == "run":
        recipe, objective, _ = open_run(run)
        speaker: Any = SYSTEM.speaker(recipe, objective, "it")  # type: ignore[arg-type]
    else:
        speaker = ImageTextSpeaker(str(checkpoint), "cpu", 64)
    seen = speaker.read(place / "video/1_plotQA/film_1.mp4")  # and not the one of this name in another task's folder
    asked = MLVU_ASKED if rule == "letter" else "What is in film_1.mp4?"
    begun, options = ("Best Option: (", ["A", "B", "C"]) if rule == "letter" else ("", ["Red", "Green", "Blue"])
    expected = speaker.weigh(seen, [{"role": "user", "content": asked}], begun, options)
    assert result["rows"][0]["log_likelihoods"] == pytest.approx([each.log for each in expected], abs=1e-5)
    assert result["rows"][2]["answer"] is None
    assert [row["name"] for row in result["tables"]["task"]] == ["count", "needle", "plotQA"]
    shares = [row["accuracy"] for row in result["tables"]["task"]]
    assert result["metrics"]["m_avg"] == pytest.approx(sum(shares) / 3)
    assert result["protocol"]["answer_begun"] == begun
    assert "plain mean" in result["protocol"]["m_avg"]
    assert not (tmp_path / "out/choice_results.json").exists()


def test_some_missing_videos_are_named_with_the_official_page_and_not_counted(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/aaaaaaaaaaa.mp4").symlink_to(folder / "video_mme/data/aaaaaaaaaaa.mp4")
    (tmp_path / "data/bbbbbbbbbbb.mp4").write_bytes(b"no video")
    words = ("--questions", folder / "video_mme/test.jsonl", "--videos", tmp_path, "--run", run)
    assert evaluate(*words, "--json") == 0
    result = json.loads(capsys.readouterr().out)["results"]["choice"]
    assert (result["metrics"]["num_questions"], result["metrics"]["num_failed"]) == (2, 4)
    (note,) = result["protocol"]["notes"]
    assert "failed: 4, for want of 2 videos or images" in note
    assert "there is no video -cc_ccccccc in" in note
    assert "bbbbbbbbbbb.mp4 cannot be read" in note
    assert note.endswith("unpack its zips)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--questions MME --videos V", "needs --checkpoint"),
        ("--questions nowhere --videos V --run RUN", "there is no file nowhere: Video-MME is a .parquet"),
        ("--questions V --videos V --run RUN", "there is no JSON file in"),
        ("--questions MME --videos MLVU --run RUN", "https://github.com/BradyFU/Video-MME"),
        ("--questions MLVU --videos V --run RUN", "https://github.com/JUNJIE99/MLVU"),
        ("--questions SUMMARY --videos V --run RUN", "there is no multiple choice in"),
        ("--questions OTHER --videos V --run RUN", "is of neither layout"),
        ("--questions TORN --videos V --run RUN", "is not readable parquet"),
        ("--questions MLVU --videos VM --run RUN --subtitles V", "--subtitles are Video-MME's"),
        ("--questions MME --videos V --run RUN --subtitles nowhere", "there is no folder of subtitles"),
        (
            "--questions MME --videos V --run RUN --subtitles V",
            "has no subtitles of these videos, such as aaaaaaaaaaa.srt",
        ),
        ("--questions MME --videos V --run RUN --rule guess", "invalid choice: 'guess'"),
        ("--questions TWICE --videos V --run RUN", "has two questions 001-1"),
        ("--questions LETTER --videos V --run RUN", "the answer 'E', which is no letter of its options"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    folder: Path, run: Path, tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads((folder / "video_mme/test.jsonl").read_text().splitlines()[0])
    (tmp_path / "twice.json").write_text(json.dumps([row, row]))
    (tmp_path / "letter.json").write_text(json.dumps([row | {"answer": "E"}]))
    (tmp_path / "other.json").write_text(json.dumps([{"question_id": 1, "question": "?", "image_id": 3}]))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    places = {
        "MME": folder / "video_mme/test.jsonl",
        "V": folder / "video_mme/data",
        "MLVU": folder / "mlvu/json",
        "VM": folder / "mlvu/video",
        "SUMMARY": folder / "mlvu/json/9_summary.json",
        "RUN": run,
        **{name.upper(): tmp_path / f"{name}.json" for name in ("twice", "letter", "other")},
        "TORN": tmp_path / "torn.parquet",
    }
    capsys.readouterr()
    assert evaluate(*(places.get(word, word) for word in words.split())) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1

"""A trained VLM, or a published one, answers official files and built sets, and is scored as files are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shards.dataset import ShardDataset
from tests.chats import scene
from tests.fvlm_runs import Workshop
from tests.tiny_image_text import save_llava, save_smolvlm
from tests.videos import write_video
from tools.cli import main
from tools.evaluate.captions import measure_captions
from tools.evaluate.vqa import load_annotations, measure_vqa
from tools.systems.fvlm import SYSTEM
from tools.trained import open_run

pytestmark = pytest.mark.usefixtures("without_java")


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR takes seconds to start, and is tested with files."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("answer"), num_videos=8, num_texts=4, held_out=(1, 3, 2))


@pytest.fixture(scope="module")
def run(workshop: Workshop) -> Path:
    recipe, out = workshop.recipe(2, train={"steps": 2}), workshop.folder / "run"
    assert main(["train", "--recipe", str(recipe), *workshop.sources(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References of two videos and an image, one of a file that is no video, and one of a file that is not there."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "files").mkdir()
    for name, (colour, place) in {"clip7": ("red", "left"), "named": ("blue", "right")}.items():
        write_video(folder / f"files/{name}.mp4", scene(3, colour, place), codec="libx264", rate=1)
    Image.fromarray(scene(1, "green", "left")[0]).save(folder / "files/COCO_val2014_000000000012.jpg")
    (folder / "files/torn.mp4").write_bytes(b"no video")
    names = {"clip7": None, 5: "named.mp4", 12: "COCO_val2014_000000000012.jpg", "torn": None, "gone": None}
    notes = [{"image_id": name, "id": 0, "caption": f"a square of {name}"} for name in [*names, "clip7"]]
    images = [{"id": name, "file_name": file} for name, file in names.items() if file]
    (folder / "references.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return folder


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def result_of(out: Path, name: str) -> dict[str, Any]:
    (found,) = json.loads((out / f"{name}.json").read_bytes())["results"].values()
    return dict(found)


def likeliest(run: Path, path: Path, question: str, most: int) -> str:
    recipe, objective, _ = open_run(run)
    speaker = SYSTEM.speaker(recipe, objective, "it")  # type: ignore[arg-type]
    return [*speaker.write(speaker.read(path), [{"role": "user", "content": question}], most), ""][-2]


def test_a_run_captions_the_files_that_references_name_and_failures_are_counted_and_named(
    run: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--references", coco / "references.json", "--videos", coco / "files"]
    asked = ["--checkpoint", run, "--question", "What is it?", "--max-new-tokens", 6]
    assert evaluate("captions", *files, *asked, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "3 captions: bleu4" in printed
    assert "failed: 2, for want of 2 videos or images" in printed
    assert "torn.mp4 cannot be read" in printed
    assert "there is no file gone in" in printed
    written = json.loads((tmp_path / "captions_results.json").read_bytes())
    paths = {"clip7": "clip7.mp4", 5: "named.mp4", 12: "COCO_val2014_000000000012.jpg"}
    assert written == [
        {"image_id": name, "caption": likeliest(run, coco / "files" / path, "What is it?", 6)}
        for name, path in paths.items()
    ]
    result = result_of(tmp_path, "captions")
    again = measure_captions(
        {str(each["image_id"]): each["caption"] for each in written},
        {"clip7": ["a square of clip7"] * 2, "5": ["a square of 5"], "12": ["a square of 12"]},
    )
    assert {name: result["metrics"][name] for name in ("bleu4", "cider")} == pytest.approx(dict(again.metrics))
    assert result["metrics"]["num_failed"] == 2
    assert [Path(row["name"]).name for row in result["tables"]["failed"]] == ["torn.mp4", "gone"]
    assert result["protocol"]["asked"] == "What is it?"
    assert result["protocol"]["looked_at"] == "autoregressive"
    assert set(result["digests"]) == {"references", "model"}
    assert not (tmp_path / "captions.answers.jsonl").exists()
    # The file is one that the same command scores to the same.
    results = ["--references", coco / "references.json", "--results", tmp_path / "captions_results.json"]
    assert evaluate("captions", *results, "--json") == 0
    scored = json.loads(capsys.readouterr().out)["results"]["captions"]
    assert scored["metrics"]["cider"] == result["metrics"]["cider"]
    assert set(scored["digests"]) == {"references", "results"}


def test_a_built_set_is_captioned_by_what_its_chats_ask(workshop: Workshop, run: Path, tmp_path: Path) -> None:
    held_out = workshop.folder / "held_out"
    assert evaluate("captions", "--val", held_out, "--run", run, "--max-new-tokens", 4, "--out", tmp_path) == 0
    dataset, rows = ShardDataset.open(held_out), result_of(tmp_path, "captions")["rows"]
    assert [row["id"] for row in rows] == [dataset.key(number) for number in range(3)]
    for number, row in enumerate(rows):
        asked, said = dataset.metadata(number)["messages"][:2]
        assert row["references"] == [said["content"]]
        path = workshop.folder / "raw_held_out" / dataset.metadata(number)["path"]
        assert row["caption"] == likeliest(run, path, asked["content"], 4)


def test_what_was_answered_before_a_stop_is_not_asked_again(
    run: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.systems.fvlm_speaker import FoveatedSpeaker

    command: Sequence[object] = ("captions", "--references", coco / "references.json", "--videos", coco / "files")
    command = (*command, "--checkpoint", run, "--max-new-tokens", 3)
    assert evaluate(*command, "--out", tmp_path / "whole") == 0
    write, asked = FoveatedSpeaker.write, list[object]()

    def stopped_at_the_second(self: FoveatedSpeaker, *arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return write(self, *arguments)

    monkeypatch.setattr(FoveatedSpeaker, "write", stopped_at_the_second)
    assert evaluate(*command, "--out", tmp_path / "out") == 130
    lines = (tmp_path / "out/captions.answers.jsonl").read_bytes()
    assert lines.count(b"\n") == 2  # what was asked, and one answer
    with (tmp_path / "out/captions.answers.jsonl").open("ab") as file:
        file.write(b'["torn", "a line that was cut')
    capsys.readouterr()
    assert evaluate(*command, "--question", "Another?", "--out", tmp_path / "out") == 1
    assert "holds answers that were not finished, of another model, file or question" in capsys.readouterr().err
    assert evaluate(*command, "--out", tmp_path / "out") == 0
    assert len(asked) == 2 + 2  # of three that can be answered, one was kept
    written = [(tmp_path / name / "captions_results.json").read_bytes() for name in ("whole", "out")]
    assert written[0] == written[1]
    assert result_of(tmp_path / "whole", "captions") == result_of(tmp_path / "out", "captions")
    assert not (tmp_path / "out/captions.answers.jsonl").exists()


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_line_and_keeps_the_answers(run: Path, coco: Path, tmp_path: Path) -> None:
    notes = [{"image_id": f"{number:03d}", "caption": "x"} for number in range(400)]
    (tmp_path / "many.json").write_text(json.dumps({"annotations": notes}))
    (tmp_path / "files").mkdir()
    for number in range(400):
        (tmp_path / f"files/{number:03d}.mp4").symlink_to(coco / "files/clip7.mp4")
    command = ["evaluate", "captions", "--references", "many.json", "--videos", "files", "--run", str(run)]
    program = [sys.executable, "-m", "tools", *command, "--out", "out", "--max-new-tokens", "8"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, env=environment)
    kept = tmp_path / "out/captions.answers.jsonl"
    while process.poll() is None and not (kept.is_file() and kept.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in error
    header, *answers = kept.read_text().splitlines()
    assert json.loads(header)["asked"]["max_new_tokens"] == 8
    assert len(answers) >= 3
    assert [json.loads(answer)[0] for answer in answers] == [f"{number:03d}" for number in range(len(answers))]


def _vqa(folder: Path) -> tuple[Path, Path]:
    """Three questions about two pictures, and one about a picture that is not there."""
    (folder / "val2014").mkdir(parents=True)
    for name, colour in ((21, "red"), (22, "blue")):
        Image.fromarray(scene(1, colour, "left")[0]).save(folder / f"val2014/COCO_val2014_{name:012d}.jpg")
    ids = {21000: 21, 22000: 22, 21001: 21, 23000: 23}
    questions = [{"question_id": name, "image_id": image, "question": f"Is it {name}?"} for name, image in ids.items()]
    answers = [{"answer": "yes", "answer_id": number} for number in range(9)] + [{"answer": "no", "answer_id": 10}]
    annotations = [
        {"question_id": name, "image_id": image, "answers": answers, "answer_type": "yes/no", "question_type": "is it"}
        for name, image in ids.items()
    ]
    (folder / "questions.json").write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder / "questions.json", folder / "annotations.json"


@pytest.mark.parametrize("family", ["run", "smolvlm", "llava"])
def test_questions_about_pictures_are_answered_by_runs_and_published_models(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    folders: Mapping[str, Any] = {"run": lambda place: run, "smolvlm": save_smolvlm, "llava": save_llava}
    checkpoint = folders[family](tmp_path / "model")
    questions, annotations = _vqa(tmp_path / "vqa")
    files = ["--annotations", annotations, "--questions", questions, "--images", tmp_path / "vqa"]
    asked = ["--checkpoint", checkpoint, "--prompt", "{question} In a word?", "--max-new-tokens", 4]
    assert evaluate("vqa", *files, *asked, "--out", tmp_path / "out") == 0
    assert "failed: 1, for want of 1 videos or images: there is no file COCO_val2014_000000000023" in (
        capsys.readouterr().out
    )
    written = json.loads((tmp_path / "out/vqa_results.json").read_bytes())
    assert [each["question_id"] for each in written] == [21000, 22000, 21001, 23000]  # all, as the official tool wants
    assert written[-1]["answer"] == ""
    result = result_of(tmp_path / "out", "vqa")
    expected = measure_vqa(
        {str(each["question_id"]): each["answer"] for each in written}, load_annotations(annotations)
    )
    assert result["metrics"]["accuracy"] == expected.metrics["accuracy"]
    assert result["protocol"]["asked"] == "{question} In a word?"
    assert set(result["digests"]) == {"annotations", "questions", "model"}
    if family == "run":
        picture = tmp_path / "vqa/val2014/COCO_val2014_000000000021.jpg"
        assert written[2]["answer"] == likeliest(run, picture, "Is it 21001? In a word?", 4)
    else:
        assert result["protocol"]["model"] == family
        assert "role" in result["protocol"]["chat_template"]
    assert evaluate("vqa", "--annotations", annotations, "--results", tmp_path / "out/vqa_results.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"]["vqa"]["metrics"]["accuracy"] == result["metrics"]["accuracy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("captions", "needs --references --results, or --references --videos --checkpoint, or --val --checkpoint"),
        ("captions --references R --videos F", "given is --references --videos"),
        ("captions --references R --results R --run RUN", "given is --checkpoint --references --results"),
        ("captions --references R --videos F --run RUN --max-new-tokens 0", "--max-new-tokens is 0; give 1 or more"),
        ("captions --references R --videos nowhere --run RUN", "there is no folder nowhere of videos or images"),
        ("captions --references R --videos RUN --run RUN", "Official pages: COCO https://cocodataset.org"),
        ("captions --references R --videos F --run nowhere/at/all", "cannot load the image-text model"),
        ("captions --references R --videos F --run ./nowhere", "there is no run folder 'nowhere'"),
        ("captions --references R --videos F --run RUN --max-frames 3", "--max-frames is of published models"),
        ("captions --references F/torn.mp4 --videos F --run RUN", "is not JSON"),
        ("captions --val TEXT --run RUN", "holds no chats about pictures"),
        ("captions --val SET --run RUN --question Why", "--question has no effect with --val"),
        ("captions --val SET --run RUN --out R", "is no folder, and results are several files"),
        ("vqa --annotations R --questions R --images F --run RUN --prompt What", "--prompt has no {question} in it"),
        ("vqa --annotations R --questions R --images F --run RUN", "annotation 0 has no question_id or no answers"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    workshop: Workshop, run: Path, coco: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places: Mapping[str, Path] = {
        "R": coco / "references.json",
        "F": coco / "files",
        "RUN": run,
        "SET": workshop.folder / "held_out",
        "TEXT": workshop.folder / "text",
        "F/torn.mp4": coco / "files/torn.mp4",
    }
    capsys.readouterr()
    assert evaluate(*(places.get(word, word) for word in words.split())) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_text_model_weighs_continuations_as_it_scores_them(run: Path, coco: Path) -> None:
    recipe, objective, _ = open_run(run)
    speaker = SYSTEM.speaker(recipe, objective, "it")  # type: ignore[arg-type]
    pictures = speaker.read(coco / "files/clip7.mp4")
    asked = [{"role": "user", "content": "What colour?"}]
    options = ["red", "It is blue.", "g"]
    found = speaker.weigh(pictures, asked, "I say: ", options)
    model: Any = objective.get_submodule("model")
    words: Any = speaker._words  # type: ignore[attr-defined]
    frames = speaker._frames(pictures)  # type: ignore[attr-defined]
    for option, likelihood in zip(options, found, strict=True):
        prompt, more = words.asked(asked) + words.encode("I say: "), words.encode(option)
        tokens = torch.tensor([[*prompt, *more]])
        with torch.inference_mode():
            costs = model(
                frames[None], torch.tensor([3]), tokens, torch.tensor([tokens.shape[1]]), mode="autoregressive"
            )
        assert likelihood.num_tokens == len(more)
        assert likelihood.log == pytest.approx(-float(costs[0, len(prompt) :].sum()), abs=1e-4)

"""The demo of the foveated VLM: what it makes, what it has to show, and what it says where it does not."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from shards.dataset import ShardDataset
from tests.browser import VIEWS, look
from tests.builds import descendants, start_python
from tools.cli import main
from tools.demo.fvlm_scenes import MARKS, PLACES, QUESTIONS, draw, exam, film_of, lessons, texts
from tools.demo.fvlm_verdict import checks_of, detail_of

TINY = ["demo", "--system", "fvlm", "--train-videos", "26", "--held-out-videos", "36"]
TINY += ["--stage1-steps", "4", "--stage2-steps", "6", "--seeds", "2"]
VARYING = ("seconds", "machine")


@given(st.integers(0, 5), st.integers(0, 10_000))
def test_a_mark_lies_in_its_quarter_of_every_frame(seed: int, number: int) -> None:
    film = film_of(seed, number)
    frames = draw(film)
    marked = (frames == np.array(MARKS[film.mark], dtype=np.uint8)).all(axis=-1)
    down, right = (float(axis.mean()) for axis in np.nonzero(marked)[1:])
    height, width = frames.shape[1:3]
    names = {(False, False): "top left", (False, True): "top right", (True, False): "bottom left"}
    assert names.get((down > height / 2, right > width / 2), "bottom right") == film.place
    assert (marked == marked[0]).all()
    assert 0.03 < marked[0].mean() < 0.07
    assert len(frames) == 2 * film.seconds


def test_videos_differ_in_length_and_some_have_eight_frames_or_more() -> None:
    lengths = Counter(film_of(0, number).seconds for number in range(200))
    assert len(lengths) > 8
    assert sum(count for seconds, count in lengths.items() if seconds >= 8) > 50


def test_the_exam_asks_each_kind_of_question_as_often_of_every_motion() -> None:
    asked = list(exam(0, range(36)))
    assert Counter(chat["source"] for chat in asked) == dict.fromkeys(QUESTIONS, 12)
    motions = Counter((chat["source"], film_of(0, number).scene.motion) for number, chat in enumerate(asked))
    assert set(motions.values()) == {2}
    for number, chat in enumerate(asked):
        question, answer = QUESTIONS[chat["source"]]
        assert [turn["content"] for turn in chat["messages"]] == [question, answer(film_of(0, number))]


def test_no_answer_is_told_by_another_of_the_same_video() -> None:
    films = [film_of(0, number) for number in range(3000)]
    for kind, other in (("colour", "detail"), ("detail", "place"), ("place", "colour")):
        pairs = Counter((QUESTIONS[kind][1](film), QUESTIONS[other][1](film)) for film in films)
        options = len({one for one, _ in pairs}) * len({one for _, one in pairs})
        assert len(pairs) == options
        assert min(pairs.values()) > 0.5 * len(films) / options


def test_lessons_ask_all_and_texts_tell_what_they_ask() -> None:
    orders = {tuple(turn["content"] for turn in chat["messages"][::2]) for chat in lessons(0, range(60))}
    assert len(orders) == math.factorial(len(QUESTIONS))
    for chat in texts(1, range(12)):
        asked, answer = (turn["content"] for turn in chat["messages"])
        assert "video" not in chat
        assert answer in asked
    assert set(PLACES) == {QUESTIONS["place"][1](film_of(0, number)) for number in range(40)}


def seed_of(**changes: Any) -> dict[str, Any]:
    """What a seed gave, where all is well."""
    costs = dict.fromkeys(("ce_coarse_only", "ce_coarse_fine", "ce_autoregressive"), 0.2)
    gains = {"gain_other_frames": 0.5, "gain_text_alone": 0.05}
    errors = {"gain_other_frames_errors": 4.0, "gain_text_alone_errors": 9.0}
    training = {"steps": 50, "text_batches": 7, "padding_frames": 0.02, "padding_tokens": 0.149}
    metrics = {"num_samples": 200.0, **costs, **gains, **errors, **changes.pop("metrics", {})}
    return {"seed": 0, "metrics": metrics, "training": {"stage2": training | changes}}


def failed(one: dict[str, Any]) -> list[str]:
    return [check.what for check in checks_of([one]) if not check.passed]


def test_where_all_is_well_nothing_fails() -> None:
    assert failed(seed_of()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"num_samples": 199.0}}, "200 held-out samples"),
        ({"metrics": {"gain_other_frames": 0.049}}, "another sample's frames"),
        ({"metrics": {"gain_other_frames_errors": 3.9}}, "another sample's frames"),
        ({"metrics": {"gain_text_alone": -0.1}}, "text alone"),
        ({"metrics": {"gain_text_alone": math.nan}}, "text alone"),
        ({"text_batches": 6}, "14 % text"),
        ({"text_batches": 8}, "14 % text"),
        ({"padding_frames": 0.15}, "padding of frames"),
        ({"padding_tokens": 0.2}, "padding of tokens"),
    ],
)
def test_each_thing_that_is_not_shown_is_named(changes: dict[str, Any], said: str) -> None:
    (what,) = failed(seed_of(**changes))
    assert said in what


def test_a_mode_that_is_missing_is_named() -> None:
    one = seed_of()
    del one["metrics"]["ce_autoregressive"]
    assert failed(one) == ["seed 0: all three modes"]


def test_the_small_detail_is_a_mean_over_seeds_with_students_interval() -> None:
    def rows(saved: list[float]) -> list[dict[str, Any]]:
        own = [{"source": "detail", "num_tokens": 2, "coarse_only": 2 * (1 + s), "coarse_fine": 2.0} for s in saved]
        return [*own, {"source": "colour", "num_tokens": 2, "coarse_only": 90.0, "coarse_fine": 0.0}]

    found = detail_of([{"seed": n, "rows": rows([s - 0.1, s + 0.1])} for n, s in enumerate((0.1, 0.2, 0.3))])
    assert [one["saved"] for one in found["seeds"]] == pytest.approx([0.1, 0.2, 0.3])
    assert found["seeds"][0]["fine"] == pytest.approx(1.0)
    # Two samples 0.1 from their mean: their standard error is 0.1.
    assert found["seeds"][0]["interval"] == pytest.approx([0.1 - 0.196, 0.1 + 0.196])
    reach = 4.303 * 0.1 / math.sqrt(3)
    assert found["interval"] == pytest.approx([0.2 - reach, 0.2 + reach])
    assert detail_of([{"seed": 0, "rows": rows([0.1, 0.3])}])["interval"] is None


def test_values_that_the_demo_says_itself_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--system", "fvlm", "--out", str(tmp_path / "out"), "--view.size", "112"]) == 1
    assert "leave --view.size out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--system", "fvlm", "--out", str(tmp_path)]) == 1
    assert "not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("given", [["--seeds", "0"], ["--stage2-steps", "0"], ["--held-out-videos", "1"]])
def test_sizes_that_make_no_demo_are_refused(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--system", "fvlm", "--out", str(tmp_path / "out"), *given]) == 1
    assert "at least" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


WORK_WITHOUT_END = """
import time
from tools.demo.processes import in_processes
for _ in in_processes(time.sleep, [3600.0, 3600.0], workers=2, look=lambda: print("at work", flush=True)):
    pass
"""


def test_work_that_is_stopped_ends_at_once_with_all_its_processes() -> None:
    process = start_python(WORK_WITHOUT_END)
    assert process.stdout is not None
    while len(workers := descendants(process.pid)) < 2:
        assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert "KeyboardInterrupt" in errors
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        os.sched_yield()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of tiny size, which cannot show what it should, and its report."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main([*TINY, "--out", str(out)]) == 1
    return out, json.loads((out / "report.json").read_text())


@pytest.mark.slow
def test_a_demo_too_small_to_show_anything_says_so_in_one_line_and_in_its_report(
    ran: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*TINY, "--out", str(out), "--json"]) == 1
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    report = json.loads(printed.out.splitlines()[-1])
    bad = [check for check in report["checks"] if not check["passed"]]
    assert f"{len(bad)} of the {len(report['checks'])} things" in last
    assert "200 held-out samples" in last
    assert (
        f"{len(bad)} of {len(report['checks'])} things that have to be so are not" in (out / "report.html").read_text()
    )
    same = [{name: value for name, value in each.items() if name not in VARYING} for each in (ran[1], report)]
    for one in (seed for each in same for seed in each["seeds"]):
        del one["seconds"]
    assert same[0] == same[1]


@pytest.mark.slow
def test_the_report_has_every_seed_every_look_and_every_question(ran: tuple[Path, dict[str, Any]]) -> None:
    out, report = ran
    assert [one["seed"] for one in report["seeds"]] == [0, 1]
    page = (out / "report.html").read_text()
    digest = ShardDataset.open(out / "sets" / "exam").digest
    for one in report["seeds"]:
        assert one["metrics"]["num_samples"] == 36
        assert one["digests"]["val"] == digest == report["datasets"]["exam"]["digest"]
        assert {row["source"] for row in one["tables"]["by_source"]} == set(QUESTIONS)
        assert one["training"]["stage1"]["steps"] == 4
        assert one["training"]["stage2"]["steps"] == 6
        for name in ("ce_coarse_only", "ce_coarse_fine", "ce_autoregressive", "ce_other_frames", "ce_text_alone"):
            assert f"{one['metrics'][name]:.3f}" in page
        assert (out / "seeds" / str(one["seed"]) / "vlm.html").exists()
    assert page.count("data:image/png;base64,") == 3 * 6  # frames, coarse and fine of six samples
    assert page.count("<svg ") == 4  # the loss of two stages of two seeds
    assert not re.search(r'(src|href)="(?!data:|#)', page)


@pytest.mark.slow
def test_the_report_fits_a_telephone_and_a_desk_by_day_and_by_night(
    ran: tuple[Path, dict[str, Any]], browser: Browser
) -> None:
    for width, scheme in VIEWS:
        seen = look(browser, ran[0] / "report.html", width, scheme)
        assert not seen.problems, f"{width} pixels, {scheme}"

"""Questions with options in the layouts of Video-MME and MLVU, of invented content, and videos for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chats import scene
from tests.videos import write_video

VIDEO_MME = [
    ("001", "aaaaaaaaaaa", "short", "Knowledge", "Counting Problem"),
    ("002", "bbbbbbbbbbb", "short", "Life Record", "Action Recognition"),
    ("003", "-cc_ccccccc", "long", "Knowledge", "Counting Problem"),
]
MLVU = {
    "1_plotQA": [("film_1.mp4", ["Red", "Green", "Blue"], "Blue"), ("film_2.mp4", ["Red", "Green", "Blue"], "Red")],
    "2_needle": [("hay_1.mp4", ["A fork", "A spoon", "A knife"], "A sharp knife")],  # none of them, as it comes
    "4_count": [("count_1.mp4", ["1", "2", "12"], "12")],
}


def write_video_mme(folder: Path) -> Path:
    """Two questions about each of three videos, in JSONL; the subtitles of the first."""
    (folder / "data").mkdir(parents=True)
    (folder / "subtitle").mkdir()
    rows: list[dict[str, Any]] = []
    for number, (name, tube, duration, domain, task) in enumerate(VIDEO_MME):
        path = folder / f"data/{tube}.{'MP4' if number == 1 else 'mp4'}"
        write_video(path, scene(2 + number, "red", "left"), codec="libx264", rate=1)
        about = {"video_id": name, "duration": duration, "domain": domain, "sub_category": "Odds & Ends"}
        about |= {"url": f"https://www.youtube.com/watch?v={tube}", "videoID": tube}
        for place in (1, 2):
            said = {
                "question": f"Which {{crate}} of {place}?",
                "options": ["A. Two.", "B. Three.", "C. Four.", "D. Six."],
            }
            rows.append(
                {**about, "question_id": f"{name}-{place}", "task_type": task, **said, "answer": "BD"[place - 1]}
            )
    pieces = [("00:00:00,000 --> 00:00:00,900", "hello <b>there</b>"), ("00:00:00,950 --> 00:00:00,990", "nobody sees")]
    pieces += [("00:00:01,000 --> 00:00:09,000", "two\nlines")]
    shown = [
        f'{number}\n{when}\n<font color="white" size=".72c">{text}</font>\n'
        for number, (when, text) in enumerate(pieces)
    ]
    (folder / "subtitle/aaaaaaaaaaa.srt").write_text("\r\n".join("\n".join(shown).split("\n")))
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "test.jsonl"


def write_mlvu(folder: Path) -> Path:
    """Three tasks of choice and one of words; videos in a folder for each task, two of one name."""
    for task, questions in MLVU.items():
        rows = [
            {
                "video": video,
                "duration": 3.5,
                "question": f"What is in {video}?",
                "candidates": options,
                "answer": answer,
                "question_type": "findNeedle" if task == "2_needle" else task[2:],
            }
            for video, options, answer in questions
        ]
        _write_task(folder, task, rows)
        for place, (video, *_) in enumerate(questions):
            (folder / "video" / task).mkdir(parents=True, exist_ok=True)
            frames = scene(1 + place, "blue", "right")
            write_video(folder / "video" / task / video, frames, codec="libx264", rate=1)
    other = folder / "video/0_other/film_1.mp4"
    write_video(other, scene(4, "green", "left"), codec="libx264", rate=1)
    _write_task(folder, "9_summary", [{"video": "long.mp4", "question": "Summarize.", "answer": "It is long."}])
    return folder / "json"


def _write_task(folder: Path, task: str, rows: list[dict[str, Any]]) -> None:
    (folder / "json").mkdir(parents=True, exist_ok=True)
    (folder / f"json/{task}.json").write_text(json.dumps(rows))

"""Answers that a model gives to the questions of VQA v2 or OK-VQA."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shards.format.json_files import read_json
from tools.evaluate.answering import Found, Question, ask, written
from tools.evaluate.media import IMAGE_SUFFIXES, Media, refuse_if_all_are_missing
from tools.evaluate.official import entries_of, sha256_of
from tools.evaluate.vqa import PROMPT, QUESTION, load_annotations, measure_vqa
from tools.evaluate.written_captions import write_answers

if TYPE_CHECKING:
    from evaluation.speaker import Pictures

OFFICIAL = (
    "Nothing is downloaded here. Official pages: VQA v2 https://visualqa.org/download.html, OK-VQA "
    "https://okvqa.allenai.org/download.html, the pictures of both https://cocodataset.org/#download"
)


@dataclass(frozen=True)
class AskedOf:
    """A question as its file has it.

    Attributes:
        id: whole number or text.
        question: the text.
        pictures: names by which its picture may go.
    """

    id: int | str
    question: str
    pictures: tuple[str, ...]


def answer_questions(args: argparse.Namespace) -> Found:
    """Ask a model all questions that have annotations, and score what it says."""
    from tools.speakers import open_speaker

    prompt: str = args.prompt or PROMPT
    if QUESTION not in prompt:
        raise ValueError(f"--prompt has no {QUESTION} in it, where the question goes")
    annotations, asked = load_annotations(args.annotations), load_questions(args.questions)
    if missing := [name for name in annotations if name not in asked]:
        raise ValueError(
            f"{args.questions} lacks {len(missing)} of the questions that {args.annotations} has answers to, such as "
            f"{missing[0]}: give the files of one split"
        )
    media = Media.of(args.images, IMAGE_SUFFIXES)
    order = sorted(annotations, key=lambda name: asked[name].pictures)
    paths = {name: media.find(*asked[name].pictures) for name in order}
    nowhere = [asked[name].pictures[0] for name, path in paths.items() if path is None]
    num_wanted = len({asked[name].pictures for name in order})
    refuse_if_all_are_missing(list(dict.fromkeys(nowhere)), num_wanted, args.images, OFFICIAL)
    speaker = open_speaker(args)
    questions = [
        Question(
            name=name,
            about=paths[name] or asked[name].pictures[0],
            messages=[{"role": "user", "content": prompt.replace(QUESTION, asked[name].question)}],
        )
        for name in order
    ]
    digests = {
        "annotations": sha256_of(args.annotations),
        "questions": sha256_of(args.questions),
        "model": speaker.digest,
    }

    def read(about: Path | str) -> Pictures:
        if isinstance(about, str):
            raise ValueError(f"there is no file {about} in {args.images}")
        return speaker.read(about)

    decides = {**digests, "prompt": prompt, "max_new_tokens": args.max_new_tokens}
    answers, kept = ask(args, questions, read, written(speaker, args.max_new_tokens), decides)
    if not answers.found:
        raise ValueError(f"no question was answered. {' '.join(answers.notes())}")
    every = {name: answers.found.get(name, "") for name in annotations}  # the official tool wants an answer to each
    write_answers(args, [{"question_id": asked[name].id, "answer": answer} for name, answer in every.items()])
    result = measure_vqa(every, annotations)
    notes = answers.notes()
    protocol = {
        **result.protocol,
        "asked": prompt,
        "answers": f"the likeliest token each time, {args.max_new_tokens} at most",
        "without_picture": "an empty answer, which counts",
        **speaker.facts(),
        "notes": notes,
    }
    metrics = {**result.metrics, "num_questions": float(len(every)), "num_failed": float(answers.num_failed)}
    tables = {**result.tables, **answers.table()}
    done = replace(result, metrics=metrics, protocol=protocol, digests=digests, tables=tables)
    return done, f"Answers by {speaker.name}", kept.drop


def load_questions(path: Path) -> Mapping[str, AskedOf]:
    """Questions by id.

    Raises:
        ShardError: it is no file of JSON.
        ValueError: it is not in the official form.
    """
    record = read_json(path)
    form = '{"questions": [{"question_id": ..., "image_id": ..., "question": "..."}, ...]}'
    given = record.get("questions") if isinstance(record, dict) else None
    split = str(record.get("data_subtype", "")) if isinstance(record, dict) else ""
    found = {}
    for entry in entries_of(given, path, name="question_id", texts=["question"], form=form):
        image = entry.get("image_id")
        names = [str(image)]
        if isinstance(image, int):
            official = f"{image:012d}"
            folder = "test2015" if split == "test-dev2015" else split
            names = [f"COCO_{folder}_{official}", official, str(image)]
        found[str(entry["question_id"])] = AskedOf(entry["question_id"], entry["question"], tuple(names))
    return found

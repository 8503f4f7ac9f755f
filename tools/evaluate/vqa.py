"""`reelshard evaluate vqa`: answers to questions about pictures, by the official rule of ten people's answers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.format.json_files import read_json
from tools.evaluate.answering import Found, add_answering_arguments, choose_way, spell_tables
from tools.evaluate.common import add_result_arguments
from tools.evaluate.official import entries_of, sha256_of

if TYPE_CHECKING:
    from evaluation.result import Result

NAME = "vqa"
HELP = "answers to questions about pictures, by the official VQA rule"
MAX_NEW_TOKENS = 16
QUESTION = "{question}"
PROMPT = f"{QUESTION}\nAnswer the question using a single word or phrase."

_DESCRIPTION = """Score answers to questions about pictures by the official rule of ten people's answers. The answers
are those of a file, or a model gives them, always with the likeliest token:

  --annotations VQA.json --results MINE.json                              a file's
  --annotations VQA.json --questions VQA.json --images DIR --checkpoint RUN   a model's

With --out, what a model has answered is kept as it goes and as vqa_results.json, in the official form."""


@dataclass(frozen=True)
class Asked:
    """A question's answers.

    Attributes:
        answers: what people answered, usually ten of them.
        kinds: under which names its score is averaged: type of the question, type of the answer.
    """

    answers: tuple[str, ...]
    kinds: Mapping[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard evaluate vqa`."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name=NAME)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="of VQA v2 or OK-VQA")
    parser.add_argument("--results", type=Path, metavar="FILE", help="a list of {question_id, answer}, one a question")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="of VQA v2 or OK-VQA")
    parser.add_argument("--images", "--videos", type=Path, metavar="DIR", help="where the pictures lie")
    parser.add_argument(
        "--prompt", metavar="TEXT", help=f"what a model is asked, with {QUESTION} in it (default {PROMPT!r})"
    )
    add_answering_arguments(parser, MAX_NEW_TOKENS)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pipeline.world import World
    from tools.evaluate.answered_vqa import answer_questions
    from tools.evaluate.common import publish

    ways = {
        ("annotations", "results"): _score_file,
        ("annotations", "questions", "images", "checkpoint"): answer_questions,
    }
    result, title, done = choose_way(args, ways)(args)
    lines = [f"{len(result.rows)} answers: accuracy {result.metrics['accuracy']:.2%}", *spell_tables(result)]
    lines += result.protocol.get("notes", [])
    publish(args, World(), {"vqa": result}, title=title, lines=lines)
    done()
    return 0


def _score_file(args: argparse.Namespace) -> Found:
    asked = load_annotations(args.annotations)
    digests = {"annotations": sha256_of(args.annotations), "results": sha256_of(args.results)}
    result = replace(measure_vqa(load_answers(args.results, asked), asked), digests=digests)
    return result, f"Answers of {args.results.name}", lambda: None


def load_annotations(path: Path) -> dict[str, Asked]:
    """Answers by question id.

    Raises:
        ShardError: it is no file of JSON.
        ValueError: it is not in the official form.
    """
    record = read_json(path)
    form = '{"annotations": [{"question_id": ..., "answers": [{"answer": "..."}, ...]}, ...]}'
    entries = record.get("annotations") if isinstance(record, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} has no annotations; the form is {form}")
    found: dict[str, Asked] = {}
    for number, entry in enumerate(entries):
        try:
            answers = tuple(str(each["answer"]) for each in entry["answers"])
            name = str(entry["question_id"])
        except (TypeError, KeyError):
            raise ValueError(
                f"{path}: annotation {number} has no question_id or no answers; the form is {form}"
            ) from None
        if len(answers) < 2:
            raise ValueError(f"{path}: question {name} has {len(answers)} answers; the rule leaves one out, give ten")
        kinds = {kind: str(entry[kind]) for kind in ("question_type", "answer_type") if kind in entry}
        found[name] = Asked(answers, kinds)
    return found


def load_answers(path: Path, asked: Mapping[str, Asked]) -> dict[str, str]:
    """An answer to every question, as the official tool demands.

    Raises:
        ShardError: it is no file of JSON.
        ValueError: an answer is missing, double, or answers no question.
    """
    found: dict[str, str] = {}
    form = '[{"question_id": ..., "answer": "..."}, ...]'
    for entry in entries_of(
        read_json(path, f"it has to be {form}"), path, name="question_id", texts=["answer"], form=form
    ):
        name = str(entry["question_id"])
        if name in found or name not in asked:
            what = "is answered twice" if name in found else "is not among the annotations"
            raise ValueError(f"{path}: question {name} {what}")
        found[name] = entry["answer"]
    if missing := [name for name in asked if name not in found]:
        raise ValueError(f"{path} leaves {len(missing)} questions without an answer, such as {missing[0]}")
    return found


def measure_vqa(answers: Mapping[str, str], asked: Mapping[str, Asked]) -> Result:
    """Score answers: `accuracy`, and by types of questions and answers."""
    from evaluation.result import Result
    from evaluation.vqa import vqa_accuracy

    scores = {name: vqa_accuracy(answer, asked[name].answers) for name, answer in answers.items()}
    by_kind: dict[str, dict[str, list[float]]] = {}
    for name, score in scores.items():
        for kind, value in asked[name].kinds.items():
            by_kind.setdefault(kind, {}).setdefault(value, []).append(score)
    tables = {
        kind: [_mean_row(value, group) for value, group in sorted(groups.items())] for kind, groups in by_kind.items()
    }
    rows: list[dict[str, Any]] = [
        {"question_id": name, "answer": answers[name], "accuracy": score} for name, score in scores.items()
    ]
    protocol = {
        "evaluator": "vqa",
        "rule": "mean over people of min(1, equal answers of the others / 3); compared as written where all agree, "
        "else without punctuation, articles and number words, as the official tool does",
    }
    return Result(metrics={"accuracy": sum(scores.values()) / len(scores)}, rows=rows, protocol=protocol, tables=tables)


def _mean_row(name: str, scores: Sequence[float]) -> dict[str, Any]:
    return {"name": name, "count": len(scores), "accuracy": sum(scores) / len(scores)}

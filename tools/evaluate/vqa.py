"""`reelshard evaluate vqa`: answers to questions about pictures, by the official rule of ten people's answers.

reelshard evaluate vqa --annotations v2_mscoco_val2014_annotations.json --results vqa_v2_mine_results.json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.evaluate.common import add_result_arguments

if TYPE_CHECKING:
    from evaluation.result import Result

NAME = "vqa"
HELP = "answers to questions about pictures, by the official VQA rule"


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
    parser.description = __doc__
    parser.set_defaults(name=NAME)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="of VQA v2 or OK-VQA")
    parser.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="a list of {question_id, answer}, one a question"
    )
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pipeline.world import World
    from tools.evaluate.common import publish

    asked = load_annotations(args.annotations)
    result = measure_vqa(load_answers(args.results, asked), asked)
    lines = [f"{len(result.rows)} answers: accuracy {result.metrics['accuracy']:.2%}"]
    for kind, table in result.tables.items():
        lines += [f"  {kind} {row['name']}: {row['accuracy']:.2%} of {row['count']}" for row in table]
    publish(args, World(), {"vqa": result}, title=f"Answers of {args.results.name}", lines=lines)
    return 0


def load_annotations(path: Path) -> dict[str, Asked]:
    """Answers by question id.

    Raises:
        ValueError: the file is not in the official form.
    """
    from tools.evaluate.captions import read_json

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
        ValueError: one is missing, double, or answers no question.
    """
    from tools.evaluate.captions import read_json

    form, record, found = '[{"question_id": ..., "answer": "..."}, ...]', read_json(path), dict[str, str]()
    if not isinstance(record, list):
        raise ValueError(f"{path} is no list of answers; the form is {form}")
    for number, entry in enumerate(record):
        if not isinstance(entry, dict) or "question_id" not in entry or not isinstance(entry.get("answer"), str):
            raise ValueError(f"{path}: entry {number} has no question_id or no answer; the form is {form}")
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

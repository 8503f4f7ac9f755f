"""Multiple-choice questions about videos, in the files of Video-MME and MLVU as their owners publish them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.multiple_choice import LETTERS
from shards.builder.sources.chat_parquet import PARQUET, open_parquet
from shards.format.errors import ShardError
from shards.format.files import read_small
from shards.format.json_files import json_of
from tools.evaluate.official import sha256_of

VIDEO_MME, MLVU = "Video-MME", "MLVU"
PAGES = {
    VIDEO_MME: "Nothing is downloaded here. The official page is https://github.com/BradyFU/Video-MME (the hub's copy "
    "is lmms-lab/Video-MME: unpack its zips)",
    MLVU: "Nothing is downloaded here. The official page is https://github.com/JUNJIE99/MLVU (videos: MLVU/MVLU on the "
    "hub)",
}
FORMS = (
    "Video-MME is a .parquet, .jsonl or .json file of questions with `videoID`, `options` and `answer`; MLVU is the "
    "folder of its JSON files (1_plotQA.json, ...), or one of them, with `video`, `candidates` and `answer`"
)
_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*")
_SAME = {  # what the owners call it in another of their files
    "duration_category": "duration",
    "video_category": "domain",
    "video_sub_category": "sub_category",
    "choices": "options",
}


@dataclass(frozen=True, kw_only=True)
class AskedChoice:
    """A question as its file has it.

    Attributes:
        name: unique.
        question: the text.
        options: the texts, without letters.
        answer: place of the right option; None where none of them is.
        videos: names by which its video may go.
        folders: names of the folders that it should lie in.
        kinds: under which it is counted.
        record: as the file has it.
    """

    name: str
    question: str
    options: tuple[str, ...]
    answer: int | None
    videos: tuple[str, ...]
    folders: tuple[str, ...] = ()
    kinds: Mapping[str, str]
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChoiceSet:
    """The questions of a file, or of a folder of files.

    Attributes:
        layout: Video-MME or MLVU.
        questions: in the order of the files.
        digests: of the files, sha256 by name.
        notes: what was left out, and what nobody can answer.
    """

    layout: str
    questions: Sequence[AskedChoice]
    digests: Mapping[str, str]
    notes: Sequence[str] = field(default=())


def load_choices(path: Path) -> ChoiceSet:
    """Read either layout; which one it is, the records say.

    Raises:
        ValueError: it is neither.
        MissingDataError, ShardError: a file cannot be read.
    """
    records = {file: _records(file) for file in _files(path)}
    others = [file for file, some in records.items() if not any("question" in record for record in some)]
    records = {file: some for file, some in records.items() if file not in others}
    digests = {f"questions {file.name}": sha256_of(file) for file in records}
    first = next((record for some in records.values() for record in some), {})
    if "options" in first:
        found = [
            _of_video_mme(record, file, place) for file, some in records.items() for place, record in enumerate(some)
        ]
        layout, notes = VIDEO_MME, list[str]()
    elif {"video", "question", "answer"} <= set(first):
        layout = MLVU
        found, notes = _all_of_mlvu(records)
    else:
        raise ValueError(f"{path} is of neither layout: {FORMS}")
    if twice := _twice(question.name for question in found):
        raise ValueError(f"{path} has two questions {twice}: give each once")
    notes += [f"{file.name}: no questions, and left out" for file in others]
    if nobody := sum(question.answer is None for question in found):
        notes.append(f"{nobody} questions have an answer that is none of their options, and count as wrong")
    return ChoiceSet(layout=layout, questions=found, digests=digests, notes=notes)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.json"), key=lambda file: _task_number(file.stem))
        if not files:
            raise ValueError(f"there is no JSON file in {path}: {FORMS}")
        return files
    if not path.is_file():
        raise ValueError(f"there is no file {path}: {FORMS}")
    return [path]


def _task_number(stem: str) -> tuple[int, str]:
    number = stem.partition("_")[0]
    return (int(number) if number.isdigit() else 0, stem)


def _records(file: Path) -> list[Mapping[str, Any]]:
    """Records of one question each, by one set of names."""
    if file.suffix.lower() == PARQUET:
        found: Any = open_parquet(file).read(use_threads=False).to_pylist()
    elif file.suffix.lower() == ".jsonl":
        found = _lines(file)
    else:
        found = _json_of(file)
    if not isinstance(found, list) or not all(isinstance(record, Mapping) for record in found):
        raise ValueError(f"{file} is no list of records: {FORMS}")
    return [{_SAME.get(key, key): value for key, value in one.items()} for record in found for one in _flat(record)]


def _json_of(file: Path) -> Any:
    """What a file of JSON holds; Video-MME's template has commas behind the last entries, which JSON has not."""
    data = read_small(file)
    try:
        return json_of(data, str(file))
    except ShardError:
        with contextlib.suppress(ShardError):
            return json_of(re.sub(rb",(\s*[\]}])", rb"\1", data), str(file))
        raise


def _lines(file: Path) -> list[Any]:
    lines = enumerate(read_small(file).splitlines(), start=1)
    return [json_of(line, f"{file}, line {number}: it") for number, line in lines if line.strip()]


def _flat(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The questions of a record: itself, or those that stand below a video."""
    below = record.get("questions")
    if not isinstance(below, list):
        yield record
        return
    about = {key: value for key, value in record.items() if key != "questions"}
    for question in below:
        yield {**about, **question} if isinstance(question, Mapping) else about


def _of_video_mme(record: Mapping[str, Any], file: Path, place: int) -> AskedChoice:
    options: Any = record.get("options")
    answer = str(record.get("answer", "")).strip().rstrip(".")
    if not _texts(options) or not isinstance(record.get("question"), str) or "video_id" not in record:
        raise ValueError(f"{file}: record {place} is no question of Video-MME: {FORMS}")
    if len(answer) != 1 or not 0 <= LETTERS.find(answer) < len(options):
        raise ValueError(f"{file}: record {place} has the answer {answer!r}, which is no letter of its options")
    address = str(record.get("url", ""))
    names = [record.get("videoID"), address.partition("v=")[2].partition("&")[0], record["video_id"]]
    return AskedChoice(
        name=str(record.get("question_id", f"{record['video_id']}-{place}")),
        question=record["question"],
        options=tuple(_LETTERED.sub("", option, count=1) for option in options),
        answer=LETTERS.find(answer),
        videos=tuple(str(name) for name in names if name),
        folders=("data", "video", "videos"),
        kinds={
            kind: str(record[kind])
            for kind in ("duration", "domain", "sub_category", "task_type")
            if record.get(kind) is not None
        },
        record=record,
    )


def _all_of_mlvu(records: Mapping[Path, Sequence[Mapping[str, Any]]]) -> tuple[list[AskedChoice], list[str]]:
    found, left_out = [], []
    for file, some in records.items():
        task = re.sub(r"\.excerpt$", "", re.sub(r"^\d+_", "", file.stem))
        if some and not any("candidates" in record for record in some):
            left_out.append(task)
            continue
        found += [_of_mlvu(record, file, place, task) for place, record in enumerate(some)]
    if not found:
        raise ValueError(f"there is no multiple choice in {', '.join(str(file) for file in records)}: {FORMS}")
    notes = [f"{', '.join(left_out)}: no multiple choice, and left out (a judge model scores it)"] if left_out else []
    return found, notes


def _of_mlvu(record: Mapping[str, Any], file: Path, place: int, task: str) -> AskedChoice:
    options: Any = record.get("candidates")
    answer = record.get("answer")
    if not _texts(options) or not all(isinstance(record.get(key), str) for key in ("video", "question", "answer")):
        raise ValueError(f"{file}: record {place} is no question of MLVU: {FORMS}")
    return AskedChoice(
        name=str(record.get("question_id", f"{task}-{place}")),
        question=record["question"],
        options=tuple(options),
        answer=options.index(answer) if answer in options else None,
        videos=(Path(record["video"]).name,),
        folders=(file.stem, task),
        kinds={"task": task},
        record=record,
    )


def _texts(options: Any) -> bool:
    return isinstance(options, list) and 2 <= len(options) <= len(LETTERS) and all(isinstance(o, str) for o in options)


def _twice(names: Iterator[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]

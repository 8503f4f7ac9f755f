"""`reelshard evaluate captions`: captions against references, by BLEU-4, CIDEr-D and, where Java is, METEOR."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shards.format.json_files import read_json
from tools.datasets import add_cache_arguments
from tools.evaluate.answering import Found, add_answering_arguments, choose_way
from tools.evaluate.coco_tools import ToolFailedError, meteor, missing_for_meteor, official_words
from tools.evaluate.common import add_result_arguments
from tools.evaluate.official import entries_of, sha256_of

if TYPE_CHECKING:
    from evaluation.result import Result

NAME = "captions"
HELP = "captions against references: BLEU-4, CIDEr-D, METEOR"
MAX_NEW_TOKENS = 64
SCORES = ("bleu4", "cider", "meteor")

_DESCRIPTION = """Score captions against references: BLEU-4, CIDEr-D and, where Java is, METEOR. The captions are those
of a file, or a model writes them, always with the likeliest token:

  --references COCO.json --results MINE.json             a file's
  --references COCO.json --videos DIR --checkpoint RUN   a model's, of videos or images
  --val SET --checkpoint RUN                             a model's, of a built set of chats, against its answers

With --out, what a model has written is kept as it goes and as captions_results.json, in COCO's form."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard evaluate captions`."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name=NAME)
    parser.add_argument("--references", type=Path, metavar="FILE", help="in COCO's form")
    parser.add_argument("--results", type=Path, metavar="FILE", help="a list of {image_id, caption}, one for each id")
    parser.add_argument("--videos", "--images", type=Path, metavar="DIR", help="where what the references are of lies")
    parser.add_argument(
        "--val", type=Path, metavar="SET", help="a built set of chats (a folder or its URL), no references"
    )
    add_cache_arguments(parser)
    parser.add_argument("--question", help="what a model is asked of videos (default: a run's chat.prompt)")
    add_answering_arguments(parser, MAX_NEW_TOKENS)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pipeline.world import World
    from tools.evaluate.common import publish
    from tools.evaluate.written_captions import caption_files, caption_set

    ways = {
        ("references", "results"): _score_file,
        ("references", "videos", "checkpoint"): caption_files,
        ("val", "checkpoint"): caption_set,
    }
    way = choose_way(args, ways)
    result, title, done = way(args)
    percent = {"bleu4": 100.0, "meteor": 100.0}
    scores = [
        f"{name} {result.metrics[name] * percent.get(name, 1.0):.2f}" for name in SCORES if name in result.metrics
    ]
    lines = [f"{len(result.rows)} captions: {', '.join(scores)}", *result.protocol["notes"]]
    publish(args, World(), {"captions": result}, title=title, lines=lines)
    done()
    return 0


def _score_file(args: argparse.Namespace) -> Found:
    references = load_references(args.references)
    captions = load_results(args.results, references.captions)
    digests = {"references": sha256_of(args.references), "results": sha256_of(args.results)}
    result = replace(measure_captions(captions, references.captions), digests=digests)
    return result, f"Captions of {args.results.name}", lambda: None


@dataclass(frozen=True)
class References:
    """What a file in COCO's form holds.

    Attributes:
        captions: by id.
        ids: as the file has them, whole numbers or text.
        files: names of files by id, of the ids whose file it names.
    """

    captions: Mapping[str, list[str]]
    ids: Mapping[str, int | str]
    files: Mapping[str, str]


def load_references(path: Path) -> References:
    """Reference captions of a file in COCO's form.

    Raises:
        ShardError: it is no file of JSON.
        ValueError: it is of another form.
    """
    record = read_json(path)
    form = '{"annotations": [{"image_id": ..., "caption": "..."}, ...]}'
    annotations = record.get("annotations") if isinstance(record, dict) else None
    captions: dict[str, list[str]] = {}
    ids: dict[str, int | str] = {}
    for entry in entries_of(annotations, path, name="image_id", texts=["caption"], form=form):
        name = str(entry["image_id"])
        captions.setdefault(name, []).append(entry["caption"])
        ids[name] = entry["image_id"]
    if not captions:
        raise ValueError(f"{path} has no captions; the form is {form}")
    images = record.get("images")
    files = {
        str(image["id"]): image["file_name"]
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict) and "id" in image and isinstance(image.get("file_name"), str)
    }
    return References(captions, ids, files)


def load_results(path: Path, references: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Captions by id: one for each, and each of the references'.

    Raises:
        ShardError: it is no file of JSON.
        ValueError: they are not.
    """
    found: dict[str, str] = {}
    form = '[{"image_id": ..., "caption": "..."}, ...]'
    for entry in entries_of(
        read_json(path, f"it has to be {form}"), path, name="image_id", texts=["caption"], form=form
    ):
        name = str(entry["image_id"])
        if name in found:
            raise ValueError(f"{path} has two captions of {name}; give one of each")
        if name not in references:
            raise ValueError(f"{path} has a caption of {name}, which the references do not have")
        found[name] = entry["caption"]
    if not found:
        raise ValueError(f"{path} has no captions")
    return found


def measure_captions(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Result:
    """Score captions; by the official programs for words and METEOR where they run, else it says so."""
    from evaluation.captions import score_captions
    from evaluation.result import Result

    given = {name: list(references[name]) for name in captions}
    words = _words_and_meteor(captions, given)
    scores = score_captions(words.captions, words.references)
    metrics = {"bleu4": scores.bleu4, "cider": scores.cider}
    each: list[Mapping[str, float]] = [
        {"bleu4": bleu, "cider": cider} for bleu, cider in zip(scores.bleu4_each, scores.cider_each, strict=True)
    ]
    if words.meteor is not None:
        metrics["meteor"] = words.meteor[0]
        each = [{**row, "meteor": value} for row, value in zip(each, words.meteor[1], strict=True)]
    rows = [
        {"id": name, "caption": caption, "references": given[name], **row}
        for (name, caption), row in zip(captions.items(), each, strict=True)
    ]
    protocol = {
        "evaluator": "captions",
        "tokenizer": words.tokenizer,
        "cider": "CIDEr-D, sigma 6, document frequencies of the references of the captions that are scored",
        "notes": words.notes,
    }
    return Result(metrics=metrics, rows=rows, protocol=protocol)


@dataclass(frozen=True, kw_only=True)
class _Words:
    """Captions as words, and what the official programs made of them."""

    captions: Mapping[str, Sequence[str]]
    references: Mapping[str, Sequence[Sequence[str]]]
    tokenizer: str
    notes: list[str]
    meteor: tuple[float, Sequence[float]] | None = None


def _words_and_meteor(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> _Words:
    if missing := missing_for_meteor():
        return _own_words(captions, references, missing)
    try:
        spelled, given = official_words({name: [each] for name, each in captions.items()}), official_words(references)
    except ToolFailedError as failure:
        return _own_words(captions, references, str(failure))
    score, notes = None, []
    try:
        score = meteor(spelled, given)
    except ToolFailedError as failure:
        notes.append(f"METEOR was not computed: {failure}")
    return _Words(
        captions={name: spelled[name][0].split() for name in captions},
        references={name: [each.split() for each in given[name]] for name in captions},
        tokenizer="PTBTokenizer of pycocoevalcap",
        notes=notes,
        meteor=score,
    )


def _own_words(captions: Mapping[str, str], references: Mapping[str, Sequence[str]], why: str) -> _Words:
    from evaluation.caption_words import caption_words

    return _Words(
        captions={name: caption_words(caption) for name, caption in captions.items()},
        references={name: [caption_words(each) for each in some] for name, some in references.items()},
        tokenizer="reelshard's, in the way of PTBTokenizer",
        notes=[f"METEOR was not computed, and words were split by our own rules: {why}"],
    )

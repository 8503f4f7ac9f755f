"""`reelshard evaluate captions`: captions against references, by BLEU-4, CIDEr-D and, where Java is, METEOR.

reelshard evaluate captions --references captions_val2014.json --results captions_val2014_mine_results.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.evaluate.common import add_result_arguments

if TYPE_CHECKING:
    from evaluation.result import Result

NAME = "captions"
HELP = "captions against references: BLEU-4, CIDEr-D, METEOR"
_EXTRA = "pip install 'reelshard[captions]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard evaluate captions`."""
    parser.description = __doc__
    parser.set_defaults(name=NAME)
    parser.add_argument("--references", type=Path, required=True, metavar="FILE", help="in COCO's form")
    parser.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="a list of {image_id, caption}, one for each id"
    )
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pipeline.world import World
    from tools.evaluate.common import publish

    references = load_references(args.references)
    result = measure_captions(load_results(args.results, references), references)
    percent = {"bleu4": 100.0, "meteor": 100.0, "cider": 1.0}
    numbers = [f"{name} {value * percent.get(name, 1.0):.2f}" for name, value in result.metrics.items()]
    lines = [f"{len(result.rows)} captions: {', '.join(numbers)}", *result.protocol["notes"]]
    publish(args, World(), {"captions": result}, title=f"Captions of {args.results.name}", lines=lines)
    return 0


def load_references(path: Path) -> dict[str, list[str]]:
    """Reference captions by id, of a file in COCO's form.

    Raises:
        ValueError: it is none.
    """
    record = read_json(path)
    form = '{"annotations": [{"image_id": ..., "caption": "..."}, ...]}'
    found: dict[str, list[str]] = {}
    for entry in _entries(record.get("annotations") if isinstance(record, dict) else None, path, form):
        found.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    return found


def load_results(path: Path, references: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Captions by id: one for each, and each of the references'.

    Raises:
        ValueError: they are not.
    """
    found: dict[str, str] = {}
    for entry in _entries(read_json(path), path, '[{"image_id": ..., "caption": "..."}, ...]'):
        name = str(entry["image_id"])
        if name in found:
            raise ValueError(f"{path} has two captions of {name}; give one of each")
        if name not in references:
            raise ValueError(f"{path} has a caption of {name}, which the references do not have")
        found[name] = entry["caption"]
    if not found:
        raise ValueError(f"{path} has no captions")
    return found


def _entries(record: Any, path: Path, form: str) -> list[dict[str, Any]]:
    if not isinstance(record, list):
        raise ValueError(f"{path} is not in COCO's form; it has to be {form}")
    for number, entry in enumerate(record):
        if not isinstance(entry, dict) or "image_id" not in entry or not isinstance(entry.get("caption"), str):
            raise ValueError(f"{path}: entry {number} has no image_id or no caption; the form is {form}")
    return record


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        ValueError: it is missing, or no JSON.
    """
    import json

    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def measure_captions(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Result:
    """Score captions; METEOR and the official tokenizer where Java and pycocoevalcap are, else it says so."""
    from evaluation.caption_words import caption_words
    from evaluation.captions import score_captions
    from evaluation.result import Result

    given = {name: list(references[name]) for name in captions}
    notes: list[str] = []
    meteor: tuple[float, Sequence[float]] | None = None
    if missing := _missing_for_meteor():
        tokenizer = "reelshard's, in the way of PTBTokenizer"
        words = {name: caption_words(caption) for name, caption in captions.items()}
        given_words = {name: [caption_words(each) for each in some] for name, some in given.items()}
        notes.append(f"METEOR was not computed, and words were split by our own rules: {missing}")
    else:
        tokenizer = "PTBTokenizer of pycocoevalcap"
        spelled, given_spelled = _ptb_words({name: [each] for name, each in captions.items()}), _ptb_words(given)
        words = {name: spelled[name][0].split() for name in captions}
        given_words = {name: [each.split() for each in given_spelled[name]] for name in captions}
        meteor = _meteor(spelled, given_spelled)
    scores = score_captions(words, given_words)
    metrics = {"bleu4": scores.bleu4, "cider": scores.cider}
    each: list[Mapping[str, float]] = [
        {"bleu4": bleu, "cider": cider} for bleu, cider in zip(scores.bleu4_each, scores.cider_each, strict=True)
    ]
    if meteor is not None:
        metrics["meteor"] = meteor[0]
        each = [{**row, "meteor": value} for row, value in zip(each, meteor[1], strict=True)]
    rows = [
        {"id": name, "caption": caption, "references": given[name], **row}
        for (name, caption), row in zip(captions.items(), each, strict=True)
    ]
    protocol = {
        "evaluator": "captions",
        "tokenizer": tokenizer,
        "cider": "CIDEr-D, sigma 6, document frequencies of the references of the captions that are scored",
        "notes": notes,
    }
    return Result(metrics=metrics, rows=rows, protocol=protocol)


def _missing_for_meteor() -> str:
    """What is not there; empty if all is."""
    import importlib.util

    if shutil.which("java") is None:
        return "there is no Java"
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        return f"pycocoevalcap is not installed ({_EXTRA})"
    folder = Path(package.submodule_search_locations[0]) / "tokenizer"
    if " " in str(folder):
        return f"METEOR does not find its files in a folder with a blank in its name, {folder}"
    return "" if os.access(folder, os.W_OK) else f"its tokenizer keeps a file in {folder}, which cannot be written to"


def _ptb_words(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Captions with their words apart, by the official tool."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    wrapped = {name: [{"caption": " ".join(each.split())} for each in some] for name, some in captions.items()}
    found: dict[str, list[str]] = PTBTokenizer().tokenize(wrapped)
    return found


def _meteor(
    captions: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[str]]
) -> tuple[float, Sequence[float]]:
    """METEOR of the set and of each caption, by the official tool, a process of its own that is ended here."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        score, each = scorer.compute_score({name: references[name] for name in captions}, captions)
    except (OSError, ValueError) as error:
        raise ValueError(f"METEOR's program failed: {' '.join(str(error).split())}") from None
    finally:
        scorer.lock = threading.Lock()  # its own may be held for good, and its end would wait for it
        scorer.meteor_p.kill()
        scorer.meteor_p.communicate()  # closes its pipes
    return float(score), [float(value) for value in each]

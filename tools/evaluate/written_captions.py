"""Captions that a model writes of the videos or images of official files, or of a built set of chats."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.datasets import cache_of
from tools.evaluate.answering import Answers, Found, Question, ask, written
from tools.evaluate.captions import load_references, measure_captions
from tools.evaluate.media import Media, refuse_if_all_are_missing
from tools.evaluate.official import sha256_of

if TYPE_CHECKING:
    from evaluation.result import Result
    from evaluation.speaker import Pictures, Speaker
    from shards.dataset import ShardDataset

OFFICIAL = (
    "Nothing is downloaded here. Official pages: COCO https://cocodataset.org/#download, MSR-VTT "
    "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/"
)


def caption_files(args: argparse.Namespace) -> Found:
    """Caption the files that references in COCO's form are about, and score that."""
    from tools.speakers import open_speaker

    references = load_references(args.references)
    media = Media.of(args.videos)
    paths = {name: media.find(references.files.get(name, ""), name) for name in references.captions}
    missing = [name for name, path in paths.items() if path is None]
    refuse_if_all_are_missing(missing, len(paths), args.videos, OFFICIAL)
    speaker = open_speaker(args)
    asked = [{"role": "user", "content": args.question or speaker.prompt}]
    questions = [Question(name=name, about=paths[name] or name, messages=asked) for name in paths]
    digests = {"references": sha256_of(args.references), "model": speaker.digest}

    def read(about: Path | str) -> Pictures:
        if isinstance(about, str):
            raise ValueError(f"there is no file {references.files.get(about, about)} in {args.videos}")
        return speaker.read(about)

    answers, kept = ask(args, questions, read, written(speaker, args.max_new_tokens), _asked(args, digests, asked))
    _refuse_nothing(answers)
    ids = references.ids
    results = [{"image_id": ids[name], "caption": answers.found[name]} for name in paths if name in answers.found]
    write_answers(args, results)
    result = _scored(args, speaker, answers, references.captions, question=asked[0]["content"])
    return replace(result, digests=digests), f"Captions by {speaker.name}", kept.drop


def caption_set(args: argparse.Namespace) -> Found:
    """Answer the chats of a built set up to their first answer, which is the reference."""
    from shards.dataset import ShardDataset
    from tools.speakers import open_speaker

    if args.question is not None:
        raise ValueError("--question has no effect with --val, whose chats ask themselves")
    dataset = ShardDataset.open(args.val, cache_of(args))
    kind = dataset.manifest.provenance.get("sample", {})
    if not isinstance(kind, Mapping) or kind.get("kind") != "chat" or "frames" not in dataset.schema:
        raise ValueError(f"{args.val} holds no chats about pictures, which captions are written of")
    references: dict[str, list[str]] = {}
    questions: list[Question] = []
    for number in range(len(dataset)):
        turns = dataset.metadata(number)["messages"]
        place = next(place for place, turn in enumerate(turns) if turn["role"] == "assistant")
        references[dataset.key(number)] = [turns[place]["content"]]
        questions.append(Question(name=dataset.key(number), about=number, messages=turns[:place]))
    speaker = open_speaker(args)
    digests = {"val": dataset.digest, "model": speaker.digest}

    def read(number: int) -> Pictures:
        return stored_pictures(dataset, number)

    answers, kept = ask(args, questions, read, written(speaker, args.max_new_tokens), _asked(args, digests, []))
    _refuse_nothing(answers)
    write_answers(args, [{"image_id": name, "caption": caption} for name, caption in answers.found.items()])
    result = _scored(args, speaker, answers, references, question="each chat up to its first answer")
    return replace(result, digests=digests), f"Captions by {speaker.name}", kept.drop


def stored_pictures(dataset: ShardDataset, number: int) -> Pictures:
    """The frames of a sample of a set of chats.

    Raises:
        ValueError: it is text alone.
        ShardError: it is damaged.
    """
    from evaluation.speaker import Pictures
    from tools.systems.asking import decode_jpeg

    sample: Any = dataset[number]
    if not len(sample["frames"]):
        raise ValueError(f"sample {dataset.key(number)} is text alone")
    try:
        frames = tuple(decode_jpeg(bytes(jpeg)) for jpeg in sample["frames"])
    except OSError as error:
        raise ValueError(f"sample {dataset.key(number)} has a picture that cannot be read: {error}") from None
    seconds = tuple(float(second) for second in sample["times"])
    moving = dataset.metadata(number).get("decoder") != "pillow"  # who reads images
    return Pictures(frames=frames, seconds=seconds, moving=moving)


def write_answers(args: argparse.Namespace, results: Sequence[Mapping[str, Any]]) -> None:
    """Write answers where the arguments say, in the form in which official tools read them."""
    from shards.format.publish import publish_json

    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        publish_json(args.out / f"{args.name}_results.json", results)


def _asked(args: argparse.Namespace, digests: Mapping[str, str], messages: Any) -> dict[str, Any]:
    return {**digests, "messages": messages, "max_new_tokens": args.max_new_tokens, "max_frames": args.max_frames}


def _refuse_nothing(answers: Answers) -> None:
    if not answers.found:
        raise ValueError(f"no caption was written. {' '.join(answers.notes())}")


def _scored(
    args: argparse.Namespace,
    speaker: Speaker,
    answers: Answers,
    references: Mapping[str, Sequence[str]],
    *,
    question: str,
) -> Result:
    found = {name: answers.found[name] for name in references if name in answers.found}
    result = measure_captions(found, references)
    protocol = {
        **result.protocol,
        "asked": question,
        "answers": f"the likeliest token each time, {args.max_new_tokens} at most",
        **speaker.facts(),
        "notes": [*answers.notes(), *result.protocol["notes"]],
    }
    metrics = {**result.metrics, "num_captions": float(len(found)), "num_failed": float(answers.num_failed)}
    return replace(result, metrics=metrics, protocol=protocol, tables=answers.table())

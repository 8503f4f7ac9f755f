"""`reelshard evaluate choice`: multiple choice about videos, by the likelihood that a model gives to each option."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tools.evaluate.common import add_result_arguments
from tools.speakers import add_speaker_arguments

if TYPE_CHECKING:
    from evaluation.result import Result

NAME = "choice"
HELP = "multiple choice about videos: Video-MME, MLVU"
_DESCRIPTION = """Ask a model multiple-choice questions about videos, and take of the options the one that it finds
likeliest. The files are those of Video-MME (.parquet, .jsonl or .json, one question a record) or MLVU (the folder
of its JSON files, or one of them), with the prompts of their owners.

--rule letter compares the letters of the options, which are all shown; --rule text compares what the options say, per
byte, behind the question alone, which small models without practice in letters do better at. With --out, answers are
kept as they come, and for Video-MME choice_results.json is the file that its owners' tool reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reelshard evaluate choice`."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name=NAME)
    parser.add_argument("--questions", type=Path, required=True, metavar="PATH", help="of Video-MME or MLVU")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="their videos, in subfolders or not")
    parser.add_argument("--subtitles", type=Path, metavar="DIR", help="of Video-MME's .srt files (default: none)")
    parser.add_argument(
        "--rule", choices=("letter", "text"), default="letter", help="what is compared (default letter)"
    )
    add_speaker_arguments(parser)
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pipeline.world import World
    from tools.evaluate.answering import ask
    from tools.evaluate.asked_choices import ChoiceAsker
    from tools.evaluate.choice_files import MLVU, PAGES, load_choices
    from tools.evaluate.common import publish
    from tools.evaluate.media import Media, refuse_if_all_are_missing
    from tools.speakers import open_speaker

    if args.checkpoint is None:
        raise ValueError("`evaluate choice` needs --checkpoint, the model that is asked")
    asked = load_choices(args.questions)
    if args.subtitles is not None and asked.layout == MLVU:
        raise ValueError("--subtitles are Video-MME's; MLVU has none")
    if args.subtitles is not None and not args.subtitles.is_dir():
        raise ValueError(f"there is no folder of subtitles {args.subtitles}")
    media = Media.of(args.videos)
    paths = {each.name: media.find(*each.videos, below=each.folders) for each in asked.questions}
    missing = dict.fromkeys(each.videos[0] for each in asked.questions if paths[each.name] is None)
    wanted = dict.fromkeys(each.videos[0] for each in asked.questions)
    refuse_if_all_are_missing(list(missing), len(wanted), args.videos, PAGES[asked.layout])
    speaker = open_speaker(args)
    asker = ChoiceAsker(asked, speaker, args.rule, args.subtitles, args.videos)
    answers, kept = ask(args, asker.questions(paths), asker.read, asker.weigh, asker.decides(args.max_frames))
    if not answers.found:
        raise ValueError(f"no question was answered. {' '.join(answers.notes())}")
    result = asker.result(answers, PAGES[asked.layout] if missing else "")
    asker.write_responses(result, args.out)
    publish(args, World(), {NAME: result}, title=f"{asked.layout} by {speaker.name}", lines=_lines(result))
    kept.drop()
    return 0


def _lines(result: Result) -> list[str]:
    """The numbers for the terminal."""
    from tools.evaluate.answering import spell_tables

    spelled = []
    for name, (low, high) in result.intervals.items():
        spelled.append(f"{name} {result.metrics[name]:.2%} ({low:.2%} to {high:.2%})")
    first = f"{len(result.rows)} questions: {', '.join(spelled)}, chance {result.metrics['chance']:.2%}"
    return [first, *spell_tables(result), *result.protocol["notes"]]

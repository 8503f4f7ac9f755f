"""The demo's report: one HTML file that needs nothing else, and a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.words import spell_seconds
from tools.demo.codecs_page import codec_lines, codecs
from tools.demo.sections import data_sets, evaluations, machine, speed, student, training, verdicts
from tools.demo.student import Guess
from tools.pages.elements import PERCENT, paragraph, spell_interval, spell_number, spell_percent, tiles
from tools.pages.html import Html, tag, write_page
from training.metrics import Row

_WHAT = """Videos, a teacher, shards, a student and what it has learned, all made on this machine. The class of a video
is how its shapes move; colour, shape, size and place are drawn alike for every class. The student is given no label:
it sees {visible:.0f} % of the tubes of a clip and predicts a frozen teacher's tokens of the rest."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How one student trained.

    Attributes:
        title: of its system.
        loss: what that is, in words.
        rows: its metrics.
    """

    title: str
    loss: str
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the report shows beside the numbers of report.json.

    Attributes:
        visible: share of a clip's tubes that the student sees.
        courses: of the students, by name; "" is the one that is evaluated.
        guesses: what that one says of a few held-out clips.
    """

    visible: float
    courses: Mapping[str, Course]
    guesses: Sequence[Guess]


def summary(report: Mapping[str, Any], out: Path) -> str:
    """The report as a few lines for the terminal."""
    rates, train = report["rates"], report["train"]
    compared = codec_lines(report["codecs"]) if "codecs" in report else []
    lines = [
        *(f"{title:<14} {words}" for title, words in _spell_evaluations(report)),
        f"{'loss':<14} {train['first_loss']:.3f} -> {train['final_loss']:.3f} in {train['steps']} steps",
        *(f"{title:<14} {words}" for title, words in compared),
        f"{'read, clips/s':<14} stock webdataset {rates['read, stock webdataset']:,.0f}, "
        f"reelshard {rates['read, whole samples']:,.0f}, with masks {rates['read, what the mask needs']:,.0f}",
        f"{'took':<14} {spell_seconds(report['seconds']['total'])}",
        f"{'report':<14} {out / 'report.html'}",
    ]
    return "\n".join(lines).replace(PERCENT, " %")


def _spell_evaluations(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for found in report["evaluations"].values():
        metric = found["metric"]
        words = [
            f"{which} student {spell_percent(result['metrics'][metric])}"
            + (f" ({spell_interval(tuple(result['intervals'][metric]))})" if metric in result["intervals"] else "")
            for which, result in found["results"].items()
        ]
        words.append(f"chance {spell_percent(found['results']['trained']['metrics']['chance'])}")
        lines.append((found["short"], ", ".join(words)))
    return lines


def write_html(report: Mapping[str, Any], shown: Shown, path: Path) -> None:
    """Write the page.

    Args:
        report: as in report.json.
        shown: what is shown beside its numbers.
        path: of the page.
    """
    body: list[Html] = [
        tag("h1", "Reelshard demo"),
        paragraph(_WHAT.format(visible=100 * shown.visible), class_="lead"),
        tiles(_tiles(report)),
        *verdicts(report),
        paragraph(_made(report), class_="small faint"),
        *evaluations(report),
        *student(report, shown.guesses),
        *training(report, shown.courses),
        *codecs(report),
        *speed(report),
        *data_sets(report),
        *machine(report),
    ]
    write_page(path, "Reelshard demo", *body)


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """The first screen: the numbers, with what they have to beat."""
    found = []
    for evaluation in report["evaluations"].values():
        metric, results = evaluation["metric"], evaluation["results"]
        trained = results["trained"]
        notes = [spell_interval(tuple(trained["intervals"][metric]))] if metric in trained["intervals"] else []
        notes.append(f"untrained {spell_percent(results['untrained']['metrics'][metric])}")
        notes.append(f"chance {spell_percent(trained['metrics']['chance'])}")
        found.append((evaluation["title"], spell_percent(trained["metrics"][metric]), notes))
    cosine = {name: spell_number(value) for name, value in report["held_out"][""]["cosine"].items()}
    notes = ["to the teacher's tokens", f"untrained {cosine['untrained']}", f"the mean token {cosine['mean']}"]
    found.append(("Cosine, held-out clips", cosine["trained"], notes))
    equal, total = report["readback"]["num_equal"], report["datasets"]["train"]["num_samples"]
    found.append(("Read back", f"{equal} of {total}", ["samples, to the bit what stock webdataset reads"]))
    seconds = report["seconds"]["total"]
    found.append(("Took", spell_seconds(seconds), ["from nothing to this page"]))
    return found


def _made(report: Mapping[str, Any]) -> str:
    made, versions = report["machine"], report["machine"]["versions"]
    return (
        f"{made['what']}; {made['date']}; reelshard {versions['reelshard']}, torch {versions['torch']}, "
        f"Python {versions['python']}."
    )

"""The report of the SAM3 demo: a page, and a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.words import spell_seconds
from tools.pages.elements import callout, facts, figures, heading, paragraph, spell_percent, table, tiles
from tools.pages.html import Html, tag, write_page
from tools.systems.mask_strips import MaskStrip

Report = Mapping[str, Any]

_WHAT = """A small SAM3 learns what things are from frames that show one each, and is then frozen; a memory of the eight
annotated frames before is all that is trained last, on others: in their last frame shapes that look alike lie still.
Annotated is the one that has moved there, and that frame alone does not say which it is. In a tenth of the videos
none is left. The student answers with one mask, so that it cannot name all of them."""
_PAIRED = """Differences are paired, clip by clip, with their standard errors; above two, other clips would
hardly turn them round. With another video's memory every clip is given the features of the clip before it."""
_RUNS = """The same memory from three random starts, with an embedding of time and of place for its tokens, and as an
unordered bag without. A gain is how much lower the loss, or how much higher the IoU, is with the right memory."""
BASELINES = {"none": "no memory", "other": "another video's memory"}
LEAST_GAIN = 2.0  # standard errors


def question(report: Report) -> list[tuple[bool, str]]:
    """Whether only the memory can tell: for each kind of memory and baseline, in how many runs it gains clearly."""
    found = []
    for embeddings, name in ((True, "with embeddings"), (False, "as an unordered bag")):
        runs = [run["metrics"] for run in report["runs"].values() if run["embeddings"] == embeddings]
        for baseline, words in BASELINES.items():
            gains = [run[f"loss_gain_{baseline}"] for run in runs]
            errors = [run.get(f"loss_gain_{baseline}_errors", 0.0) for run in runs]
            clear = sum(error > LEAST_GAIN for error in errors)
            spelled = ", ".join(f"{gain:.3f} ({error:.1f} SE)" for gain, error in zip(gains, errors, strict=True))
            line = (
                f"{name}, against {words}: a gain above {LEAST_GAIN:.0f} standard errors in {clear} of {len(runs)} runs"
            )
            found.append((clear == len(runs), f"{line}; loss {spelled}"))
    return found


def summary(report: Report, out: Path) -> str:
    """The report as a few lines."""
    metrics, by_heart, constant = report["runs"]["video"]["metrics"], report["by_heart"], report["constant"]
    lines = [
        f"{'by heart':<12} loss {by_heart['first_loss']:.2f} -> {by_heart['final_loss']:.2f} on a few videos",
        *(f"{memory:<12} {_numbers(metrics, memory)}" for memory in ("right", "none", "other")),
        f"{'constant':<12} loss {constant['loss']:.3f}, {_gain(constant['difference'], constant['errors'])} above",
        *(f"{'memory':<12} {line}" for _, line in question(report)),
        f"{'took':<12} {spell_seconds(report['seconds']['total'])}",
        f"{'report':<12} {out / 'report.html'}",
    ]
    return "\n".join(lines)


def _numbers(metrics: Mapping[str, float], memory: str) -> str:
    share = metrics[f"presence_{memory}"]
    return f"loss {metrics[f'loss_{memory}']:.3f}, IoU {metrics[f'iou_{memory}']:.3f}, presence {100 * share:.1f} %"


def _gain(difference: float, errors: float) -> str:
    return f"{difference:.3f} ({errors:.1f} standard errors)"


def write_html(report: Report, shown: Sequence[MaskStrip], path: Path) -> None:
    """Write the page.

    Args:
        report: as in report.json.
        shown: what the first run with a memory finds in some held-out videos.
        path: of the page.
    """
    metrics, seconds = report["runs"]["video"]["metrics"], report["seconds"]
    body: list[Html] = [
        tag("h1", "Reelshard demo: a memory for a small SAM3"),
        paragraph(_WHAT, class_="lead"),
        tiles(_tiles(report)),
        *(callout(line, kind="warn") for line in report["problems"]),
        *(callout(line, kind="good" if kept else "warn") for kept, line in question(report)),
        heading("What the memory is worth"),
        paragraph(_PAIRED, class_="small"),
        _memories(metrics),
        paragraph(_trained_without(report)),
        heading("Where only the memory can tell"),
        paragraph(_RUNS, class_="small"),
        _runs(report),
        heading("What it finds"),
        paragraph(
            "The first held-out videos, not the best ones; the query frame is on the right. Masks are painted where a "
            "query's score is at least 0.3.",
            class_="small",
        ),
        figures(*(one.html() for one in shown)),
        heading("Seconds"),
        table([[name, f"{value:.1f}"] for name, value in seconds.items()], head=["step", "seconds"], numbers=(1,)),
        heading("Data sets"),
        facts(
            (name, f"{made['num_samples']} videos, digest {made['digest']}")
            for name, made in report["datasets"].items()
        ),
        heading("Made with"),
        facts((name, str(value)) for name, value in report["machine"].items() if value),
    ]
    write_page(path, "Reelshard demo: sam3_video", *body)


def _tiles(report: Report) -> list[tuple[str, str, list[str]]]:
    metrics = report["runs"]["video"]["metrics"]
    ious = [f"{words} {metrics[f'iou_{name}']:.3f}" for name, words in BASELINES.items()]
    presence = [f"base rate {spell_percent(metrics['presence_base_rate'])}"]
    errors = [
        f"{metrics[f'loss_gain_{name}_errors']:.1f} standard errors below {words}" for name, words in BASELINES.items()
    ]
    return [
        ("Mean IoU, right memory", f"{metrics['iou_right']:.3f}", ious),
        ("Loss, right memory", f"{metrics['loss_right']:.3f}", errors),
        ("Presence", spell_percent(metrics["presence_right"]), presence),
        ("Took", spell_seconds(report["seconds"]["total"]), ["from nothing to this page"]),
    ]


def _memories(metrics: Mapping[str, float]) -> Html:
    rows = []
    for memory, words in (("right", "the right memory"), *BASELINES.items()):
        gain = metrics.get(f"loss_gain_{memory}")
        errors = metrics.get(f"loss_gain_{memory}_errors", 0.0)
        cells = [f"{metrics[f'{what}_{memory}']:.3f}" for what in ("loss", "iou", "presence")]
        rows.append([words, *cells, "" if gain is None else f"{gain:.3f}", "" if gain is None else f"{errors:.1f}"])
    head = ["", "loss", "mean IoU", "presence", "loss above the right one", "standard errors"]
    return table(rows, head=head, numbers=range(1, 6))


def _trained_without(report: Report) -> str:
    constant, by_heart = report["constant"], report["by_heart"]
    return (
        f"The same run trained with zeros for a memory ends at a loss of {constant['loss']:.3f}, "
        f"{_gain(constant['difference'], constant['errors'])} above the one with the right memory. On "
        f"a few videos alone the loss falls from {by_heart['first_loss']:.2f} to {by_heart['final_loss']:.2f}."
    )


def _runs(report: Report) -> Html:
    rows = []
    for run, about in report["runs"].items():
        cells = [run, str(about["seed"]), "yes" if about["embeddings"] else "no"]
        for what in ("loss", "iou"):
            for baseline in BASELINES:
                gain, errors = (about["metrics"].get(f"{what}_gain_{baseline}{end}", 0.0) for end in ("", "_errors"))
                cells.append(f"{gain:.3f} ({errors:.1f})")
        rows.append(cells)
    gains = [f"{what} against {words} (errors)" for what in ("loss", "IoU") for words in BASELINES.values()]
    return table(rows, head=["run", "seed", "embeddings", *gains], numbers=range(1, 7))

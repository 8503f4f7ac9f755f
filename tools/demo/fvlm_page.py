"""The report of the foveated VLM's demo: one self-contained HTML file, and lines for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.words import spell_bytes, spell_seconds
from tools.demo.fvlm_verdict import BASELINES, GAP_AIM
from tools.demo.sections import machine
from tools.pages.elements import (
    PERCENT,
    Share,
    callout,
    figures,
    heading,
    more,
    paragraph,
    shares,
    spell_number,
    spell_percent,
    table,
    tiles,
)
from tools.pages.html import Html, tag, write_page
from tools.pages.plots import Line, plot

Report = Mapping[str, Any]
COSTS = {
    "ce_coarse_only": "coarse",
    "ce_coarse_fine": "fine",
    "ce_autoregressive": "autoregressive",
    "ce_other_frames": "another sample's frames",
    "ce_text_alone": "text alone",
}
_WHAT = """A language model that sees each frame of a video as one token, and says itself what to look for in the next
one: trained from fresh weights, first on captions of videos, then on questions about them, and examined on videos that
it has not seen. All models here are tiny; what is shown is that the answers come from the frames."""
_COSTS = """In nats a word, the same words in every column. Fine is how it is trained, autoregressive how it is used;
the gap is by how much the latter costs more, of the former."""
_GAP = """Over held-out videos of 8 frames or more; the aim is {aim}. Answers that are known almost for certain
cost next to nothing, and a small difference is then a large share. Over all videos, autoregressive costs {nats} nats a
word more than fine, in the mean of the seeds."""
_DETAIL = """What colour the mark is: the mark takes a twentieth of the frame. Intervals of a seed are over its samples,
that of the mean over the seeds, by Student's t; they are what they are, and nothing here asks that fine wins."""


def summary(report: Report, out: Path) -> str:
    """What is printed at the end."""
    lines = []
    for one in report["seeds"]:
        metrics = one["metrics"]
        costs = ", ".join(f"{words} {metrics[name]:.3f}" for name, words in COSTS.items() if name in metrics)
        lines.append(f"{'seed ' + str(one['seed']):<14} nats a word: {costs}")
        spelled = [
            f"{spell_percent(metrics[f'gain_{name}'])} below {words} ({metrics[f'gain_{name}_errors']:.1f} errors)"
            for name, words in BASELINES.items()
            if f"gain_{name}" in metrics
        ]
        lines.append(f"{'':<14} {', '.join([*spelled, f'gap {_gap(metrics)}'])}")
    lines.append(f"{'small detail':<14} {_spell_detail(report['detail'])}")
    passed = sum(check["passed"] for check in report["checks"])
    lines.append(f"{'checks':<14} {passed} of {len(report['checks'])} hold")
    lines.append(f"{'took':<14} {spell_seconds(report['seconds']['total'])}")
    lines.append(f"{'report':<14} {out / 'report.html'}")
    return "\n".join(lines).replace(PERCENT, " %")


def write_html(
    report: Report, looks: Sequence[Html], rows: Mapping[str, Sequence[Mapping[str, Any]]], path: Path
) -> None:
    """Write the page.

    Args:
        report: as in report.json.
        looks: pictures of some samples, by the first seed's model.
        rows: metrics of each run, by its name.
        path: of the page.
    """
    body: list[Html] = [
        tag("h1", "Reelshard demo: foveated VLM"),
        paragraph(_WHAT, class_="lead"),
        tiles(_tiles(report)),
        *_verdict(report),
        *_costs(report),
        *_detail(report),
        *looks,
        *_training(rows),
        *_time_and_data(report),
        *machine(report),
    ]
    write_page(path, "Reelshard demo: foveated VLM", *body)


def _tiles(report: Report) -> Iterator[tuple[str, str, list[str]]]:
    seeds = report["seeds"]
    for name, words in BASELINES.items():
        gains = [one["metrics"][f"gain_{name}"] for one in seeds if f"gain_{name}" in one["metrics"]]
        if gains:
            errors = min(one["metrics"][f"gain_{name}_errors"] for one in seeds)
            notes = ["least of the seeds", f"at least {errors:.1f} standard errors"]
            yield f"Answers cost less than with {words}", spell_percent(min(gains)), notes
    gaps = _gaps(report)
    if gaps:
        yield "Gap to frame by frame", spell_percent(max(gaps)), ["largest of the seeds", f"aim: {_spell_aim(gaps)}"]
    saved = report["detail"]["saved"]
    if saved is not None:
        yield "Small detail: fine below coarse", f"{saved:.2f}", ["nats a word, mean of the seeds"]
    yield "Took", spell_seconds(report["seconds"]["total"]), ["from nothing to this page"]


def _verdict(report: Report) -> Iterator[Html]:
    failed = [check for check in report["checks"] if not check["passed"]]
    count = len(report["checks"])
    if failed:
        lines = [tag("div", f"{check['what']}: {check['found']}") for check in failed]
        yield callout(tag("b", f"{len(failed)} of {count} things that have to be so are not"), *lines, kind="warn")
    else:
        yield callout(f"All {count} things that have to be so are so.", kind="good")
    rows = [[check["what"], check["found"], "yes" if check["passed"] else "no"] for check in report["checks"]]
    yield more("What has to be so", table(rows, head=["what", "found", "holds"]))


def _costs(report: Report) -> Iterator[Html]:
    yield heading("What answers cost")
    yield paragraph(_COSTS, class_="small")
    rows = []
    for one in report["seeds"]:
        metrics = one["metrics"]
        rows.append([f"seed {one['seed']}", *(_number(metrics.get(name)) for name in COSTS), _gap(metrics)])
    yield table(rows, head=["", *COSTS.values(), "gap"], numbers=range(1, len(COSTS) + 2))
    yield heading("By question", 3)
    yield paragraph("Mean of the seeds.", class_="small")
    yield table(list(_by_question(report)), head=["", *COSTS.values()], numbers=range(1, len(COSTS) + 1))
    yield heading("The gap", 3)
    apart = [
        one["metrics"]["ce_autoregressive"] - one["metrics"]["ce_coarse_fine"]
        for one in report["seeds"]
        if {"ce_autoregressive", "ce_coarse_fine"} <= set(one["metrics"])
    ]
    nats = f"{statistics.mean(apart):.4f}" if apart else "unknown"
    yield paragraph(_GAP.format(aim=_spell_aim(_gaps(report)), nats=nats), class_="small")


def _by_question(report: Report) -> Iterator[list[str]]:
    tables = [{row["source"]: row for row in one["tables"]["by_source"]} for one in report["seeds"]]
    for source in tables[0]:
        means = []
        for name in COSTS:
            values = [of[source][name] for of in tables if name in of[source]]
            means.append(_number(statistics.mean(values) if values else None))
        yield [source, *means]


def _detail(report: Report) -> Iterator[Html]:
    detail = report["detail"]
    yield heading("A small detail")
    yield paragraph(_DETAIL, class_="small")
    rows = [
        [f"seed {one['seed']}", _number(one["coarse"]), _number(one["fine"]), _number(one["saved"]), _ends(one)]
        for one in detail["seeds"]
    ]
    rows.append(["mean", "", "", _number(detail["saved"]), _ends(detail)])
    yield table(rows, head=["", "coarse", "fine", "fine is below by", "95 %"], numbers=range(1, 5))


def _training(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Html]:
    yield heading("Training")
    yield paragraph("All axes begin at zero. A point is the mean of the steps since the one before it.", class_="small")
    made = []
    for name, one in rows.items():
        lines = [
            Line(name=words, points=[(row["step"], row[metric]) for row in one if metric in row])
            for metric, words in (("loss", "all"), ("coarse_loss", "videos, coarse"), ("fine_loss", "videos, fine"))
        ]
        made.append(plot(f"{name}: loss", lines, x="step", y="nats a word"))
    yield figures(*made)


def _time_and_data(report: Report) -> Iterator[Html]:
    yield heading("Where the time went")
    total = report["seconds"]["total"]
    spent = [Share(name=name, value=s / total, note=spell_seconds(s)) for name, s in report["seconds"].items()]
    yield shares([share for share in spent if share.name != "total"])
    yield heading("Data")
    rows = [
        [name, f"{found['num_samples']:,}", spell_bytes(found["num_bytes"]), tag("code", found["digest"][:16])]
        for name, found in report["datasets"].items()
    ]
    yield table(rows, head=["set", "samples", "size", "digest"], numbers=(1, 2))


def _spell_detail(detail: Mapping[str, Any]) -> str:
    if detail["saved"] is None:
        return "not measured"
    ends = _ends(detail)
    return f"fine is {detail['saved']:.3f} nats a word below coarse" + (f" ({ends})" if ends else "")


def _ends(found: Mapping[str, Any]) -> str:
    interval = found["interval"]
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def _gaps(report: Report) -> list[float]:
    return [one["metrics"]["gap"] for one in report["seeds"] if "gap" in one["metrics"]]


def _spell_aim(gaps: Sequence[float]) -> str:
    """What the gap should be, and how many seeds miss that."""
    missed = sum(gap >= GAP_AIM for gap in gaps)
    return f"below {spell_percent(GAP_AIM)}, " + (f"missed by {missed} of {len(gaps)} seeds" if missed else "met")


def _gap(metrics: Mapping[str, float]) -> str:
    return spell_percent(metrics["gap"]) if "gap" in metrics else "unknown"


def _number(value: float | None) -> str:
    return "" if value is None else spell_number(value, 3)

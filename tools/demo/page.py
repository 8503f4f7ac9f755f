"""The demo's report: one HTML file that needs nothing else, and a few lines for the terminal."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from shards.dataset import ShardDataset
from shards.format.publish import publish_bytes
from shards.words import spell_bytes, spell_seconds
from tools.figures import draw_strip, load_sample
from tools.systems import system_of
from tools.systems.clips import ClipRecipe

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.bar { background: #2f6db3; height: .9rem; display: inline-block; vertical-align: middle; }
img { max-width: 100%; display: block; margin: .6rem 0; } code { background: #f2f2f2; padding: 0 .2rem; }
"""

_WHAT = """The demo made {num_train} training and {num_validation} validation videos (VP9 in WebM, annotated like
Something-Something v2). The class of a video is how its shapes move; colour, shape, size and place are drawn alike for
every class. A tiny VideoMAE learned the motions from labels on clips of its own, as the real teacher was finetuned on
Kinetics, and was then frozen: its tokens are the targets in the training shards. The student is given no label: it sees
{visible:.0%} of the tubes of a clip and predicts the teacher's tokens of the rest. What the teacher learned from its
labels can reach the student through those tokens alone. The probe is a linear classifier on the frozen student's
mean-pooled features, trained on the training split and scored on the validation split."""

_INTERVAL = """Mean and deviation are over the seeds of the classifier, the interval is 95 % for {count} held-out clips
(Wilson). Another processor rounds differently and so trains another student: a demo there may end some percent away."""


def summary(report: dict[str, Any], out: Path) -> str:
    """The report as a few lines for the terminal."""
    rates, train = report["rates"], report["train"]
    lines = [
        f"probe, top-1   {_spell_probe(report)}",
        f"loss           {train['first_loss']:.3f} -> {train['final_loss']:.3f} in {train['steps']} steps",
        f"read, clips/s  stock webdataset {rates['read, stock webdataset']:,.0f}, "
        f"reelshard {rates['read, whole samples']:,.0f}, with masks {rates['read, what the mask needs']:,.0f}",
        f"took           {spell_seconds(report['seconds']['total'])}",
        f"report         {out / 'report.html'}",
    ]
    return "\n".join(lines)


def _spell_probe(report: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.1%}" + (f" ({_spell_interval(interval)})" if interval else "")
        for name, value, _, interval in _accuracies(report)
    )


def _spell_loss(train: dict[str, Any]) -> str:
    return f"{train['steps']} steps, loss {train['first_loss']:.4f} to {train['final_loss']:.4f}"


def _accuracies(report: dict[str, Any]) -> list[tuple[str, float, float, tuple[float, float] | None]]:
    """What was scored: name, accuracy, deviation over the seeds, 95 % interval."""
    probe = report["probe"]
    return [
        *(
            (f"{which} student", found["top1"], found["top1_spread"], found["top1_interval"])
            for which, found in ((which, probe[which]) for which in ("trained", "untrained"))
        ),
        ("chance", probe["chance"], 0.0, None),
    ]


def write_html(report: dict[str, Any], out: Path, recipes: Mapping[str, ClipRecipe]) -> None:
    """Write `out/report.html`.

    Args:
        report: as in report.json.
        out: the demo's folder, with the training data set and the run.
        recipes: of the students, by name; "" is the one that was probed.
    """
    visible = 1 - recipes[""].objective.mask_ratio
    videos, teacher = report["videos"], report["teacher"]
    what = _WHAT.format(num_train=videos["num_train"], num_validation=videos["num_validation"], visible=visible)
    parts = [
        f"<h1>Reelshard demo</h1><p>{escape(what)}</p>",
        f"<p>The teacher's own accuracy on clips it has not seen: {teacher['top1']:.1%}.</p>",
        "<h2>Linear probe, top-1</h2>",
        _table(
            (
                (name, _percent(value, spread), _spell_interval(interval), _bar(value))
                for name, value, spread, interval in _accuracies(report)
            ),
            1,
            2,
        ),
        f"<p>{escape(_INTERVAL.format(count=report['probe']['trained']['num_val']))}</p>",
        "<h2>Training</h2>",
        *(part for name, recipe in recipes.items() for part in _training(name, recipe, report, out)),
        "<h2>Clips and targets</h2><p>One training clip of each class, and below it the first three principal "
        "components of the teacher's tokens as colours.</p>",
        *(_image(picture, "clip and targets") for picture in _strips(out / "train", videos["classes"])),
        "<h2>Rates</h2>",
        _table(((name, f"{rate:,.0f} clips/s") for name, rate in report["rates"].items()), 1),
        f"<p>{report['readback']['num_equal']} samples were read by stock webdataset and by Reelshard and were equal "
        "to the bit. Samples here are small, and their tubes too small for reading only some of them to pay; "
        "<code>reelshard bench</code> measures the reference size.</p>",
        "<h2>Data sets</h2>",
        _table(
            (
                (split, f"{s['num_samples']:,} clips", f"{spell_bytes(s['num_bytes'])}", escape(s["digest"][:16]))
                for split, s in report["datasets"].items()
            ),
            1,
            2,
        ),
        "<h2>Time</h2>",
        _table(((name, f"{seconds:.1f} s") for name, seconds in report["seconds"].items()), 1),
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Reelshard demo</title><style>{_STYLE}</style>"
    publish_bytes(out / "report.html", (head + "\n".join(parts) + "</html>\n").encode())


def _training(name: str, recipe: ClipRecipe, report: dict[str, Any], out: Path) -> list[str]:
    """How one student trained."""
    system = system_of(recipe)
    which = "on the same shards" if name else "the student of the probe"
    loss = _spell_loss(report[f"train_{name}" if name else "train"])
    return [
        f"<p>{escape(system.title)}, {which}: {loss} ({escape(system.loss)}).</p>",
        _image((out / (name or "run") / "curves.png").read_bytes(), f"training curves of {system.title}"),
    ]


def _strips(path: Path, templates: Sequence[str]) -> list[bytes]:
    """A picture of the first sample of each class."""
    dataset = ShardDataset.open(path)
    missing = {template.replace("[", "").replace("]", "") for template in templates}
    pictures = []
    for number in range(len(dataset)):
        name = dataset.metadata(number)["label_name"]
        if name in missing:
            missing.remove(name)
            pictures.append(draw_strip(load_sample(dataset, number)))
        if not missing:
            break
    return pictures


def _table(rows: Iterable[Sequence[str]], *number_columns: int) -> str:
    """An HTML table; the cells are HTML already."""
    lines = []
    for row in rows:
        kinds = (' class="number"' if column in number_columns else "" for column in range(len(row)))
        lines.append(
            "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        )
    return "<table>" + "".join(lines) + "</table>"


def _bar(share: float) -> str:
    return f'<span class="bar" style="width: {20 * share:.2f}rem"></span>'


def _spell_interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else ""


def _percent(value: float, spread: float) -> str:
    return f"{value:.1%}" + (f" ± {spread:.1%}" if spread else "")


def _image(png: bytes, description: str) -> str:
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'

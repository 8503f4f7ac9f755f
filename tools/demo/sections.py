"""The sections of the demo's report, in the order in which they stand there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shards.words import spell_bytes, spell_seconds
from tools.demo.pictures import colours_of, strips_of
from tools.demo.student import Guess
from tools.pages.elements import (
    Share,
    callout,
    confusion,
    facts,
    figures,
    heading,
    more,
    paragraph,
    picture,
    shares,
    spell_number,
    spell_percent,
    strips,
    table,
)
from tools.pages.html import Html, join, tag
from tools.pages.metrics import compare, spell_metric, spell_metric_interval, title_of
from tools.pages.plots import Line, plot

if TYPE_CHECKING:
    from tools.demo.page import Course

Report = Mapping[str, Any]

_INTERVALS = """Whiskers and small numbers are 95 % intervals for the number of held-out clips, {count}: other clips of
the same kind would move the numbers as far. Another processor rounds differently and so trains another student, whose
numbers may lie some percent away."""
_EYES = """The first held-out clip of each class, not the best ones. One set of colours for everything: the first three
principal components of the teacher's tokens of these clips, as red, green and blue; where teacher and student have the
same colour, the student is right. The teacher's tokens are faint where the student was shown the clip, and is asked
nothing. Each frame stands for {frames} frames of the clip."""
_OTHER_CURVES = (
    ("grad_norm", "gradient norm before clipping", "norm"),
    ("clips_per_second", "speed", "clips/s"),
)
_SPEAKERS = {"trained": "the trained student", "untrained": "the untrained student", "mean": "the mean token"}


def verdicts(report: Report) -> Iterator[Html]:
    """Whether the student beats what it began as, by each evaluation."""
    sentences: dict[bool, list[Html]] = {True: [], False: []}
    for found in report["evaluations"].values():
        trained, untrained = (_share(found, which) for which in ("trained", "untrained"))
        better, sentence = compare(trained, untrained)
        sentences[better].append(join(tag("b", found["title"]), f": {sentence}"))
    for better, lines in sentences.items():
        if lines:
            yield callout(*(tag("div", line) for line in lines), kind="good" if better else "warn")


def _share(found: Report, which: str) -> Share:
    result, metric = found["results"][which], found["metric"]
    interval = result["intervals"].get(metric)
    return Share(
        name=f"the {which} student",
        value=result["metrics"][metric],
        interval=tuple(interval) if interval else None,
        plain=which != "trained",
    )


def evaluations(report: Report) -> Iterator[Html]:
    """Every evaluation, trained beside untrained; the confusions of the probe."""
    yield heading("What the student has learned")
    for found in report["evaluations"].values():
        trained = found["results"]["trained"]
        yield heading(found["title"], 3)
        chance = trained["metrics"]["chance"]
        yield paragraph(found["about"], f" The dashed line is chance, {spell_percent(chance)}.", class_="small")
        yield shares([_share(found, which) for which in found["results"]], chance=chance)
        if len(found["metrics"]) > 1:
            yield _numbers(found)
    count = report["datasets"]["validation"]["num_samples"]
    yield paragraph(_INTERVALS.format(count=count), class_="small faint")
    yield from _confusions(report["evaluations"]["probe"])


def _numbers(found: Report) -> Html:
    rows = []
    for metric in found["metrics"]:
        cells: list[str] = [title_of(metric)]
        for result in found["results"].values():
            spelled = spell_metric(metric, result["metrics"][metric])
            interval = result["intervals"].get(metric)
            below = tag("small", spell_metric_interval(metric, tuple(interval))) if interval else Html("")
            cells.append(join(spelled, tag("br"), below) if interval else spelled)
        rows.append(cells)
    return table(rows, head=["", *found["results"]], numbers=range(1, 1 + len(found["results"])))


def _confusions(found: Report) -> Iterator[Html]:
    yield tag("h3", "What is taken for what")
    yield paragraph(
        "In per cent of the held-out clips of a class. The classes come in pairs of opposite motions, which hold the "
        "same frames in opposite order: taking one for the other is not knowing the arrow of time.",
        class_="small",
    )
    made = []
    for which, result in found["results"].items():
        rows = result["tables"]["confusion"]
        classes = [row["class"] for row in rows]
        counts = [[row["predicted"].get(other, 0) for other in classes] for row in rows]
        made.append(tag("figure", tag("figcaption", f"{which} student, linear probe"), confusion(classes, counts)))
    yield figures(*made)


def student(report: Report, guesses: Sequence[Guess]) -> Iterator[Html]:
    """What the student sees of a few held-out clips, and what it says of the rest."""
    yield heading("What the student sees, and what it says")
    colours = colours_of(guesses)
    sample = guesses[0].sample
    yield paragraph(_EYES.format(frames=len(sample.clip) // len(guesses[0].hidden)))
    names = zip(("red", "green", "blue"), colours.shares, strict=False)
    yield tag(
        "div",
        *(
            tag(
                "span",
                tag("span", class_="key", style=f"background: {name}"),
                f"{name}: {100 * share:.0f} % of the variance",
            )
            for name, share in names
        ),
        tag("span", tag("span", class_="key", style="background: #969ea8"), "grey: hidden from the student"),
        class_="legend",
    )
    yield figures(*(_eye(guess, strips_of(guess, colours)) for guess in guesses), narrow=True)
    yield tag("h3", "Over all held-out clips")
    yield paragraph(
        "What is said of the hidden tokens beside what the teacher says: the mean cosine, and the loss that the "
        "student was trained on. Always saying the mean of the training clips at each place is what to beat.",
        class_="small",
    )
    yield figures(*(_held_out(found) for found in report["held_out"].values()))


def _eye(guess: Guess, rows: Mapping[str, bytes]) -> Html:
    names = {"clip": "the clip", "seen": "seen", "teacher": "teacher", "student": "student"}
    title = guess.sample.title.rpartition(" · ")[2]
    about = f"{title}, clip {guess.sample.key}"
    cosine = {name: spell_number(value) for name, value in guess.cosine.items()}
    below = f"cosine {cosine['trained']}; the mean token's {cosine['mean']}"
    return tag(
        "figure",
        tag("figcaption", tag("b", title)),
        strips((names[name], picture(png, f"{names[name]}: {about}", cells=True)) for name, png in rows.items()),
        tag("figcaption", below),
    )


def _held_out(found: Report) -> Html:
    rows = [
        [words, spell_number(found["cosine"][name], 3), spell_number(found["loss"][name], 3)]
        for name, words in _SPEAKERS.items()
    ]
    caption = tag("figcaption", tag("b", found["title"]), f" (loss: {found['about']})")
    return tag("figure", caption, table(rows, head=["", "cosine", "loss"], numbers=(1, 2)))


def training(report: Report, courses: Mapping[str, Course]) -> Iterator[Html]:
    """How the students trained, on axes that begin at zero."""
    yield heading("Training")
    yield paragraph("All axes begin at zero. A point is the mean of the steps since the one before it.", class_="small")
    losses, others = [], []
    for name, course in courses.items():
        held_out = report["held_out"][name]["loss"]
        points = [(row["step"], row["loss"]) for row in course.rows]
        lines = [
            Line(name="training clips", points=points),
            Line(name="held-out clips", level=held_out["trained"]),
            Line(name="the mean token", level=held_out["mean"]),
        ]
        caption = f"{course.loss[0].upper()}{course.loss[1:]}. Dashed: the trained student on held-out clips, and what "
        caption += "always saying the mean of the training clips gives there."
        losses.append(plot(f"{course.title}: loss", lines, x="step", y="loss", caption=caption))
        others += [
            plot(f"{course.title}: {title}", [Line(name=title, points=points)], x="step", y=unit)
            for metric, title, unit in _OTHER_CURVES
            if (points := [(row["step"], row[metric]) for row in course.rows if metric in row])
        ]
    yield figures(*losses)
    yield more("Gradient norms and speed", figures(*others))


def speed(report: Report) -> Iterator[Html]:
    """Rates, and where the time went."""
    yield heading("Speed")
    rates = [(name, f"{rate:,.0f} clips/s") for name, rate in report["rates"].items()]
    yield table(rates, head=["what", "rate"], numbers=(1,))
    yield paragraph(
        f"{report['readback']['num_equal']} samples were read by stock webdataset and by Reelshard and were equal to "
        "the bit. Samples here are small, and their tubes too small for reading only some of them to pay; ",
        tag("code", "reelshard bench"),
        " measures the reference size.",
        class_="small",
    )
    total = report["seconds"]["total"]
    spent = [Share(name=name, value=s / total, note=spell_seconds(s)) for name, s in report["seconds"].items()]
    yield tag("h3", "Where the time went")
    yield shares([share for share in spent if share.name != "total"])


def data_sets(report: Report) -> Iterator[Html]:
    """What was built, and of what."""
    yield heading("Data")
    rows = [
        [split, f"{found['num_samples']:,}", spell_bytes(found["num_bytes"]), tag("code", found["digest"][:16])]
        for split, found in report["datasets"].items()
    ]
    yield table(rows, head=["split", "clips", "size", "digest"], numbers=(1, 2))
    teacher = report["teacher"]
    yield paragraph(
        "VP9 in WebM, annotated like Something-Something v2. The teacher is a tiny VideoMAE that learned the motions "
        f"from labels on {teacher['num_clips']:,} clips of its own, as the real one was finetuned on Kinetics, and was "
        f"then frozen; on clips it has not seen it tells {spell_percent(teacher['top1'])} of the motions.",
        class_="small",
    )


def machine(report: Report) -> Iterator[Html]:
    """Machine, date and versions."""
    yield heading("Made with")
    made = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    entries = {"machine": made["what"], "CPUs": str(made["cpus"]), "torch threads": str(made["threads"])}
    entries |= {"date": made["date"], "versions": versions}
    if made["revision"]:
        entries["revision"] = made["revision"]
    yield facts(entries.items())

"""The page of evaluations: their numbers beside each other, and all that is needed to cite them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.result import Result
from tools.pages.elements import (
    Share,
    callout,
    confusion,
    facts,
    heading,
    more,
    paragraph,
    shares,
    spell_percent,
    table,
)
from tools.pages.html import Html, join, tag, write_page
from tools.pages.metrics import compare, is_share, spell_metric, spell_metric_interval, title_of
from tools.revision import git_revision, package_versions

UNTRAINED = "untrained"
CHANCE = "chance"
LARGEST_CONFUSION = 30  # classes; more do not fit a page, and are in the JSON


@dataclass(frozen=True, kw_only=True)
class Published:
    """A number that others have published, and that nobody here has measured.

    Attributes:
        name: of the model.
        metrics: by the names that results use; shares as fractions.
        protocol: how it was measured, in words.
        source: who says so, such as `arXiv 2203.12602`.
    """

    name: str
    metrics: Mapping[str, float]
    protocol: str
    source: str


def write_result_page(
    path: Path,
    title: str,
    results: Mapping[str, Result],
    published: Sequence[Published] = (),
    exhibits: Sequence[Html] = (),
) -> None:
    """Write one HTML file that shows evaluations beside each other.

    Args:
        path: of the file.
        title: of the page.
        results: by what was measured, the first one being what the page is about; one that is called "untrained" is
            what it has to beat.
        published: numbers of others to stand beside them, marked as such.
        exhibits: what is shown of some samples, behind the numbers.

    Raises:
        ValueError: There is no result.
    """
    if not results:
        raise ValueError("there is no result to show; give at least one")
    names = _metric_names(results)
    parts = [
        tag("h1", title),
        paragraph(_first_line(results), class_="lead"),
        *_verdict(results, names),
        *_bars(results, published, names),
        heading("Numbers"),
        _numbers(results, published, names),
        paragraph("Below a number stands its 95 % interval, where there is one.", class_="small faint"),
        *(part for name, result in results.items() for part in _classes(name, result)),
        *exhibits,
        heading("How this was measured"),
        *_protocols(results),
        *_published_sources(published),
        heading("To cite"),
        *(tag("p", citation(name, result), class_="code") for name, result in results.items()),
        heading("Made with"),
        facts(made_with().items()),
    ]
    write_page(path, title, *parts)


def citation(name: str, result: Result) -> str:
    """A result in one paragraph that says all that decides its numbers."""
    chosen = [metric for metric in result.metrics if metric in result.intervals] or list(result.metrics)[:4]
    numbers = ", ".join(f"{title_of(metric)} {_with_interval(metric, result)}" for metric in chosen)
    protocol = "; ".join(f"{key} {_plain(value)}" for key, value in result.protocol.items())
    digests = ", ".join(f"{role} {digest}" for role, digest in result.digests.items())
    seed = f"; seed {result.seed}" if result.seed is not None and "seed" not in result.protocol else ""
    version = package_versions(("reelshard",))["reelshard"]
    return f"{name}: {numbers}. Protocol: {protocol}{seed}. Digests: {digests}. Measured with reelshard {version}."


def made_with() -> dict[str, str]:
    """Date, revision and versions, for the foot of a page."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    revision = git_revision()
    return {"date": now, "versions": versions} | ({"revision": revision} if revision else {})


def _metric_names(results: Mapping[str, Result]) -> list[str]:
    """All metrics but chance, in the order in which they come; ends of intervals stand with what they are of."""
    names = dict.fromkeys(name for result in results.values() for name in result.metrics)
    ends = {f"{name}_{end}" for name in names for end in ("low", "high")}
    return [name for name in names if name != CHANCE and name not in ends]


def _first_line(results: Mapping[str, Result]) -> str:
    first = next(iter(results.values())).protocol
    counts = [f"{first[key]:,} {word}" for key, word in _COUNTS.items() if isinstance(first.get(key), int)]
    return ", ".join([str(first.get("evaluator", "an evaluation")), *counts]) + "."


_COUNTS = {"num_classes": "classes", "num_train": "samples to train on", "num_val": "held-out samples"}


def _verdict(results: Mapping[str, Result], names: Sequence[str]) -> list[Html]:
    first = next(iter(results))
    if first == UNTRAINED or UNTRAINED not in results:
        return []
    metric = next((name for name in names if all(name in results[each].metrics for each in (first, UNTRAINED))), "")
    if not metric or not is_share(metric):
        return []
    ours, other = results[first], results[UNTRAINED]
    better, sentence = compare(
        Share(name=first, value=ours.metrics[metric], interval=ours.intervals.get(metric)),
        Share(
            name="the same encoder with fresh weights",
            value=other.metrics[metric],
            interval=other.intervals.get(metric),
        ),
    )
    return [callout(f"{title_of(metric)}: {sentence}", kind="good" if better else "warn")]


def _bars(results: Mapping[str, Result], published: Sequence[Published], names: Sequence[str]) -> list[Html]:
    """The first metric as bars."""
    metric = next((name for name in names if is_share(name)), None)
    if metric is None:
        return []
    first = next(iter(results))
    entries = [
        Share(name=name, value=result.metrics[metric], interval=result.intervals.get(metric), plain=name != first)
        for name, result in results.items()
        if metric in result.metrics
    ]
    entries += [
        Share(name=row.name, value=row.metrics[metric], note="published", plain=True)
        for row in published
        if metric in row.metrics
    ]
    chance = results[first].metrics.get(CHANCE)
    legend = "" if chance is None else f" The dashed line is chance, {spell_percent(chance)}."
    return [
        heading(title_of(metric)),
        shares(entries, chance=chance),
        paragraph(f"Whiskers are 95 % intervals.{legend}", class_="small faint"),
    ]


def _numbers(results: Mapping[str, Result], published: Sequence[Published], names: Sequence[str]) -> Html:
    rows: list[list[str]] = []
    for name, result in results.items():
        rows.append([name, *(_cell(metric, result) for metric in names)])
    marks = {len(rows) + number: "published" for number in range(len(published))}
    for row in published:
        called = join(row.name, " ", tag("span", "published", class_="badge"))
        rows.append([called, *(spell_metric(name, row.metrics[name]) if name in row.metrics else "" for name in names)])
    head = ["", *(title_of(name) for name in names)]
    return table(rows, head=head, numbers=range(1, len(head)), row_classes=marks)


def _cell(metric: str, result: Result) -> str:
    if metric not in result.metrics:
        return ""
    spelled = spell_metric(metric, result.metrics[metric])
    if metric not in result.intervals:
        return spelled
    return join(spelled, tag("br"), tag("small", spell_metric_interval(metric, result.intervals[metric])))


def _with_interval(metric: str, result: Result) -> str:
    spelled = spell_metric(metric, result.metrics[metric])
    if metric not in result.intervals:
        return spelled
    return f"{spelled} [{spell_metric_interval(metric, result.intervals[metric])}]"


def _classes(name: str, result: Result) -> list[Html]:
    """The tables of one result."""
    parts = []
    found = result.tables.get("confusion")
    if found:
        classes = [str(row["class"]) for row in found]
        if len(classes) <= LARGEST_CONFUSION:
            counts = [[row["predicted"].get(other, 0) for other in classes] for row in found]
            note = "In per cent of the samples of a class; columns bear the classes' numbers."
            parts += [heading(f"Confusions: {name}"), confusion(classes, counts), paragraph(note, class_="small faint")]
        else:
            parts.append(paragraph(f"{name}: {len(classes)} classes; their confusions are in the JSON file."))
    for table_name, rows in result.tables.items():
        if table_name != "confusion" and rows:
            parts.append(more(f"{name}: {title_of(table_name)}", _plain_table(rows)))
    return parts


def _plain_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell_of_table(column, row.get(column)) for column in columns] for row in rows]
    return table(cells, head=[title_of(column) for column in columns], numbers=range(1, len(columns)))


def _cell_of_table(column: str, value: Any) -> str:
    if isinstance(value, float):
        return spell_metric(column, value) if is_share(column) else f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return spell_metric_interval(column, (value[0], value[1]))
    return _plain(value)


def _protocols(results: Mapping[str, Result]) -> list[Html]:
    """What all results share, and then what differs between them."""
    records = {
        name: {**result.protocol, "seed": result.protocol.get("seed", result.seed)}
        | {f"digest of {role}": digest for role, digest in result.digests.items()}
        for name, result in results.items()
    }
    keys = dict.fromkeys(key for record in records.values() for key in record)
    spelled = {key: {name: _plain(record.get(key)) for name, record in records.items()} for key in keys}
    shared = [(key, next(iter(values.values()))) for key, values in spelled.items() if len(set(values.values())) == 1]
    parts: list[Html] = [facts((key, value) for key, value in shared if value)]
    different = [[key, *values.values()] for key, values in spelled.items() if len(set(values.values())) > 1]
    if different:
        parts.append(tag("h3", "What differs between them"))
        parts += [
            join(tag("h3", name), facts((row[0], row[number] or "-") for row in different))
            for number, name in enumerate(records, start=1)
        ]
    return parts


def _published_sources(published: Sequence[Published]) -> list[Html]:
    if not published:
        return []
    return [
        tag("h3", "Published numbers"),
        paragraph("Others have measured these, by protocols of their own; nobody here has run them."),
        table([[row.name, row.protocol, row.source] for row in published], head=["", "protocol", "source"]),
    ]


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

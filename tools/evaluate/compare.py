"""`reelshard evaluate compare`: results of several commands in one table, with published numbers beside them.

reelshard evaluate compare reports/first reports/base/probe.json --published ssv2 --out reports/both
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.evaluate.common import add_result_arguments

if TYPE_CHECKING:
    from evaluation.published import PublishedNumber
    from evaluation.result import Result

HELP = "put results in one table, beside published numbers"
TASKS = ("ssv2", "ucf101", "msrvtt")
NUM_CLASSES = {"ssv2": 174, "ucf101": 101}
FIRST = ("trained", "untrained", "pixels")  # in this order they stand, others behind them

OFFICIAL_RESULTS = "_results.json"  # what models have said, beside what it scored

_DESCRIPTION = """Compare results that other evaluations wrote with --out. They have to be of one evaluation and one
view, and scored on the same data. --published adds numbers of others, marked as such."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.set_defaults(name="compare")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="a NAME.json, or a folder with one")
    parser.add_argument("--published", choices=TASKS, help="numbers of others to stand beside them")
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from evaluation.published import published_of
    from pipeline.world import World
    from tools.evaluate.common import publish
    from tools.pages.results import Published, citation

    if args.overrides:
        raise ValueError(f"{args.overrides[0]} has no effect: results are compared as they are")
    results = read_results([file for path in args.results for file in _files(path)])
    refuse_incomparable(results)
    others = [] if args.published is None else published_of(args.published)
    lines = [
        *_table(results, others),
        *_warning(args.published, results),
        *(citation(name, result) for name, result in results.items()),
    ]
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]  # pages need them, terminals do not
    page = [Published(name=o.model, metrics=o.metrics, protocol=o.protocol, source=o.source) for o in others]
    rows = [{"task": o.task, "model": o.model, **dict(o.metrics), "source": o.source} for o in others]
    publish(args, World(), results, title="Results compared", lines=lines, more={"published": rows}, published=page)
    return 0


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    others = ("compare.json", "run.json")
    found = [
        file
        for file in sorted(path.glob("*.json"))
        if file.name not in others and not file.name.endswith(OFFICIAL_RESULTS)
    ]
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} files NAME.json; name the one that is meant")
    return found


def read_results(files: Sequence[Path]) -> dict[str, Result]:
    """Read results by what they are called, with the folder or file in front where several files are read.

    Raises:
        ValueError: a file is not there, holds no results, or is given twice.
    """
    from evaluation.result import Result

    found: dict[str, Result] = {}
    for file in files:
        try:
            record: Any = json.loads(file.read_bytes())
            parts = {str(name): Result.from_json(result) for name, result in record["results"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"{file} holds no results of an evaluation ({reason}); give what --out wrote") from None
        for name in sorted(parts, key=_place):
            called = name if len(files) == 1 else f"{file.parent.name or file.stem}: {name}"
            if called in found:
                called = f"{file}: {name}"
            if called in found:
                raise ValueError(f"{file} is given twice")
            found[called] = parts[name]
    return found


def _place(name: str) -> tuple[int, str]:
    """JSON files keep no order: the encoder stands first, then what stands beside it."""
    kind = name.partition(",")[0]
    return FIRST.index(kind) if kind in FIRST else len(FIRST), name


def refuse_incomparable(results: Mapping[str, Result]) -> None:
    """Compare what the results are of.

    Raises:
        ValueError: they are of different evaluations, views or held-out data; both are named.
    """
    looks = {
        "the view": lambda result: result.digests.get("view"),
        "what was measured": lambda result: result.protocol.get("evaluator"),
        "the data that was scored on": _scored_on,
    }
    for what, look in looks.items():
        known = {name: found for name, result in results.items() if (found := look(result)) is not None}
        first = next(iter(known), "")
        for name, found in known.items():
            if found != known[first]:
                raise ValueError(
                    f"{what} differs: {first} has {str(known[first])[:40]}, {name} has {str(found)[:40]}; their "
                    "numbers cannot be compared"
                )


def _scored_on(result: Result) -> str | None:
    """The digests of all data but that which was trained on, and of what a model said."""
    found = {
        role: digest for role, digest in result.digests.items() if role not in ("train", "model", "view", "results")
    }
    return json.dumps(found, sort_keys=True) if found else None


def _table(results: Mapping[str, Result], others: Sequence[PublishedNumber]) -> list[str]:
    from tools.pages.metrics import spell_metric, spell_metric_interval, title_of

    first = next(iter(results.values()))
    metrics = [name for name in first.metrics if name in first.intervals] or list(first.metrics)[:4]
    metrics.sort(key=lambda name: (name != "top1", name))
    head = ["", *(title_of(name) for name in metrics)]
    rows = []
    for name, result in results.items():
        cells = []
        for metric in metrics:
            cell = spell_metric(metric, result.metrics[metric]) if metric in result.metrics else ""
            if metric in result.intervals:
                cell += f" [{spell_metric_interval(metric, result.intervals[metric])}]"
            cells.append(cell)
        rows.append([name, *cells])
    for other in others:
        cells = [spell_metric(metric, other.metrics[metric]) if metric in other.metrics else "" for metric in metrics]
        rows.append([f"{other.model} (published)", *cells])
    rows = [[cell.replace("\u00a0", " ") for cell in row] for row in rows]  # pages keep a number with its sign
    columns = [[row[place] for row in [head, *rows]] for place in range(len(head))]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return [*lines, *(f"published: {other.model}, {other.protocol} ({other.source})" for other in others)]


def _warning(task: str | None, results: Mapping[str, Result]) -> list[str]:
    """What makes published numbers of a task no measure of these results."""
    wanted = NUM_CLASSES.get(task or "")
    there = next(iter(results.values())).protocol.get("num_classes")
    if wanted is None or there is None or there == wanted:
        return []
    return [f"note: these results are of {there} classes, {task} has {wanted}: the published numbers are of other data"]

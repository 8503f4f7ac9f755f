"""What was measured, as tables, arithmetic and a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.order.draws import TubeMask
from pipeline.read.gather import COMPILED, NO_LIBRARY
from shards.dataset import ShardDataset

STORAGE_GB_PER_SECOND = (3.5, 7.0, 14.0, 28.0)


def bytes_per_clip(dataset: ShardDataset, mask_ratio: float | None) -> int:
    """Bytes of clip and target that reach a batch."""
    clip, target = dataset.schema["clip"], dataset.schema["target"]
    if mask_ratio is None:
        return clip.num_bytes + target.num_bytes
    mask = TubeMask(num_positions=clip.num_positions, ratio=mask_ratio)
    kept = mask.num_visible * clip.num_bytes + mask.num_masked * target.num_bytes
    return kept // clip.num_positions


def print_report(results: dict[str, Any], dataset: ShardDataset) -> None:
    """Rates, ratios, ceilings, where time goes, and what it means for a node."""
    console = Console()
    ours = next(result for name, result in results["contenders"].items() if name.startswith("reelshard"))
    table = Table("contender", "clips/s", "reelshard is", "start, s", "own process, MB", title=results["command"])
    for name, result in sorted(results["contenders"].items(), key=lambda item: -item[1]["rate"]):
        ratio = ours["rate"] / result["rate"] if result["rate"] else float("inf")
        row = (f"{result['rate']:,.0f}", f"{ratio:.2f} x", f"{result['startup_seconds']:.2f}")
        table.add_row(name, *row, f"{result['memory_bytes'] / 1e6:,.0f}")
    console.print(table)
    for name, why in results["skipped"].items():
        console.print(f"{name} was not measured: {why}", markup=False)
    size, whole = bytes_per_clip(dataset, results["mask_ratio"]), bytes_per_clip(dataset, None)
    _print_ceilings(console, results, ours, size, whole)
    _print_time(console, ours)
    _print_ranks(console, results, size)
    _print_limits(console, results)
    _print_nodes(console, whole)
    console.print(f"measured on {results['machine']}", markup=False)


def _print_ceilings(console: Console, results: dict[str, Any], ours: dict[str, Any], size: int, whole: int) -> None:
    achieved = ours["rate"] * size
    copy = results["copy_clips_per_second"] * size
    console.print(f"achieved: {ours['rate']:,.0f} clips/s x {size:,} B = {achieved / 1e9:.2f} GB/s into batches")
    console.print(f"memory copy by the same threads: {copy / 1e9:.2f} GB/s, so {achieved / copy:.0%} of that ceiling")
    if "storage_bytes_per_second" in results:
        storage = results["storage_bytes_per_second"]
        read = ours["rate"] * whole
        console.print(
            f"storage: {storage / 1e9:.2f} GB/s raw ({results['storage_way']}); the loader reads "
            f"{read / 1e9:.2f} GB/s, {read / storage:.0%} of it"
        )


def _print_time(console: Console, ours: dict[str, Any]) -> None:
    stats = ours["stats"]
    count = max(stats["num_samples"], 1)
    parts = [
        f"{label} {stats[f'{name}_seconds'] / count * 1e6:.0f} us"
        for name, label in (
            ("read", "threads reading and copying"),
            ("plan", "planning"),
            ("wait", "consumer waiting"),
            ("consumer", "consumer busy"),
        )
    ]
    console.print(f"time per clip, added up over threads: {', '.join(parts)}; reader: {stats['reader']}")
    if not COMPILED:
        console.print(f"copies were made by numpy: {NO_LIBRARY}")


def _print_ranks(console: Console, results: dict[str, Any], size: int) -> None:
    if "ranks" not in results:
        return
    rates = [rank["rate"] for rank in results["ranks"]]
    console.print(
        f"{len(rates)} ranks at once: {sum(rates):,.0f} clips/s in all ({sum(rates) * size / 1e9:.2f} GB/s), "
        f"slowest rank {min(rates):,.0f}, fastest {max(rates):,.0f}, fairness {min(rates) / max(rates):.2f}"
    )


def _print_limits(console: Console, results: dict[str, Any]) -> None:
    if "limits" not in results:
        return
    limits = results["limits"]
    console.print(
        f"interpreter: {limits['python_seconds_per_clip'] * 1e6:.1f} us per clip; first batch of {limits['samples']:,} "
        f"samples in {limits['shards']:,} shards after {limits['first_batch_seconds']:.2f} s, "
        f"{limits['sidecars_read']} sidecars read; state_dict {limits['state_seconds'] * 1e6:.0f} us, "
        f"{limits['state_bytes']} bytes"
    )


def _print_nodes(console: Console, size: int) -> None:
    table = Table(
        "storage", "clips/s in all", "per GPU of 8", title=f"what storage feeds, at {size / 1e6:.2f} MB a clip"
    )
    for rate in STORAGE_GB_PER_SECOND:
        clips = rate * 1e9 / size
        table.add_row(f"{rate:g} GB/s", f"{rate:g}e9 / {size:,} = {clips:,.0f}", f"{clips / 8:,.0f}")
    console.print(table)


def draw(results: dict[str, Any], path: Path) -> None:
    """A bar chart of clips per second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(results["contenders"].items(), key=lambda item: item[1]["rate"])
    figure = Figure(figsize=(8, 0.6 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = ["#d1495b" if name.startswith("reelshard") else "#8d99ae" for name, _ in rows]
    bars = axes.barh([name for name, _ in rows], [result["rate"] for _, result in rows], color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_xlabel("clips per second")
    what = "whole samples" if results["mask_ratio"] is None else f"tube mask {results['mask_ratio']:g}"
    axes.set_title(f"{what}, on {results['machine']}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=150)

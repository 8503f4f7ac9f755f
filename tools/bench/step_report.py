"""What `reelshard bench --train` found, for people: a table, the roofline, the bottleneck and the key to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tools.bench.roofline import Kind
from tools.bench.step_rate import VARIANTS, StepRate
from tools.systems import system_of

if TYPE_CHECKING:
    from tools.systems.base import Recipe

WIDTH = 110  # of the tables, whatever the terminal's
DATA_WAIT = 0.05  # shares of a step above which something is in the way
OPTIMISER = 0.25
LAUNCHES = 3.0  # times the roofline, from where the device waits for the host rather than for itself
STAGES = ("data", "forward", "backward", "optimizer", "other")


def print_rates(recipe: Recipe, rates: Sequence[StepRate], machine: str) -> None:
    """Print all of it."""
    console = Console(width=max(Console().width, WIDTH))
    console.print(f"{system_of(recipe).title} trains on {rates[0].device}; {machine}", highlight=False)
    console.print(_speeds(rates))
    console.print(_stages(rates))
    for line in report_lines(rates):
        console.print(line, highlight=False, soft_wrap=True)


def report_lines(rates: Sequence[StepRate]) -> list[str]:
    """What follows from the numbers, of the fastest measurement."""
    best = max(rates, key=lambda rate: rate.clips_per_second)
    short = [
        f"{_name(rate)}: {rate.batch_size} at once do not fit into memory; --train.chunk_size {rate.chunk_size} does, "
        "and was measured"
        for rate in rates
        if rate.out_of_memory
    ]
    what, advice = bottleneck(best)
    return [
        *short,
        *roofline_lines(best),
        f"bottleneck of {_name(best)}, the fastest: {what}. {advice}",
        *_gain(rates, best),
    ]


def _gain(rates: Sequence[StepRate], best: StepRate) -> Iterator[str]:
    """By how much the fastest is ahead of the recipe, and how to have it."""
    for rate in rates:
        if rate.variant == "recipe" and rate is not best and rate.batch_size == best.batch_size:
            gain = best.clips_per_second / rate.clips_per_second
            flags = " ".join(f"--train.{key} {value}" for key, value in VARIANTS[best.variant].train.items())
            yield f"{_name(best)} is {gain:.2f} times as fast as the recipe{f': {flags}' if flags else ''}"


def _name(rate: StepRate) -> str:
    return f"{rate.variant} at {rate.batch_size}"


def _speeds(rates: Sequence[StepRate]) -> Table:
    memory = [f"{name.removesuffix('_gib').removeprefix('gpu_')}, GiB" for name in rates[0].memory_gib]
    table = Table("variant", "batch", "precision", "compiled", "clips/s", "data wait", "MFU", *memory)
    for rate in rates:
        table.add_row(
            rate.variant,
            str(rate.batch_size) + (f" / {rate.chunk_size}" if rate.chunk_size < rate.batch_size else ""),
            rate.precision,
            rate.compiled or "no",
            f"{rate.clips_per_second:,.1f}",
            f"{rate.data_wait_share:.1%}",
            f"{rate.mfu:.1%}",
            *(f"{gib:.2f}" for gib in rate.memory_gib.values()),
        )
    return table


def _stages(rates: Sequence[StepRate]) -> Table:
    table = Table("variant", "batch", *STAGES, "step", "copy beside it", title="milliseconds of a step, by stage")
    for rate in rates:
        copy = "none"
        if rate.copy_seconds is not None and rate.copy_bytes_per_second is not None:
            copy = f"{1e3 * rate.copy_seconds:.1f}, {rate.copy_bytes_per_second / 1e9:.1f} GB/s"
            copy += "" if rate.link_bytes_per_second is None else f", {_share(rate):.0%} of the link"
        stages = (f"{1e3 * rate.seconds[stage]:.1f}" for stage in (*STAGES, "step"))
        table.add_row(rate.variant, str(rate.batch_size), *stages, copy)
    return table


def _share(rate: StepRate) -> float:
    return (rate.copy_bytes_per_second or 0.0) / (rate.link_bytes_per_second or 1.0)


def roofline_lines(rate: StepRate) -> list[str]:
    """The work of a step against the peaks."""
    least, peaks, work = rate.work.least_seconds(rate.peaks), rate.peaks, rate.work
    lines = [
        f"roofline of {_name(rate)}: {peaks.flops_per_second / 1e12:,.2f} TFLOP/s and "
        f"{peaks.bytes_per_second / 1e9:,.0f} GB/s ({peaks.source}); a step takes {1e3 * rate.seconds['step']:.1f} ms, "
        f"and no less than {1e3 * sum(least.values()):.1f} ms operation by operation"
    ]
    for kind, seconds in least.items():
        flops, num_bytes = work.flops.get(kind, 0.0), work.num_bytes[kind]
        bound = "arithmetic" if flops / peaks.flops_per_second >= seconds else "traffic"
        lines.append(
            f"  {kind:<10} {flops / 1e9:12,.1f} GFLOP {num_bytes / 1e9:8,.2f} GB {1e3 * seconds:9.2f} ms, {bound}"
        )
    return lines


def bottleneck(rate: StepRate) -> tuple[str, str]:
    """What a step waits for most, and the key of the recipe that changes it."""
    step, least = rate.seconds["step"], rate.work.least_seconds(rate.peaks)
    if rate.data_wait_share > DATA_WAIT:
        share = f"batches: {rate.data_wait_share:.0%} of the time nothing is there to train on"
        return share, "Raise data.threads; `reelshard bench DATASET --recipe RECIPE` measures reading alone"
    if rate.copy_seconds is not None and rate.copy_seconds > step:
        return "the copy to the device", "Read less of a sample (a mask that leaves tubes out), and see data.pin_memory"
    if rate.seconds["optimizer"] > OPTIMISER * step:
        return "the optimiser, whose work does not grow with the batch", "Raise data.global_batch_size"
    kind = max(least, key=lambda name: least[name])
    what = f"{_WORDS[kind]}{' in f32' if rate.precision == 'float32' else ''}"
    if rate.copy_seconds is not None and step > LAUNCHES * sum(least.values()):  # a device that a host gives work to
        what = f"the host: the device could be done in {sum(least.values()) / step:.0%} of the time"
        if rate.compiled is not None:
            return what, "Raise data.global_batch_size or train.chunk_size; or set train.compile reduce-overhead"
    return what, _key(rate, kind)


def _key(rate: StepRate, kind: Kind) -> str:
    """What helps against work of a kind."""
    if rate.precision == "float32" and kind != "optimiser":
        return "Set train.precision bf16"
    if kind == "optimiser":
        return "Raise data.global_batch_size"
    if rate.compiled is None:
        return "Set train.compile default"
    return "No key changes that: the step is near what the device can do with this model"


_WORDS: dict[Kind, str] = {
    "products": "matrix products",
    "attention": "attention",
    "between": "reading and writing between matrix products",
    "optimiser": "the optimiser's reading and writing",
}

"""Which frames come out right: every codec, container and decoder. `python -m tests.frame_table` prints the table.

The table of docs/building.md; a test holds that the page says what is found here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.builder import BuildConfig, Item, Source, ViewSpec, build_dataset
from shards.builder.decode.decoders import VideoDecoder
from shards.dataset import ShardDataset
from shards.format.layout import tubes_to_clip
from tests.numbered import CONTAINERS, ENCODINGS, NUM_FRAMES, PECULIAR, RATE, Encoding, number_of, write_numbered

VIEW = ViewSpec(num_frames=8, size=32)
CONFIG = BuildConfig(samples_per_shard=32, workers=2, time_limit_seconds=None)
TICK_SECONDS = 2e-3  # Matroska and FLV round times to a millisecond
Name = tuple[str, str]  # encoding, container


def encodings() -> dict[Name, Encoding]:
    """Every encoding in every container, by name."""
    plain = {(name, container): encoding for name, encoding in ENCODINGS.items() for container in CONTAINERS}
    return plain | {
        (name, container): encoding for name, (encoding, suffixes) in PECULIAR.items() for container in suffixes
    }


def write_all(folder: Path) -> dict[Name, Item]:
    """Write what this PyAV can write; the items that came of it."""
    items = {}
    for (name, container), encoding in encodings().items():
        path = folder / f"{name}.{container}"
        if write_numbered(path, encoding):
            items[name, container] = Item(id=f"{name}_{container}", path=path.name)
    return items


def build_all(folder: Path, items: Mapping[Name, Item], out: Path, decoder: VideoDecoder) -> dict[Name, str]:
    """Build a data set of all videos, and say for each of them "right", "refused" or what is wrong."""
    source = Source(kind="table", root=folder, items=tuple(items.values()))
    build_dataset(source, out, VIEW, replace(CONFIG, decoder=decoder))
    data = ShardDataset.open(out)
    numbers = {data.key(number): number for number in range(len(data))}
    return {
        name: judge(data, numbers[item.key], encodings()[name]) if item.key in numbers else "refused"
        for name, item in items.items()
    }


def judge(data: ShardDataset, number: int, encoding: Encoding) -> str:
    """Compare the frames that a stored clip shows, and their times, with those that the encoder was given."""
    about = data.metadata(number)
    clip = tubes_to_clip(np.asarray(data.read(number, "clip")), VIEW.size // CONFIG.patch)
    seen, indices = [number_of(frame) for frame in clip], VIEW.frame_indices(NUM_FRAMES)
    if not seen == about["frame_indices"] == indices or about["num_source_frames"] != NUM_FRAMES:
        return f"wrong: frames {seen}, said to be {about['frame_indices']} of {about['num_source_frames']}"
    times = [encoding.times[index] / RATE for index in indices]
    if not np.allclose(about["timestamps"], times, rtol=0, atol=TICK_SECONDS):
        return f"wrong: times {about['timestamps']}, given were {times}"
    return "right"


def table(found: Mapping[str, Mapping[Name, str]]) -> str:
    """The results by decoder as Markdown; an empty cell is what cannot be written."""
    lines = [f"| | {' | '.join(CONTAINERS)} |", f"|---|{'---|' * len(CONTAINERS)}"]
    for row in dict.fromkeys(name for name, _ in encodings()):
        cells = [_cell(*(results.get((row, container), "") for results in found.values())) for container in CONTAINERS]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(pyav: str, decord: str) -> str:
    names = {"right right": "both", "right refused": "PyAV", "refused refused": "refused", " ": ""}
    return names.get(f"{pyav} {decord}", f"PyAV {pyav}; decord {decord}")


def find(folder: Path, decoders: Sequence[VideoDecoder]) -> tuple[dict[Name, Item], dict[str, dict[Name, str]]]:
    """Write the videos into `folder`, build them with each decoder, and judge every clip."""
    items = write_all(folder / "videos")
    return items, {name: build_all(folder / "videos", items, folder / name, name) for name in decoders}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.stdout.write(table(find(Path(temporary), ("pyav", "decord"))[1]))

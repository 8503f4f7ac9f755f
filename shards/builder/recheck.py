"""Does a data set hold the frames that it says? Decodes samples again from their videos and compares.

Checksums hold what was written; this holds that the right thing was written. Builders before version 2 read by decord's
random access, which gives other frames than asked for behind open groups of pictures, without an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shards.builder.decode.view import ViewSpec
from shards.builder.failure import BuildFailure
from shards.builder.recheck_frames import compare_clip, compare_frames
from shards.builder.recheck_masks import compare_masked, refuse_folders
from shards.builder.sources.locate import OpenVideo, VideoFinder
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.progress import Progress, untold
from shards.threads import thread_pool

_Compare = Callable[[ShardDataset, int, Mapping[str, Any], OpenVideo, ViewSpec], str | None]

SEED = 0  # of which samples are taken


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What was found.

    Attributes:
        num_checked: samples that were decoded again.
        wrong: a line for each sample that holds other frames than it says.
        changed: a line for each sample whose video is no longer the one it was built from.
        missing: a line for each sample whose video was not found.
        checked_by_decoder: samples that were decoded again, by the decoder that read them for the build.
        wrong_by_decoder: likewise, of those that are wrong.
    """

    num_checked: int
    wrong: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    checked_by_decoder: Mapping[str, int]
    wrong_by_decoder: Mapping[str, int]

    @property
    def is_sound(self) -> bool:
        """Every sample that could be compared is right, and there was one."""
        return self.num_checked > 0 and not self.wrong

    def describe(self) -> str:
        """Return what was found as one line."""
        others = [
            f"{count} {what}"
            for count, what in (
                (len(self.changed), "could not be compared, since their videos have changed"),
                (len(self.missing), "could not be compared, since their videos were not found"),
            )
            if count
        ]
        if not self.num_checked:
            return "; ".join(["no sample was decoded again", *others])
        found = f"{self.num_checked} samples decoded again"
        if not self.wrong:
            return "; ".join([f"{found}: all hold the frames that they say", *others])
        shares = ", ".join(
            f"{self.wrong_by_decoder.get(decoder, 0)} of {count} read by {decoder}"
            for decoder, count in self.checked_by_decoder.items()
        )
        found += f": {len(self.wrong)} do not hold what they say ({shares}); the data set was built wrong"
        cure = "its samples have to be made again: run `reelshard build` into an empty folder"
        return "; ".join([found, cure, *others])


@dataclass(frozen=True)
class _Verdict:
    kind: Literal["right", "wrong", "changed", "missing"]
    decoder: str
    line: str = ""


def check_sources(
    dataset: ShardDataset,
    finder: VideoFinder,
    count: int,
    *,
    threads: int = 4,
    progress: Progress = untold,
) -> SourceReport:
    """Decode `count` samples again, taken at random but the same at each call.

    Args:
        dataset: what was built.
        finder: of the videos that it was built from.
        count: at most all samples.
        threads: videos decoded at the same time.
        progress: called with (samples done, of which wrong) since its last call.

    Raises:
        ShardError: the data set does not say how its clips were cut out of videos, or its bytes are damaged.
    """
    view, compare = recorded_view(dataset), compare_clip if "clip" in dataset.schema else compare_frames
    if "masks" in dataset.schema:
        refuse_folders(dataset)
        compare = compare_masked
    numbers = sorted(np.random.default_rng(SEED).choice(len(dataset), count, replace=False).tolist())
    verdicts: list[_Verdict] = []
    with thread_pool(threads) as pool:
        for verdict in pool.map(lambda number: _check(dataset, number, finder, view, compare), numbers):
            verdicts.append(verdict)
            progress(1, int(verdict.kind == "wrong"))
    checked = [verdict for verdict in verdicts if verdict.kind in ("right", "wrong")]
    return SourceReport(
        num_checked=len(checked),
        wrong=_lines(verdicts, "wrong"),
        changed=_lines(verdicts, "changed"),
        missing=_lines(verdicts, "missing"),
        checked_by_decoder=_count(checked),
        wrong_by_decoder=_count([verdict for verdict in checked if verdict.kind == "wrong"]),
    )


def recorded_view(dataset: ShardDataset) -> ViewSpec:
    """Return the view that a data set was built with.

    Raises:
        ShardError: it does not say, or this version cuts clips in another way.
    """
    spec = dataset.manifest.provenance.get("view")
    kinds = {field.name: field.kind for field in dataset.schema}
    beside = (kinds.get("times"), kinds.get("masks"))
    holds_pictures = kinds.get("clip") == "array" or (
        kinds.get("frames") == "packed" and beside in (("rows", None), (None, "packed"))
    )
    if not isinstance(spec, dict) or not holds_pictures or "json" not in kinds:
        raise ShardError(
            f"{dataset.directory} was not built from videos by `reelshard build`: it has no view, clips or frames or "
            "metadata to compare with its sources"
        )
    return ViewSpec.from_json(spec)


def _lines(verdicts: Sequence[_Verdict], kind: str) -> tuple[str, ...]:
    return tuple(verdict.line for verdict in verdicts if verdict.kind == kind)


def _count(verdicts: Sequence[_Verdict]) -> dict[str, int]:
    return dict(sorted(Counter(verdict.decoder for verdict in verdicts).items()))


def _check(dataset: ShardDataset, number: int, finder: VideoFinder, view: ViewSpec, compare: _Compare) -> _Verdict:
    key, decoder = dataset.key(number), "unknown"
    try:
        about = dataset.metadata(number)
        decoder = str(about.get("decoder", decoder))
        video = finder.find(key, about)
        if video is None:
            return _Verdict("missing", decoder, f"sample {key}: its video was not found")
        if not video.is_same:
            was = f"{about['source_bytes']} bytes, digest {about['source_xxh3_128']}"
            now = f"{video.source.num_bytes} bytes, digest {video.source.xxh3_128}"
            line = f"sample {key}: {video.root / video.path} has changed since the build: it had {was}, has {now}"
            return _Verdict("changed", decoder, line)
        with video.opened() as opened:
            problem = compare(dataset, number, about, opened, view)
    except BuildFailure as failure:
        problem = f"its video is refused today ({failure})"
    except ShardError as error:
        problem = str(error)
    line = "" if problem is None else f"sample {key} (read by {decoder}): {problem}"
    return _Verdict("wrong" if problem else "right", decoder, line)

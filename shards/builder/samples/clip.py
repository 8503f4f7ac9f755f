"""The kind `clip`: frames of one view of a video as u8, and what a teacher makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shards.builder.config import BuildConfig, TeacherFacts
from shards.builder.decode.decoders import VideoDecoder, decode_views, decoder_facts
from shards.builder.decode.stream_facts import read_source_file
from shards.builder.decode.view import ViewSpec, refuse_quality
from shards.builder.decode.zipped import local_file
from shards.builder.item import Item
from shards.builder.samples.base import Array, Prepared, Rows, blame
from shards.format.layout import clip_to_tubes, target_to_tubes
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import Value


@dataclass(frozen=True, kw_only=True)
class ClipKind:
    """Clips of one shape, one or several of a video, with one row a clip for the teacher.

    Attributes:
        view: how a clip is cut out of a video.
        decoder: who reads the video.
        layout: "tubes" (one spatial position over all time is contiguous), or "frames".
        tubelet: frames per tube step; tubes layout only.
        patch: pixels per side of a tube; tubes layout only.
    """

    view: ViewSpec
    decoder: VideoDecoder = "pyav"
    layout: Literal["tubes", "frames"] = "tubes"
    tubelet: int = 2
    patch: int = 16

    @classmethod
    def of(cls, view: ViewSpec, config: BuildConfig) -> ClipKind:
        """Return the kind that a recipe's sections `view` and `build` describe."""
        return cls(view=view, decoder=config.decoder, layout=config.layout, tubelet=config.tubelet, patch=config.patch)

    @property
    def name(self) -> str:
        """What it is called in plans and recipes."""
        return "clip"

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return clip, target and json.

        Raises:
            ValueError: the view does not divide into tubes, or the teacher takes other clips, or its tokens do not lie
                on the same grid.
        """
        refuse_quality(self.view)
        clip, target = self.view.clip_shape, None if teacher is None else teacher.output_shape
        if target is not None and len(target) != 2:
            raise ValueError(f"the teacher gives {target} for a clip; a clip's targets are (tokens, width)")
        if teacher is not None and teacher.input_shape not in (None, clip):
            raise ValueError(
                f"the teacher takes clips of {teacher.input_shape}, the view gives {clip}: give view.num_frames and "
                "view.size the teacher's"
            )
        shape: tuple[int, ...] = clip
        if self.layout == "tubes":
            shape, target = self._tube_shapes(target)
        fields = [Field(name="clip", dtype="|u1", shape=shape, layout=self.layout)]
        if teacher is not None:
            layout: Literal["tubes", "plain"] = "tubes" if self.layout == "tubes" else "plain"
            fields.append(Field(name="target", dtype=teacher.output_dtype, shape=target, layout=layout))
        return Schema((*fields, Field(name="json")))

    def _tube_shapes(self, target: tuple[int, ...] | None) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        view = self.view
        if view.num_frames % self.tubelet or view.size % self.patch:
            raise ValueError(
                f"a clip of {view.num_frames} frames of {view.size} px does not divide into tubelets "
                f"of {self.tubelet} frames and patches of {self.patch} px; change view.num_frames, view.size, "
                "build.tubelet or build.patch"
            )
        times, positions = view.num_frames // self.tubelet, (view.size // self.patch) ** 2
        clip = (positions, times, self.tubelet, self.patch, self.patch, 3)
        if target is None:
            return clip, None
        num_tokens, width = target
        if num_tokens != times * positions:
            raise ValueError(
                f"the teacher gives {num_tokens} tokens, the clip has {times} x {positions} tubelets; the tubes layout "
                "needs the same grid: give build.tubelet and build.patch the teacher's, or choose layout 'frames'"
            )
        return clip, (positions, times, width)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return view and decoder; layout, tubelet and patch stand in the schema.

        Raises:
            ValueError: the decoder is not installed.
        """
        return {"view": self.view.to_json() | {"hash": self.view.hash}, "decoder": decoder_facts(self.decoder)}

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Decode all views of one video.

        Raises:
            BuildFailure: with the reason, when the file cannot give this view.
        """
        with local_file(root, item.path) as path:
            source = read_source_file(path)
            with blame(source):
                clips = decode_views(path, source, self.view, self.decoder)
        facts = {
            "frame_indices": [clip.frame_indices for clip in clips],
            "timestamps": [clip.timestamps_seconds for clip in clips],
            "num_source_frames": clips[0].num_source_frames,
            "decoder": clips[0].decoder,
        }
        frames = clips[0].frames[None] if len(clips) == 1 else np.stack([clip.frames for clip in clips])
        return Prepared(arrays={"clips": frames}, facts=facts, source=source)

    def teacher_rows(self, prepared: Prepared) -> Rows:
        """Return a row for each view, u8 [V, T, H, W, 3]."""
        rows: Array = prepared.arrays["clips"]
        return rows

    @property
    def samples_per_item(self) -> int:
        """Views of a video."""
        return self.view.num_views

    def sample_key(self, item: Item, number: int) -> str:
        """Return the key of a view: that of the item, with the view's number where there are several."""
        return item.key if self.samples_per_item == 1 else f"{item.key}__v{number:02}"

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return the sample of the first view."""
        return self._finish(item, prepared, rows, 0)

    def finish_each(self, item: Item, prepared: Prepared, rows: Array | None) -> Iterator[Mapping[str, Value]]:
        """Yield the sample of each view: clip and target in their layout, and what it shows and where it came from."""
        for number in range(self.samples_per_item):
            yield self._finish(item, prepared, rows, number)

    def _finish(self, item: Item, prepared: Prepared, rows: Array | None, number: int) -> Mapping[str, Value]:
        clip, facts = prepared.arrays["clips"][number], dict(prepared.facts)
        facts |= {name: facts[name][number] for name in ("frame_indices", "timestamps")}
        if self.samples_per_item > 1:
            facts["view_index"] = number
        shown = replace(prepared, facts=facts)
        sample: dict[str, Value] = {"clip": clip, "json": canonical_json(about(item, shown, self.view))}
        if self.layout == "tubes":
            sample["clip"] = clip_to_tubes(clip, self.tubelet, self.patch)
        if rows is not None:
            times = self.view.num_frames // self.tubelet
            sample["target"] = target_to_tubes(rows[number], times) if self.layout == "tubes" else rows[number]
        return sample


def about(item: Item, prepared: Prepared, view: ViewSpec) -> dict[str, Any]:
    """Return the JSON of a sample that was cut out of a video; captions, where the item has a list, beside `text`."""
    source, extra = prepared.source, dict(item.extra)
    assert source is not None
    captions = {"captions": extra.pop("captions")} if "captions" in extra else {}
    return {
        "video_id": item.id,
        "path": item.path,
        "label": item.label,
        "label_name": item.label_name,
        "text": item.text,
        **captions,
        **prepared.facts,
        "view_hash": view.hash,
        "source_bytes": source.num_bytes,
        "source_xxh3_128": source.xxh3_128,
        **({"extra": extra} if extra else {}),
    }

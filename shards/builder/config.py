"""How shards are built, and what a teacher is to the builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from shards.builder.decode.decoders import VideoDecoder
from shards.cores import usable_cores


class TeacherFacts(Protocol):
    """What the plan needs to know of a teacher."""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one row that it takes; None where it takes text."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what it gives for one row, of any rank: (N, D) for a clip's tokens, token i being t * S + s."""

    @property
    def output_dtype(self) -> str:
        """What it gives: "<f2" or "<f4"."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """All that decides the bits: id, revision or weight digest, projection digest, precision, device type."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What the data set must keep beside its shards, by file name: the projection."""


class Teacher(TeacherFacts, Protocol):
    """A frozen model that turns rows into targets. The builder knows no more of it than this."""

    def __call__(self, rows: Any, /) -> NDArray[np.floating[Any]]:
        """Turn rows [n, *input_shape], or n texts as a list, into [n, *output_shape].

        A value beyond the range of its dtype is an infinity, which the builder refuses.
        """


@dataclass(frozen=True, kw_only=True)
class TeacherDescription:
    """The facts about a teacher that is in another process, or that made the targets of an earlier run."""

    output_shape: tuple[int, ...]
    provenance: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    output_dtype: str = "<f2"

    @classmethod
    def of(cls, teacher: TeacherFacts) -> TeacherDescription:
        """Return what a teacher says about itself."""
        return cls(
            output_shape=teacher.output_shape,
            provenance=dict(teacher.provenance),
            files=dict(teacher.files),
            input_shape=teacher.input_shape,
            output_dtype=teacher.output_dtype,
        )


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How a data set is cut into shards and made; `layout`, `tubelet` and `patch` are for samples that are clips.

    Attributes:
        samples_per_shard: planned samples in a shard; failed ones are missing from it.
        layout: "tubes" for masked training (one spatial position over all time is contiguous), or "frames".
        tubelet: frames per tube step; tubes layout only.
        patch: pixels per side of a tube; tubes layout only.
        seed: of the order in which items are cut into shards.
        workers: decoders at work at once; None takes one for each CPU this process may use.
        teacher_batch: rows in one call of the teacher, a clip being one; it shapes the bits of the targets.
        codec: field -> how it is stored in fewer bytes, such as `{clip: yuv420, target: int8}`; None stores all as it
            is. Of one sample in eight of a shard is measured and said how near it comes.
        decoder: "pyav"; "decord", for which videos that it would not read exactly fail as `not_exact`; or "auto", which
            is PyAV.
        max_failures: stop when more items have failed: a count from 1 on, or a share of all items below 1; None never
            stops.
        time_limit_seconds: a decoder that takes longer for one video is stopped and the video recorded as `timeout`;
            decoders are processes of their own then, and one that crashes costs one video. None decodes in threads of
            the builder, which a decoder that hangs or crashes takes with it.

    Raises:
        ValueError: a value is out of range.
    """

    samples_per_shard: int = 256
    layout: Literal["tubes", "frames"] = "tubes"
    tubelet: int = 2
    patch: int = 16
    seed: int = 0
    workers: int | None = None
    teacher_batch: int = 16
    codec: Mapping[str, str] | None = None
    decoder: VideoDecoder = "pyav"
    max_failures: float | None = None
    time_limit_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("samples_per_shard", "tubelet", "patch", "teacher_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"build.{name} is {getattr(self, name)}; it must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"build.workers is {self.workers}; give at least 1, or leave it out for one per CPU")
        if self.layout not in ("tubes", "frames"):
            raise ValueError(f"build.layout is {self.layout!r}; choose 'tubes' or 'frames'")
        if self.decoder not in get_args(VideoDecoder):
            raise ValueError(f"build.decoder is {self.decoder!r}; choose {', '.join(get_args(VideoDecoder))}")
        if self.max_failures is not None and self.max_failures < 0:
            raise ValueError(f"build.max_failures is {self.max_failures}; give a count or a share of at least 0")
        if self.time_limit_seconds is not None and self.time_limit_seconds <= 0:
            raise ValueError(
                f"build.time_limit_seconds is {self.time_limit_seconds}; give more than 0, or null for none"
            )

    @property
    def num_workers(self) -> int:
        """Decoders to start."""
        return self.workers or usable_cores()

    def allowed_failures(self, num_items: int) -> int:
        """Return how many of `num_items` may fail before the build stops."""
        if self.max_failures is None:
            return num_items
        return int(self.max_failures * num_items) if self.max_failures < 1 else int(self.max_failures)

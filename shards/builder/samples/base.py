"""What an item becomes: one kind of sample. The builder asks the kind, and knows nothing of clips or captions."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shards.builder.config import TeacherFacts
from shards.builder.decode.stream_facts import SourceFile
from shards.builder.failure import BuildFailure
from shards.builder.item import Item
from shards.format.schema import Schema
from shards.writer import Value

Array = NDArray[Any]
Rows = Array | list[str]  # what a teacher takes: [n, *input_shape], or n texts

_BYTES_IN_PLACE = 5  # the pickle protocol from which on buffers travel apart from what describes them


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a decoder made of an item. It crosses from the decoder's process without a copy through the pipe.

    Attributes:
        arrays: by a name of the kind's own.
        blobs: bytes, or lists of them, by a name of the kind's own.
        facts: anything small that pickles.
        source: the file that it was made from; goes into the record if the teacher fails on it.
    """

    arrays: Mapping[str, Array] = field(default_factory=dict)
    blobs: Mapping[str, bytes | Sequence[bytes]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: SourceFile | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of arrays and blobs."""
        blobs = (piece for blob in self.blobs.values() for piece in ([blob] if isinstance(blob, bytes) else blob))
        return sum(array.nbytes for array in self.arrays.values()) + sum(map(len, blobs))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        def apart(piece: bytes) -> Any:
            return pickle.PickleBuffer(piece) if int(protocol) >= _BYTES_IN_PLACE else piece

        arrays = {name: np.require(array, requirements="C") for name, array in self.arrays.items()}
        blobs = {
            name: apart(blob) if isinstance(blob, bytes) else [apart(piece) for piece in blob]
            for name, blob in self.blobs.items()
        }
        return _restore, (arrays, blobs, dict(self.facts), self.source)


def _restore(
    arrays: dict[str, Array], blobs: dict[str, Any], facts: dict[str, Any], source: SourceFile | None
) -> Prepared:
    whole = {
        name: [bytes(piece) for piece in blob] if isinstance(blob, list) else bytes(blob)
        for name, blob in blobs.items()
    }
    return Prepared(arrays=arrays, blobs=whole, facts=facts, source=source)


class SampleKind(Protocol):
    """One kind of sample, such as a clip with its targets. A frozen dataclass, because it goes to other processes."""

    @property
    def name(self) -> str:
        """What it is called in plans and recipes."""

    def schema(self, teacher: TeacherFacts | None) -> Schema:
        """Return the fields of a sample.

        Args:
            teacher: what is known of it; None for samples without targets.

        Raises:
            ValueError: it does not fit this kind.
        """

    def fingerprint(self) -> Mapping[str, Any]:
        """Return all that shapes the bytes besides items, schema and teacher, as JSON.

        A view and a decoder stand under these names, `view` with its hash. Everything else stands under `sample`, with
        the kind's name as `kind`. It is kept in plan.json, and compared before a build goes on.

        Raises:
            ValueError: this machine cannot make such samples.
        """

    def prepare(self, root: Path, item: Item) -> Prepared:
        """Decode one item. Runs in a decoder's process, which a time limit may end at any time.

        Args:
            root: the folder that the items' paths are relative to.
            item: what is planned.

        Raises:
            BuildFailure: with the reason, when it cannot become a sample.
        """

    def teacher_rows(self, prepared: Prepared) -> Rows | None:
        """Return what the teacher sees of a sample.

        For no rows, as for None, the teacher is not asked; `finish` then gets an empty array, or None.
        """

    def finish(self, item: Item, prepared: Prepared, rows: Array | None) -> Mapping[str, Value]:
        """Return the fields of a sample. Runs in the thread that writes the shard.

        Args:
            item: what was planned.
            prepared: what `prepare` returned.
            rows: what the teacher gave for the sample's rows, [n, *output_shape]; None without a teacher, or where
                `teacher_rows` returned None.
        """


@runtime_checkable
class SeveralKind(SampleKind, Protocol):
    """A kind that makes as many samples of each item; one that fails, fails once with all of them."""

    @property
    def samples_per_item(self) -> int:
        """How many."""

    def sample_key(self, item: Item, number: int) -> str:
        """Return the key of one of them, which no other item's has."""

    def finish_each(self, item: Item, prepared: Prepared, rows: Array | None) -> Iterator[Mapping[str, Value]]:
        """Yield the fields of each, as `finish` returns those of one sample."""


@runtime_checkable
class GroupKind(SampleKind, Protocol):
    """A kind of sample for a further field group, which has a sample for each of the main series, whatever fails."""

    def substitute(self, item: Item) -> Mapping[str, Value] | None:
        """Return what stands where an item failed; None where nothing may, and a failure stops the build."""


def samples_per_item(kind: SampleKind) -> int:
    """How many samples a kind makes of an item."""
    return kind.samples_per_item if isinstance(kind, SeveralKind) else 1


def items_per_shard(kind: SampleKind, samples_per_shard: int) -> int:
    """How many items a shard of so many samples takes, one at least: all samples of an item are in one shard."""
    return max(1, samples_per_shard // samples_per_item(kind))


def sample_keys(kind: SampleKind, item: Item) -> list[str]:
    """Return the keys of an item's samples."""
    if isinstance(kind, SeveralKind):
        return [kind.sample_key(item, number) for number in range(kind.samples_per_item)]
    return [item.key]


def finish_all(
    kind: SampleKind, item: Item, prepared: Prepared, rows: Array | None
) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Yield key and fields of each of an item's samples."""
    if isinstance(kind, SeveralKind):
        yield from zip(sample_keys(kind, item), kind.finish_each(item, prepared, rows), strict=True)
    else:
        yield item.key, kind.finish(item, prepared, rows)


@contextmanager
def blame(source: SourceFile) -> Iterator[None]:
    """Record what goes wrong inside the block as a failure of this file.

    Raises:
        BuildFailure: also for errors that no decoder has been seen to raise yet.
    """
    try:
        yield
    except BuildFailure as failure:
        failure.source = source
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise unforeseen(error, source) from error


def unforeseen(error: Exception, source: SourceFile | None = None) -> BuildFailure:
    """Return the failure that stands for an error which nobody has met yet."""
    return BuildFailure("decode_error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", source)

"""Which samples of a data set are taken: by label, by a list of keys, or drawn at random. Their order stays."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from shards.dataset import ShardDataset
from shards.exchange.names import some
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.parse import spell


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is asked for; all of a set where nothing is.

    Attributes:
        labels: names or numbers of classes.
        keys: a file with a key on each line.
        sample: how many samples are drawn of those that labels or keys have left.
        seed: of the drawing.
    """

    labels: tuple[str, ...] = ()
    keys: Path | None = None
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels and self.keys is not None:
            raise ValueError("samples are chosen by label or by a list of keys: give one of them")
        if self.sample is not None and self.sample < 1:
            raise ValueError(f"{self.sample} samples are none: draw at least 1")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"the seed is {self.seed}; it has to be from 0 to 2^64 - 1")

    def numbers(self, dataset: ShardDataset) -> list[int]:
        """Numbers of the samples that are taken, rising.

        Raises:
            ValueError: there is no such class, or fewer samples than are to be drawn.
            ShardError: a key is of no sample, or samples have no labels.
            MissingDataError: there is no list of keys.
        """
        numbers = list(range(len(dataset)))
        if self.labels:
            numbers = _of_labels(dataset, self.labels)
        if self.keys is not None:
            numbers = _of_keys(dataset, self.keys)
        if self.sample is not None:
            numbers = draw(dataset, numbers, self.sample, self.seed)
        return numbers

    def to_json(self) -> dict[str, Any]:
        """What a provenance says of it."""
        said: dict[str, Any] = {}
        if self.labels:
            said["labels"] = list(self.labels)
        if self.keys is not None:
            said["keys_sha256"] = hashlib.sha256(read_small(self.keys)).hexdigest()
        if self.sample is not None:
            said |= {"sample": self.sample, "seed": self.seed}
        return said


def draw(dataset: ShardDataset, numbers: Sequence[int], count: int, seed: int) -> list[int]:
    """Draw `count` of `numbers`: those whose keys have the least xxh3-64 with this seed.

    So a sample's luck is its own: it does not depend on the others, their order or any library's random numbers.

    Raises:
        ValueError: there are not as many.
    """
    if count > len(numbers):
        raise ValueError(f"{count} samples are to be drawn, there are {len(numbers)}")
    ranked = sorted(
        numbers, key=lambda number: (xxhash.xxh3_64_intdigest(dataset.key(number).encode(), seed=seed), number)
    )
    return sorted(ranked[:count])


def label_of(about: dict[str, Any]) -> int | None:
    """The class number in a sample's JSON; None where it has none.

    Raises:
        ValueError: it is something else.
    """
    label = about.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int)):
        raise ValueError(f"its label is {spell(label)}; a whole number or null is allowed")
    return label


def _of_labels(dataset: ShardDataset, labels: Sequence[str]) -> list[int]:
    names = dataset.manifest.label_names
    if "json" not in dataset.schema:
        raise ShardError(f"{dataset.directory} has no JSON members, which say the labels; choose by a list of keys")
    wanted: set[int] = set()
    for label in labels:
        if label in names:
            wanted |= {number for number, name in enumerate(names) if name == label}
        elif label.isdecimal() and (not names or int(label) < len(names)):
            wanted.add(int(label))
        else:
            known = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"{label!r} is no class of {dataset.directory}; there are {known or 'numbers alone'}")
    numbers = []
    found: Counter[int] = Counter()
    for number in range(len(dataset)):
        try:
            label_number = label_of(dataset.metadata(number))
        except ValueError as error:
            raise ShardError(f"sample {dataset.key(number)}: {error}") from None
        if label_number in wanted:
            numbers.append(number)
            found[label_number] += 1
    if absent := sorted(wanted - found.keys()):
        spelled = ", ".join(repr(names[number]) if number < len(names) else str(number) for number in absent)
        raise ShardError(f"no sample of {dataset.directory} is of the class {spelled}")
    return numbers


def _of_keys(dataset: ShardDataset, path: Path) -> list[int]:
    try:
        lines = read_small(path).decode().splitlines()
    except FileNotFoundError:
        raise MissingDataError(f"there is no list of keys at {path}; it has a key on each line") from None
    except UnicodeDecodeError:
        raise ShardError(f"{path} is no list of keys: it is not UTF-8") from None
    wanted = dict.fromkeys(line.strip() for line in lines if line.strip())
    if not wanted:
        raise ShardError(f"{path} names no sample; give a key on each line")
    keys = [key for shard in range(dataset.num_shards) for key in dataset.index(shard).keys]
    if absent := wanted.keys() - set(keys):
        unknown = some([key for key in wanted if key in absent], "key")
        raise ShardError(f"{path} names {unknown} of no sample in {dataset.directory}; keys look like {keys[0]!r}")
    return [number for number, key in enumerate(keys) if key in wanted]

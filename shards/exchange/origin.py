"""`lineage.json`: what a data set that is made of other samples is to become, and where they come from.

Published before the first shard. A run goes on only with the same origin, and a lost manifest is made again from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.builder.plan import differences
from shards.format.beside import ORIGIN_NAME
from shards.format.errors import MissingDataError, ShardError
from shards.format.files import read_small
from shards.format.index import ShardInfo
from shards.format.manifest import Manifest
from shards.format.parse import check_name, count, entry, hex_digest, mapping, parse_json, sequence, text
from shards.format.publish import canonical_json, publish_json
from shards.format.schema import Field, Schema


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All of a manifest that is known before the first shard is written.

    Attributes:
        split: the split's name.
        schema: the fields, those of further series included.
        label_names: name of each class.
        provenance: of the manifest to be; its `history` says what was done, oldest first.
        samples: of each shard, in order; the same for every series.
        keys: xxh3-128 (hex) of all keys in order, joined by newlines.
        failures: number of samples that could not be built, by reason.
    """

    split: str
    schema: Schema
    label_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[int, ...]
    keys: str
    failures: Mapping[str, int] = field(default_factory=dict)

    def manifest(self, series: Mapping[str, Sequence[ShardInfo]]) -> Manifest:
        """The manifest of the finished set; `series` are its shards by group, "" the main series."""
        return Manifest(
            split=self.split,
            schema=self.schema,
            shards=tuple(series[""]),
            groups={group: tuple(series[group]) for group in self.schema.groups if group},
            label_names=self.label_names,
            provenance=self.provenance,
            failures=self.failures,
        )

    def to_json(self) -> dict[str, Any]:
        """The origin as it stands in the file."""
        return {
            "split": self.split,
            "schema": [one.to_json() for one in self.schema],
            "label_names": list(self.label_names),
            "provenance": dict(self.provenance),
            "samples": list(self.samples),
            "keys": self.keys,
            "failures": dict(self.failures),
        }

    def publish(self, directory: Path) -> None:
        """Write it down, or compare it with what was begun.

        Raises:
            ShardError: something else was begun there.
        """
        wanted = json.loads(canonical_json(self.to_json()))
        try:
            found = Origin.read(directory).to_json()
        except MissingDataError:
            publish_json(directory / ORIGIN_NAME, wanted)
            return
        if changed := list(differences(json.loads(canonical_json(found)), wanted)):
            raise ShardError(
                f"{directory} was begun with other samples or settings: {'; '.join(changed[:3])}; go back to those, or "
                "give an empty folder"
            )

    @classmethod
    def read(cls, directory: Path) -> Origin:
        """Read `lineage.json`.

        Raises:
            MissingDataError: there is none.
            ShardError: it is damaged.
        """
        path = directory / ORIGIN_NAME
        try:
            record = mapping(parse_json(read_small(path)), "an origin")
            values = {name: entry(record, name, "an origin") for name in cls.__annotations__}
            return cls(
                split=check_name(values["split"], "the split's name"),
                schema=Schema(tuple(Field.from_json(one) for one in sequence(values["schema"], "the schema"))),
                label_names=tuple(
                    text(n, "a label's name") for n in sequence(values["label_names"], "the label names")
                ),
                provenance=mapping(values["provenance"], "the provenance"),
                samples=tuple(count(n, "the samples of a shard") for n in sequence(values["samples"], "the samples")),
                keys=hex_digest(values["keys"], "the digest of the keys", 32),
                failures={
                    reason: count(number, "a number of failures")
                    for reason, number in mapping(values["failures"], "the failures").items()
                },
            )
        except FileNotFoundError:
            raise MissingDataError(f"there is no {path}") from None
        except ValueError as error:
            raise ShardError(f"{path} is damaged ({error}); restore it, or delete it") from None


def problems_of_origin(manifest: Manifest, directory: Path) -> Iterator[str]:
    """Yield in what `lineage.json` and the manifest differ, one line each; field groups may come and go."""
    try:
        origin = Origin.read(directory)
    except MissingDataError:
        return
    except ShardError as error:
        yield str(error)
        return
    compared = {
        "split": (origin.split, manifest.split),
        "schema": (list(origin.schema.of_group("")), list(manifest.schema.of_group(""))),
        "label_names": (origin.label_names, manifest.label_names),
        "provenance": tuple({k: v for k, v in one.provenance.items() if k != "groups"} for one in (origin, manifest)),
        "samples": (origin.samples, tuple(info.num_samples for info in manifest.shards)),
    }
    for name, (planned, found) in compared.items():
        if planned != found:
            yield f"{directory / ORIGIN_NAME}: it is not the origin of this data set: {name} differs from the manifest"

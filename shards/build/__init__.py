"""Videos to shards. `build_dataset` is the whole of it; docs/building.md tells how to use it."""

from shards.build.build import BuildSummary, build_dataset
from shards.build.config import BuildConfig, Teacher
from shards.build.decode import DecodedClip, decode_clip
from shards.build.failure import REASONS, BuildFailure, FailureRecord
from shards.build.item import Item, Source
from shards.build.sources import load_folder, load_ssv2, load_table, open_source
from shards.build.view import ViewSpec

__all__ = [
    "REASONS",
    "BuildConfig",
    "BuildFailure",
    "BuildSummary",
    "DecodedClip",
    "FailureRecord",
    "Item",
    "Source",
    "Teacher",
    "ViewSpec",
    "build_dataset",
    "decode_clip",
    "load_folder",
    "load_ssv2",
    "load_table",
    "open_source",
]

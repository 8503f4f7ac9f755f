"""Videos to shards. `build_dataset` is the whole of it; docs/building.md tells how to use it."""

from shards.build.build import BuildSummary, build_dataset, finalize_dataset
from shards.build.config import BuildConfig, Teacher, TeacherDescription
from shards.build.decode import DecodedClip, decode_clip
from shards.build.engine import Engine, InProcess
from shards.build.failure import REASONS, BuildFailure, FailureRecord
from shards.build.item import Item, Source
from shards.build.partition import Partition
from shards.build.processes import ProcessPool
from shards.build.sources import load_folder, load_ssv2, load_table, open_source
from shards.build.view import ViewSpec

__all__ = [
    "REASONS",
    "BuildConfig",
    "BuildFailure",
    "BuildSummary",
    "DecodedClip",
    "Engine",
    "FailureRecord",
    "InProcess",
    "Item",
    "Partition",
    "ProcessPool",
    "Source",
    "Teacher",
    "TeacherDescription",
    "ViewSpec",
    "build_dataset",
    "decode_clip",
    "finalize_dataset",
    "load_folder",
    "load_ssv2",
    "load_table",
    "open_source",
]

"""Videos to shards. `build_dataset` is the whole of it; docs/building.md tells how to use it."""

from shards.builder.build import BuildSummary, build_dataset, finalize_dataset
from shards.builder.config import BuildConfig, Teacher, TeacherDescription
from shards.builder.decode.decoders import DecodedClip, decode_clip
from shards.builder.decode.view import ViewSpec
from shards.builder.engines.base import Engine
from shards.builder.engines.in_process import InProcess
from shards.builder.engines.processes import ProcessPool
from shards.builder.failure import REASONS, BuildFailure, FailureRecord
from shards.builder.item import Item, Source
from shards.builder.partition import Partition
from shards.builder.samples.base import Prepared, SampleKind
from shards.builder.samples.chat import ChatConfig, ChatKind
from shards.builder.samples.clip import ClipKind
from shards.builder.samples.frames import FramesKind
from shards.builder.samples.sav import SavKind
from shards.builder.sources import (
    load_chats,
    load_folder,
    load_msrvtt,
    load_msvd,
    load_sav,
    load_ssv2,
    load_table,
    load_ucf101,
    open_source,
)

__all__ = [
    "REASONS",
    "BuildConfig",
    "BuildFailure",
    "BuildSummary",
    "ChatConfig",
    "ChatKind",
    "ClipKind",
    "DecodedClip",
    "Engine",
    "FailureRecord",
    "FramesKind",
    "InProcess",
    "Item",
    "Partition",
    "Prepared",
    "ProcessPool",
    "SampleKind",
    "SavKind",
    "Source",
    "Teacher",
    "TeacherDescription",
    "ViewSpec",
    "build_dataset",
    "decode_clip",
    "finalize_dataset",
    "load_chats",
    "load_folder",
    "load_msrvtt",
    "load_msvd",
    "load_sav",
    "load_ssv2",
    "load_table",
    "load_ucf101",
    "open_source",
]

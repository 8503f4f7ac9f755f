"""Which reader suits a data set here and now: looked up and measured briefly, and said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import psutil

from pipeline.read.gather import COMPILED, NO_LIBRARY
from pipeline.read.readers import ReaderName, open_for_reading
from shards.dataset import ShardDataset
from shards.format.errors import MissingDataError
from shards.words import spell_bytes

NUM_PROBES = 32
MOSTLY_RESIDENT = 0.8
REMOTE_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "ceph", "gpfs", "beegfs", "9p", "fuse", "afs", "glusterfs")


def choose_reader(dataset: ShardDataset) -> tuple[ReaderName, str]:
    """A reader for `dataset`, and why.

    mmap where nearly all of a sample of pages is in the page cache (asked of the kernel without reading any) and the
    copy out of mappings was compiled; pread where they will be after one pass, and on network file systems, where a
    mapping asks for page after page; O_DIRECT where the data set does not fit into memory.

    Shards that are not there are passed over: what becomes of their samples is decided where they are read.
    """
    kind = file_system(dataset.directory)
    if dataset.mirror is not None and COMPILED and not kind.startswith(REMOTE_FILE_SYSTEMS):
        size = min(dataset.manifest.num_bytes, dataset.mirror.cache.quota)
        if size < available_memory_bytes():
            return "mmap", f"{spell_bytes(size)} of a data set elsewhere fit into the cache and into memory"
    if kind.startswith(REMOTE_FILE_SYSTEMS):
        return "pread", f"the file system is {kind}, which is not local"
    resident = resident_share(dataset)
    if resident >= MOSTLY_RESIDENT:
        reason = f"{resident:.0%} of the pages looked at are in the page cache"
        return ("mmap", reason) if COMPILED else ("pread", f"{reason}, but {NO_LIBRARY}")
    available, size = available_memory_bytes(), dataset.manifest.num_bytes
    where = f"{resident:.0%} of the pages looked at are in the page cache, "
    sizes = f"{spell_bytes(size)} of data, {spell_bytes(available)} of memory available"
    if size < available:
        return "pread", f"{where}but all will fit: {sizes}"
    if not any(supports_direct(dataset.tar_path(shard)) for shard in _spread(dataset)):
        return "pread", f"{where}{sizes}, and the file system {kind} has no O_DIRECT"
    return "direct", f"{where}{sizes}"


def resident_share(dataset: ShardDataset) -> float:
    """Share of some pages, spread over the data set, that the page cache holds; nothing is read from storage."""
    buffer = bytearray(1)
    resident, looked_at = 0, 0
    for probe, shard in enumerate(_spread(dataset)):
        size = dataset.manifest.shards[shard].num_bytes
        try:
            descriptor = open_for_reading(dataset.tar_path(shard))
        except (MissingDataError, OSError):
            continue
        looked_at += 1
        try:
            resident += os.preadv(descriptor, [buffer], size * (2 * probe + 1) // (2 * NUM_PROBES), os.RWF_NOWAIT)
        except OSError:  # not in the cache, or a kernel or file system that cannot say
            pass
        finally:
            os.close(descriptor)
    return resident / max(looked_at, 1)


def _spread(dataset: ShardDataset) -> list[int]:
    """Some shards, spread over the data set."""
    return [int(shard) for shard in np.linspace(0, dataset.num_shards - 1, NUM_PROBES)]


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`, such as "ext4"; "unknown" where the kernel does not say."""
    target = path.resolve()
    try:
        mounts = psutil.disk_partitions(all=True)
    except OSError:
        return "unknown"
    holding = [mount for mount in mounts if target.is_relative_to(mount.mountpoint)]
    innermost = max(reversed(holding), key=lambda mount: len(mount.mountpoint), default=None)  # mounted last, of equals
    return "unknown" if innermost is None else innermost.fstype


def available_memory_bytes() -> int:
    """Memory that can be had without swapping, page cache included; bytes."""
    return int(psutil.virtual_memory().available)


def supports_direct(path: Path) -> bool:
    """Whether `path` can be opened with O_DIRECT."""
    try:
        os.close(open_for_reading(path, os.O_DIRECT))
    except (ValueError, OSError, MissingDataError):
        return False
    return True

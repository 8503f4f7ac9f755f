"""Compiles the copy out of mapped files at installation; without a C compiler files are read, not mapped."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("pipeline/read/gather.c", "pipeline/read/guard.c", "pipeline/read/decode.c")
LIBRARY = "pipeline/read/_gather.so"
FLAGS = ("-std=c11", "-O3", "-pthread", "-fvisibility=hidden", "-shared", "-fPIC")


class CompileGather(BuildHookInterface):
    """Puts the compiled library beside its source, and into a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; say so where that fails, and go on without."""
        root = Path(self.root)
        unfinished = root / f"{LIBRARY}.tmp"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, *FLAGS, "-o", str(unfinished), *(str(root / source) for source in SOURCES)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip()
            self.app.display_warning(f"{SOURCES[0]} was not compiled, the loader will not map files: {reason}")
            (root / LIBRARY).unlink(missing_ok=True)
            return
        unfinished.replace(root / LIBRARY)
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

"""Compiles what is in C at installation; without a C compiler files are read, not mapped, and masks cost more."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = {
    "pipeline/read/_gather.so": ("pipeline/read/gather.c", "pipeline/read/guard.c"),
    "pipeline/order/_choose.so": ("pipeline/order/choose.c",),
}
FLAGS = ("-std=c11", "-O3", "-pthread", "-fvisibility=hidden", "-shared", "-fPIC")


class CompileLibraries(BuildHookInterface):
    """Puts the compiled libraries beside their sources, and into a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; say so where that fails, and go on without."""
        for library, sources in LIBRARIES.items():
            if self._compile(library, sources):
                build_data["artifacts"].append(library)
                build_data["pure_python"] = False
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["tag"] = f"py3-none-{platform}"

    def _compile(self, library: str, sources: tuple[str, ...]) -> bool:
        root = Path(self.root)
        unfinished = root / f"{library}.tmp"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, *FLAGS, "-o", str(unfinished), *(str(root / source) for source in sources)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip()
            self.app.display_warning(f"{sources[0]} was not compiled, the loader does without: {reason}")
            (root / library).unlink(missing_ok=True)
            return False
        unfinished.replace(root / library)
        return True

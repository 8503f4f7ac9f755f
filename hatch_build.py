"""Compiles pipeline/gather.c when the package is installed; without a C compiler the loader copies with numpy."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, LIBRARY = "pipeline/gather.c", "pipeline/_gather.so"


class CompileGather(BuildHookInterface):
    """Puts the compiled library beside its source, and into a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; say so where that fails, and go on without."""
        root = Path(self.root)
        unfinished = root / f"{LIBRARY}.tmp"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = ["-std=c11", "-O3", "-shared", "-fPIC", "-o", str(unfinished), str(root / SOURCE)]
        try:
            subprocess.run([*compiler, *flags], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip()
            self.app.display_warning(f"{SOURCE} was not compiled, the loader will copy with numpy: {reason}")
            (root / LIBRARY).unlink(missing_ok=True)
            return
        unfinished.replace(root / LIBRARY)
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
